// Bits, element by element in flattened order: what a thread reads and writes, its elements' uniforms, and their odds.
#pragma once

#include "cuda/draw.cuh"
#include "cuda/gumbel_row.cuh"
#include "cuda/gumbel_samples.cuh"
#include "cuda/launch.cuh"

namespace reinmax_kernels::cuda {

constexpr int kBitThreads = 256;  // of a block

// The adjacent elements that a thread has: one access of 16 bytes, of which the last ones may not be there.
template <class T>
struct BitsOfThread {
  using Real = Computed<T>;
  static constexpr int kWidth = kWidest<T>;

  const BernoulliArguments& arguments;
  int64_t first;
  int here;  // none where not positive

  __device__ __forceinline__ explicit BitsOfThread(const BernoulliArguments& arguments)
      : arguments(arguments), first((int64_t(blockIdx.x) * kBitThreads + threadIdx.x) * kWidth) {
    here = int(min(arguments.count - first, int64_t{kWidth}));
  }

  template <class Stored>
  __device__ __forceinline__ Pack<Stored, kWidth> load(const Elements& from) const {
    const Stored* const data = static_cast<const Stored*>(from.data);
    if (from.adjacent && here == kWidth) return load_adjacent<kWidth>(data + first);
    Pack<Stored, kWidth> elements;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      elements[e] = zero<Stored>();
      if (e >= here) continue;
      const RowNumber at(first + e, arguments.inner);
      elements[e] = load_adjacent<1>(data + at.outer * from.outer_stride + at.inner * from.inner_stride)[0];
    }
    return elements;
  }

  // -inf where the mask forbids.
  __device__ __forceinline__ Pack<Real, kWidth> load_logits() const {
    auto x = load<T>(arguments.logits);
    if (arguments.mask.data != nullptr) {
      const auto allowed = load<unsigned char>(arguments.mask);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) x[e] = allowed[e] ? x[e] : minus_infinity<T>();
    }
    return all_computed(x);
  }

  // Contiguous.
  __device__ __forceinline__ void store(void* to, const Pack<Real, kWidth>& values) const {
    T* const out = static_cast<T*>(to) + first;
    if (here == kWidth) return store_adjacent(out, values);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      if (e < here) out[e] = rounded<T>(values[e]);
    }
  }
};

template <class T>
dim3 grid_of_bits(const BernoulliArguments& arguments) {
  return dim3(unsigned(ceil_divide(arguments.count, kBitThreads * kWidest<T>)));
}

// An element in the stream that its seed begins, and how many of the seed's elements there are from it on.
struct Place {
  uint64_t seed, number;
  int64_t left;

  __device__ __forceinline__ Place(const Noise& noise, int64_t element) {
    const int64_t group = noise.rows_per_seed.divide(element), within = element - group * noise.rows_per_seed.value();
    seed = uint64_t(__ldg(noise.seeds + group));
    number = noise.row_offset + uint64_t(within);
    left = noise.rows_per_seed.value() - within;
  }
};

// What makes one element's uniform by itself is called: few threads need it, and it is long.
static __device__ __noinline__ uint64_t uniform_of_bit(uint64_t seed, uint64_t number, uint64_t offset) {
  const Uniforms pair = uniforms(seed, number >> 1, offset);
  return number % 2 ? pair.element : pair.chunk;
}

static __device__ __noinline__ float noise_of_bit(uint64_t seed, uint64_t number, uint64_t mixed_offset) {
  return noise_uniform(NoiseOfRow(seed, number, mixed_offset).words(0, 0).x);
}

// For the draw. A call of Philox makes those of an even number and of the odd one behind it.
template <int kWidth>
__device__ __forceinline__ Pack<uint64_t, kWidth> uniforms_of_bits(const Noise& noise, int64_t first, int here) {
  Pack<uint64_t, kWidth> u;
  const Place place(noise, first);
  if (place.number % 2 == 0 && place.left >= kWidth) {
#pragma unroll
    for (int e = 0; e < kWidth; e += 2) {
      const Uniforms pair = uniforms(place.seed, (place.number + unsigned(e)) >> 1, noise.offset);
      u[e] = pair.chunk;
      u[e + 1] = pair.element;
    }
    return u;
  }
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    u[e] = 0;
    if (e >= here) continue;
    const Place own(noise, first + e);
    u[e] = uniform_of_bit(own.seed, own.number, noise.offset);
  }
  return u;
}

// Of the contract's noise, of the one sample that is made.
template <int kWidth>
__device__ __forceinline__ Pack<float, kWidth> noise_of_bits(const Noise& noise, int64_t first, int here) {
  Pack<float, kWidth> u;
  const Place place(noise, first);
  if (place.left >= kWidth) {
    const NoiseOfRow of_first(place.seed, place.number, noise.mixed_offset);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) u[e] = noise_uniform(of_first.behind(e).words(0, 0).x);
    return u;
  }
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    u[e] = 0.5f;
    if (e >= here) continue;
    const Place own(noise, first + e);
    u[e] = noise_of_bit(own.seed, own.number, noise.mixed_offset);
  }
  return u;
}

__device__ __forceinline__ float magnitude(float x) { return fabsf(x); }
__device__ __forceinline__ double magnitude(double x) { return fabs(x); }

// Whether there is no bit to draw: a NaN, or a float64 that float32 can't hold.
template <class Real>
__device__ __forceinline__ bool is_invalid(Real x) {
  const float value = draw_value(x);
  return value != value;
}

// The probabilities of the likelier and of the unlikelier bit of a logit.
template <class Real>
struct Odds {
  Real exponential, likely, unlikely;

  Odds() = default;
  __device__ __forceinline__ explicit Odds(Real x, Real per_nat = kNat<Real>)
      : exponential(power(-magnitude(x) * per_nat)),
        likely(quotient(Real(1), Real(1) + exponential)),
        unlikely(exponential * likely) {}

  // Of the bit whose log-odds are z, which is x or -x.
  __device__ __forceinline__ Real probability(Real z) const { return z > 0 ? likely : unlikely; }
  __device__ __forceinline__ Real variance() const { return likely * unlikely; }
};

}  // namespace reinmax_kernels::cuda
