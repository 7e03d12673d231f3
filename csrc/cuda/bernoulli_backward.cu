// The estimators of bits, backward, in one pass: a slope times the gradient of the bits, and P (1 - P) h, with P =
// sigmoid(x) and h the gradient of the probabilities. The slopes are those of the estimators of categorical choices for
// the two categories (x, 0). What no bit can be drawn of has gradient NaN.
#include "cuda/bernoulli.cuh"

namespace reinmax_kernels::cuda {

// What a slope sees of a bit. `other`: the log-odds of the value that was not drawn.
template <class Real>
struct BitPoint {
  Real x, other;
  Odds<Real> odds;
};

// o / 2, the probability of the other bit; at any tau (o (2 - o) - P (1 - P)) / 2, o that at tau: of a small one the
// digits of 1 - (1 - o)^2 are kept.
template <class Real, bool kTempered>
struct ReinMaxOfBits {
  static constexpr bool kSeesBit = true, kNoisy = false;
  Tempered<Real> tempered;

  __device__ __forceinline__ explicit ReinMaxOfBits(const double* tau) {
    if constexpr (kTempered) tempered = Tempered<Real>(*tau);
  }

  __device__ __forceinline__ Real operator()(const BitPoint<Real>& at, Real) const {
    if constexpr (!kTempered) return Real(0.5) * at.odds.probability(at.other);
    const Real o = Odds<Real>(at.x, tempered.per_nat).probability(at.other);
    return Real(0.5) * (o * (Real(2) - o) - at.odds.variance());
  }
};

// s (1 - s) / tau, with s = sigmoid(x / tau).
template <class Real, bool kTempered>
struct StraightThroughOfBits {
  static constexpr bool kSeesBit = false, kNoisy = false;
  Tempered<Real> tempered;

  __device__ __forceinline__ explicit StraightThroughOfBits(const double* tau) {
    if constexpr (kTempered) tempered = Tempered<Real>(*tau);
  }

  __device__ __forceinline__ Real operator()(const BitPoint<Real>& at, Real) const {
    if constexpr (!kTempered) return at.odds.variance();
    return Odds<Real>(at.x, tempered.per_nat).variance() * tempered.inverse_tau;
  }
};

// By `power`'s base.
__device__ __forceinline__ float log_of_power(float x) { return approximate_log2(x); }
__device__ __forceinline__ double log_of_power(double x) { return log(x); }

// The same, with s a sigmoid of noisy logits given the bit.
template <class Real, bool kTempered>
struct GumbelSoftmaxOfBits {
  static constexpr bool kSeesBit = true, kNoisy = true;
  NoisyWeights<Real, kTempered> weights;

  __device__ __forceinline__ explicit GumbelSoftmaxOfBits(const double* tau) : weights(tau) {}

  __device__ __forceinline__ Real operator()(const BitPoint<Real>& at, Real u) const {
    typename NoisyWeights<Real, kTempered>::Category other{at.odds.probability(at.other)};
    if constexpr (kTempered) {  // its logarithm
      other = {smaller(at.other, Real(0)) * kNat<Real> - log_of_power(Real(1) + at.odds.exponential)};
    }
    return slope_of_weight(weights(other, u, Real(1) - u)) * weights.inverse_tau;
  }
};

template <class T, class Slope>
__global__ void __launch_bounds__(kBitThreads, kResidentThreads / kBitThreads)
    bernoulli_backward_kernel(const BernoulliArguments arguments) {
  using Real = Computed<T>;
  constexpr int kWidth = kWidest<T>;
  const BitsOfThread<T> share(arguments);
  if (share.here <= 0) return;
  Pack<float, kWidth> u;  // first, while there is nothing else to keep in registers
  u.fill(0);
  if constexpr (Slope::kNoisy) u = noise_of_bits<kWidth>(arguments.noise, share.first, share.here);
  Pack<T, kWidth> drawn, g_stored, h_stored;
  drawn.fill(zero<T>());
  g_stored.fill(zero<T>());
  h_stored.fill(zero<T>());
  const auto x = share.load_logits();
  if constexpr (Slope::kSeesBit) drawn = share.template load<T>(arguments.drawn);
  if (arguments.grad_bits.data != nullptr) g_stored = share.template load<T>(arguments.grad_bits);
  if (arguments.grad_probs.data != nullptr) h_stored = share.template load<T>(arguments.grad_probs);
  const auto bits = all_computed(drawn), g = all_computed(g_stored), h = all_computed(h_stored);
  const Slope slope(arguments.tau);
  Pack<Real, kWidth> gradient;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    const Real logit = is_invalid(x[e]) ? Real(__int_as_float(0x7FFFFFFF)) : x[e];
    const BitPoint<Real> at{logit, bits[e] > 0 ? -logit : logit, Odds<Real>(logit)};
    // A certain bit has no gradient, whatever arrived.
    const bool is_certain = magnitude(logit) == infinity<Real>();
    const Real through_bit = slope(at, Real(u[e])) * (is_certain ? 0 : g[e]);
    gradient[e] = multiply_add(at.odds.variance(), is_certain ? 0 : h[e], through_bit);
  }
  share.store(arguments.grad_logits, gradient);
}

template <template <class Real, bool kTempered> class Slope>
static void backward(const BernoulliArguments& arguments, Stream stream) {
  dispatch(arguments.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = arguments.tau == nullptr ? bernoulli_backward_kernel<T, Slope<Computed<T>, false>>
                                                 : bernoulli_backward_kernel<T, Slope<Computed<T>, true>>;
    launch(kernel, grid_of_bits<T>(arguments), kBitThreads, 0, stream, arguments);
  });
}

void bernoulli_reinmax_backward(const BernoulliArguments& arguments, Stream stream) {
  backward<ReinMaxOfBits>(arguments, stream);
}

void bernoulli_straight_through_backward(const BernoulliArguments& arguments, Stream stream) {
  backward<StraightThroughOfBits>(arguments, stream);
}

void bernoulli_gumbel_softmax_backward(const BernoulliArguments& arguments, Stream stream) {
  backward<GumbelSoftmaxOfBits>(arguments, stream);
}

}  // namespace reinmax_kernels::cuda
