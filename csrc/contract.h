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
constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits

// 64-bit lanes, one of them; `Lanes` may be a vector. `multiply_low` is the product of the low halves.
struct OneLane {
  using Lanes = uint64_t;
  REINMAX_CONTRACT Lanes multiply_low(Lanes a, Lanes b) { return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu); }
};

// The words of Philox, each in the low half of a lane; what the high half holds does not matter.
template <class Bits>
struct Words {
  typename Bits::Lanes w0, w1, w2, w3;
};

// Philox4x32-10: Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The key's words
// are the halves of `key`.
template <class Bits>
REINMAX_CONTRACT Words<Bits> philox(Words<Bits> counter, typename Bits::Lanes key) {
  using Lanes = typename Bits::Lanes;
  const Lanes zero = key ^ key, multiplier0 = zero + uint64_t{0xD2511F53}, multiplier1 = zero + uint64_t{0xCD9E8D57};
  Lanes key0 = key, key1 = key >> 32;
  for (int round = 0; round < 10; ++round) {
    const Lanes product0 = Bits::multiply_low(counter.w0, multiplier0);
    const Lanes product1 = Bits::multiply_low(counter.w2, multiplier1);
    counter = {(product1 >> 32) ^ counter.w1 ^ key0, product1, (product0 >> 32) ^ counter.w3 ^ key1, product0};
    key0 = key0 + uint64_t{0x9E3779B9};
    key1 = key1 + uint64_t{0xBB67AE85};
  }
  return counter;
}

template <class Bits>
struct Uniforms {
  typename Bits::Lanes chunk;    // R1 of the contract: chooses the chunk
  typename Bits::Lanes element;  // R2: chooses the element within it
};

// The two uniforms of one row: key is the seed, counter the row number and the offset.
template <class Bits>
REINMAX_CONTRACT Uniforms<Bits> uniforms(typename Bits::Lanes seed, typename Bits::Lanes row,
                                         typename Bits::Lanes offset) {
  const Words<Bits> w = philox<Bits>({row, row >> 32, offset, offset >> 32}, seed);
  return {(w.w0 & 0xFFFFFFFFu) | w.w1 << 32, (w.w2 & 0xFFFFFFFFu) | w.w3 << 32};
}

// Mixes all bits of a number (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
REINMAX_CONTRACT uint64_t splitmix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Philox's key where an estimator needs noise for each element: no counter of it can meet one of the draw's. Of the
// offset it needs what that is mixed to.
REINMAX_CONTRACT uint64_t mixed_offset(uint64_t offset) { return splitmix64(offset + 1); }
REINMAX_CONTRACT uint64_t noise_key_of_mixed(uint64_t seed, uint64_t mixed) { return splitmix64(seed ^ mixed); }
REINMAX_CONTRACT uint64_t noise_key(uint64_t seed, uint64_t offset) {
  return noise_key_of_mixed(seed, mixed_offset(offset));
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

// 2^f for |f| <= 1/2. `Simd` gives the vector type `Float`, `broadcast` and `fma`; with one lane it is scalar.
template <class Simd>
REINMAX_CONTRACT typename Simd::Float exp2_of_fraction(const typename Simd::Float& f) {
  auto value = Simd::broadcast(1.534581242594868e-4f);
  value = Simd::fma(value, f, Simd::broadcast(1.3399930903688073e-3f));
  value = Simd::fma(value, f, Simd::broadcast(9.618489071726799e-3f));
  value = Simd::fma(value, f, Simd::broadcast(5.550328642129898e-2f));
  value = Simd::fma(value, f, Simd::broadcast(2.4022646248340607e-1f));
  value = Simd::fma(value, f, Simd::broadcast(6.931471824645996e-1f));
  return Simd::fma(value, f, Simd::broadcast(1.0f));
}

// 2^(t + kScaleBits) for t <= 0; 0 where that is below the smallest normal float, -inf included, and NaN for NaN. The
// contract clamps t at -64, where its integer weight has long been 0: the same draws. `Simd` also gives `at_least` (NaN
// for NaN) and `power_of_two`.
template <int kScaleBits, class Simd>
REINMAX_CONTRACT typename Simd::Float exp2(const typename Simd::Float& exponent) {
  constexpr int kBias = 127 + kScaleBits;  // what n needs to be the exponent field of 2^(n + kScaleBits)
  // Even, so that ties round as they do without it.
  const auto magic = Simd::broadcast(kRoundingMagic + (kBias & ~1));
  const auto t = Simd::at_least(float(-kBias), exponent);  // an exponent field of 0 makes the product 0
  const auto rounded = t + magic;
  const auto f = t - (rounded - magic);
  return exp2_of_fraction<Simd>(f) * Simd::template power_of_two<kBias & 1>(rounded);
}

}  // namespace reinmax_kernels::contract
