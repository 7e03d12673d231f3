// The sampling contract: Philox, the exponential, and the integers that decide a draw. Host and device share this
// text, so that every backend draws the same index from the same seed, bit for bit. Nothing here may be contracted,
// reassociated or approximated: compile with -ffp-contract=off (nvcc: -fmad=false).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define REINMAX_CONTRACT static __host__ __device__ __forceinline__
#else
// Always inlined: a copy left in an object built for a newer processor could be linked in for an older one.
#define REINMAX_CONTRACT static inline __attribute__((always_inline))
#endif

namespace reinmax_kernels::contract {

constexpr int kChunk = 1024;                 // categories whose weights share one scale
constexpr int64_t kMaxCategories = 1 << 23;  // so that prefix sums stay below 2^62
constexpr int kWeightBits = 39;              // the largest weight of a chunk is 2^39
constexpr float kLog2E = 1.44269504f;
constexpr float kSmallestExponent = -126.0f;   // below it E is 0 here; its weight is 0 from -41 on
constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits

struct Words {
  uint32_t w0, w1, w2, w3;
};

struct Uniforms {
  uint64_t chunk;    // R1 of the contract: chooses the chunk
  uint64_t element;  // R2: chooses the element within it
};

// Philox4x32-10: Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
REINMAX_CONTRACT Words philox(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.w0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.w2;
    counter = {uint32_t(product1 >> 32) ^ counter.w1 ^ key0, uint32_t(product1),
               uint32_t(product0 >> 32) ^ counter.w3 ^ key1, uint32_t(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// The two uniforms of one row: key is the seed, counter the row number and the offset.
REINMAX_CONTRACT Uniforms uniforms(uint64_t seed, uint64_t row, uint64_t offset) {
  const Words w = philox({uint32_t(row), uint32_t(row >> 32), uint32_t(offset), uint32_t(offset >> 32)}, uint32_t(seed),
                         uint32_t(seed >> 32));
  return {w.w0 | uint64_t{w.w1} << 32, w.w2 | uint64_t{w.w3} << 32};
}

// The high half of the 128-bit product: maps a 64-bit uniform to [0, total).
REINMAX_CONTRACT uint64_t multiply_high(uint64_t uniform, uint64_t total) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(uniform, total);
#else
  __extension__ typedef unsigned __int128 Wide;
  return uint64_t((Wide(uniform) * total) >> 64);
#endif
}

// 2^(t + kScaleBits) for t <= 0; 0 below kSmallestExponent, NaN for NaN. `Simd` gives the vector type `Float` and its
// `fma`, `power_of_two` (of an exponent held as n + kRoundingMagic) and `zero_where_less`; with one lane it is scalar.
// The contract clamps t at -64, where its integer weight has long been 0: the same draws.
template <int kScaleBits, class Simd>
REINMAX_CONTRACT typename Simd::Float exp2(typename Simd::Float t) {
  const auto rounded = t + kRoundingMagic;
  const auto f = t - (rounded - kRoundingMagic);
  auto value = Simd::broadcast(1.534581242594868e-4f);
  value = Simd::fma(value, f, Simd::broadcast(1.3399930903688073e-3f));
  value = Simd::fma(value, f, Simd::broadcast(9.618489071726799e-3f));
  value = Simd::fma(value, f, Simd::broadcast(5.550328642129898e-2f));
  value = Simd::fma(value, f, Simd::broadcast(2.4022646248340607e-1f));
  value = Simd::fma(value, f, Simd::broadcast(6.931471824645996e-1f));
  value = Simd::fma(value, f, Simd::broadcast(1.0f));
  value = value * Simd::template power_of_two<kScaleBits>(rounded);
  return Simd::zero_where_less(t, kSmallestExponent, value);
}

}  // namespace reinmax_kernels::contract
