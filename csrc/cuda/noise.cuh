// The contract's noise, made where it is needed: uniforms and exponential variates of one row.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/kernels.h"
#include "cuda/philox.cuh"
#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

// u = (word / 2^9 + 1/2) / 2^23, exactly: never 0 or 1.
__device__ __forceinline__ float noise_uniform(uint32_t word) {
  return __uint_as_float(word >> 9 | 0x3F800000u) - (1.0f - 0x1p-24f);
}

// Of a u as above, which takes no special case. The hardware's logarithm won't do: near 1 its error is as large as many
// a variate. u = 2^e (1 + f), f from sqrt(1/2) - 1 to sqrt(2) - 1, and log(1 + f) = f + f^2 Q(f). kRootHalf: as bits.
__device__ __forceinline__ float minus_log(float u) {
  constexpr int kRootHalf = 0x3F3504F3;
  const int bits = __float_as_int(u), exponent = (bits - kRootHalf) & ~0x7FFFFF;  // 2^23 e
  const float f = __int_as_float(bits - exponent) - 1.0f;
  float q = -0.07621856033802032f;
  q = __fmaf_rn(q, f, 0.12904493510723114f);
  q = __fmaf_rn(q, f, -0.13242985308170319f);
  q = __fmaf_rn(q, f, 0.14181813597679138f);
  q = __fmaf_rn(q, f, -0.16609081625938416f);
  q = __fmaf_rn(q, f, 0.2000197470188141f);
  q = __fmaf_rn(q, f, -0.25001582503318787f);
  q = __fmaf_rn(q, f, 0.33333325386047363f);
  q = __fmaf_rn(q, f, -0.49999988079071045f);
  return __fmaf_rn(float(exponent), -0.6931471805599453f * 0x1p-23f, __fmaf_rn(f * f, -q, -f));
}
// In float64 one copy is called, for it takes many registers.
static __device__ __noinline__ double minus_log(double u) { return -log(u); }

class NoiseOfRow {
 public:
  NoiseOfRow() = default;
  __device__ __forceinline__ NoiseOfRow(const Noise& noise, int64_t row) {
    int64_t seed = 0;  // mostly: rows need no division
    if (row >= noise.rows_per_seed.value()) seed = noise.rows_per_seed.divide(row);
    key_ = contract::noise_key_of_mixed(uint64_t(__ldg(noise.seeds + seed)), noise.mixed_offset);
    number_ = noise.row_offset + uint64_t(row - seed * noise.rows_per_seed.value());
  }
  __device__ __forceinline__ NoiseOfRow(uint64_t seed, uint64_t number, uint64_t mixed_offset)
      : key_(contract::noise_key_of_mixed(seed, mixed_offset)), number_(number) {}

  // Of a row so many behind this one, in the stream of the same seed.
  __device__ __forceinline__ NoiseOfRow behind(int rows) const {
    NoiseOfRow other = *this;
    other.number_ += unsigned(rows);
    return other;
  }

  // Four words, of the counter whose first words these are.
  __device__ __forceinline__ uint4 words(uint32_t first, uint32_t second) const {
    const TwoWords number = number_;
    const auto w = contract::philox<TwoWordLane>(
        {TwoWords(first, 0), TwoWords(second, 0), TwoWords(number.low, 0), TwoWords(number.high, 0)},
        within_loop(key_));  // else its multiples take registers
    return {w.w0.low, w.w1.low, w.w2.low, w.w3.low};
  }

  // Of one category in one sample.
  template <class Real>
  __device__ __forceinline__ Real exponential(int j, uint32_t sample) const {
    j = within_loop(j);
    const uint4 w = words(unsigned(j) / 4, sample);
    const uint32_t word = j % 4 < 2 ? (j % 2 ? w.y : w.x) : (j % 2 ? w.w : w.z);
    return minus_log(Real(noise_uniform(word)));
  }

  // Of adjacent categories, as many as one access has, from a multiple of their number on.
  template <class Real, int kWidth>
  __device__ __forceinline__ Pack<Real, kWidth> exponentials(int j, uint32_t sample) const {
    static_assert(kWidth == 2 || kWidth % 4 == 0);
    Pack<Real, kWidth> result;
#pragma unroll
    for (int e = 0; e < kWidth; e += 4) {
      const uint4 w = words(unsigned(j + e) / 4, sample);
      if constexpr (kWidth == 2) {
        result[0] = minus_log(Real(noise_uniform(j % 4 ? w.z : w.x)));
        result[1] = minus_log(Real(noise_uniform(j % 4 ? w.w : w.y)));
      } else {
        const uint32_t all[] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) result[e + i] = minus_log(Real(noise_uniform(all[i])));
      }
    }
    return result;
  }

 private:
  uint64_t key_, number_;
};

}  // namespace reinmax_kernels::cuda
