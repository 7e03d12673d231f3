// Bits, one for each logit: the draw by the sampling contract, and probabilities, in one pass.
//
// Nothing is checked here: an infinite logit is a certain bit; what no bit can be drawn of has bit 0 and probability
// NaN, and disturbs no other element.
#include "cuda/bernoulli.cuh"

namespace reinmax_kernels::cuda {

// NaN gives 0.
__device__ __forceinline__ bool draw_bit(float x, float half_weight_of_unlikely, uint64_t uniform) {
  constexpr uint64_t kLikely = uint64_t{1} << contract::kWeightBits;
  const uint64_t unlikely = integer_weight(half_weight_of_unlikely);
  return contract::multiply_high(uniform, unlikely + kLikely) < (x >= 0 ? kLikely : unlikely);
}

// sigmoid(x), of the logit or, in float32, of the draw's weights.
__device__ __forceinline__ double probability_of_one(double x, float) { return Odds<double>(x).probability(x); }
__device__ __forceinline__ float probability_of_one(float x, float half_weight_of_unlikely) {
  constexpr float kLikely = float(uint64_t{1} << kHalfBits);
  const float scale = approximate_reciprocal(half_weight_of_unlikely + kLikely);
  return (x > 0 ? kLikely : half_weight_of_unlikely) * scale;
}

template <class T>
__global__ void __launch_bounds__(kBitThreads, kResidentThreads / kBitThreads)
    bernoulli_kernel(const BernoulliArguments arguments) {
  using Real = Computed<T>;
  constexpr int kWidth = kWidest<T>;
  const BitsOfThread<T> share(arguments);
  if (share.here <= 0) return;
  const auto x = share.load_logits();
  const auto u = uniforms_of_bits<kWidth>(arguments.noise, share.first, share.here);
  Pack<Real, kWidth> bits, probs;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    const float value = draw_value(x[e]), w = half_weight(-fabsf(value), 0);
    bits[e] = draw_bit(value, w, u[e]) ? 1 : 0;
    probs[e] = is_invalid(x[e]) ? Real(__int_as_float(0x7FFFFFFF)) : probability_of_one(x[e], w);
  }
  share.store(arguments.bits, bits);
  share.store(arguments.probs, probs);
}

void bernoulli(const BernoulliArguments& arguments, Stream stream) {
  dispatch(arguments.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(bernoulli_kernel<T>, grid_of_bits<T>(arguments), kBitThreads, 0, stream, arguments);
  });
}

}  // namespace reinmax_kernels::cuda
