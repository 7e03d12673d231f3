// The contract's integer weights and their sums, without 64-bit arithmetic for an element: a weight is split into a
// multiple of 2^22 and a rest, as what they leave in the low bits of a float to which a magic number was added.
#pragma once

#include "contract.h"
#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

// What the contract computes with: one float. NaN becomes the limit in `at_least`, so that it has no weight.
struct OneFloat {
  using Float = float;

  static __device__ __forceinline__ float broadcast(float x) { return x; }
  static __device__ __forceinline__ float fma(float x, float y, float z) { return __fmaf_rn(x, y, z); }
  static __device__ __forceinline__ float at_least(float limit, float x) { return fmaxf(limit, x); }

  template <int kMore>
  static __device__ __forceinline__ float power_of_two(float rounded) {
    return __uint_as_float((__float_as_uint(rounded) << 23) + (unsigned{kMore} << 23));
  }
};

// The float32 values that draws are made with; NaN for a finite float64 that float32 can't hold.
__device__ __forceinline__ float draw_value(float x) { return x; }

__device__ __forceinline__ float draw_value(double x) {
  const float narrowed = __double2float_rn(x);
  return isinf(narrowed) && !isinf(x) ? __int_as_float(0x7FFFFFFF) : narrowed;
}

__device__ __forceinline__ float largest_or_nan(float x, int threads) {
  return reduce(x, [](float a, float b) { return larger_or_nan(a, b); }, threads);
}

// The same over a warp, in one instruction: of integers that are in the order of the floats, NaN as `larger_or_nan`
// makes it above all.
__device__ __forceinline__ float largest_or_nan(float x) {
  const auto ordered = [](int bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); };
  return __int_as_float(ordered(__reduce_max_sync(kAllLanes, ordered(__float_as_int(larger_or_nan(x, x))))));
}

// The largest logit, or one from which all others are infinitely far: a chunk without a finite one has no weights.
__device__ __forceinline__ float reference_point(float largest) {
  return fabsf(largest) < infinity<float>() ? largest : infinity<float>();
}

constexpr int kHalfBits = contract::kWeightBits - 1;

// 2^38 exp(x - reference), half of the weight before it is rounded: for one bit less, the power of two comes down to
// an addition to the exponent.
__device__ __forceinline__ float half_weight(float x, float reference) {
  constexpr float kLeast = -127.0f - kHalfBits;  // where an exponent of 0 is left
  constexpr float kMagic = contract::kRoundingMagic + kHalfBits;
  static_assert(kHalfBits % 2 == 0, "ties have to round as they do without it");
  const float t = fmaxf(kLeast, (x - reference) * contract::kLog2E);
  const float rounded = t + kMagic;
  const float value = contract::exp2_of_fraction<OneFloat>(t - (rounded - kMagic));
  return __uint_as_float(__float_as_uint(value) + (__float_as_uint(rounded) << 23));
}

// An integer weight as bits: those of a multiple of 2^22 and of a rest in [-2^21, 2^21], each above those of 0.
struct WeightBits {
  static constexpr unsigned kHighZero = 0x56400000, kLowZero = 0x4B400000;  // of the magic numbers
  unsigned high, low;

  __device__ __forceinline__ WeightBits(float half_weight) {
    constexpr float kHigh = 0x1.8p45f;  // its last place is 2^22
    constexpr float kLow = contract::kRoundingMagic;
    const float shifted = __fmaf_rn(half_weight, 2.0f, kHigh);
    const float rest = __fmaf_rn(half_weight, 2.0f, (kHigh + kLow) - shifted);
    high = __float_as_uint(shifted);
    low = __float_as_uint(rest);
  }
};

__device__ __forceinline__ uint64_t integer_weight(float half_weight) {
  constexpr uint64_t kZero = (uint64_t{WeightBits::kHighZero} << 22) + WeightBits::kLowZero;
  const WeightBits bits(half_weight);
  return (uint64_t{bits.high} << 22) + bits.low - kZero;
}

// The sum of at most 1024 integer weights, of which one may be the largest there is: 32 bits hold both parts.
class WeightSum {
 public:
  __device__ __forceinline__ void add(float half_weight) {
    const WeightBits bits(half_weight);
    high_ += bits.high;
    low_ += bits.low;
  }

  // Over a warp.
  __device__ __forceinline__ WeightSum of_warp() const {
    WeightSum sum;
    sum.high_ = __reduce_add_sync(kAllLanes, high_);
    sum.low_ = __reduce_add_sync(kAllLanes, low_);
    return sum;
  }

  // Over the threads of a group up to this one; `rank` is a thread's number in its group.
  __device__ __forceinline__ WeightSum up_to(int rank, int threads) const {
    WeightSum sum = *this;
#pragma unroll
    for (int distance = 1; distance < threads; distance *= 2) {
      const unsigned high = __shfl_up_sync(kAllLanes, sum.high_, distance);
      const unsigned low = __shfl_up_sync(kAllLanes, sum.low_, distance);
      sum.high_ += rank >= distance ? high : 0;
      sum.low_ += rank >= distance ? low : 0;
    }
    return sum;
  }

  // After so many additions.
  __device__ __forceinline__ uint64_t total(int additions) const {
    const int high = int(high_ - unsigned(additions) * WeightBits::kHighZero);
    const int low = int(low_ - unsigned(additions) * WeightBits::kLowZero);
    return uint64_t((int64_t(high) << 22) + low);
  }

 private:
  unsigned high_ = 0, low_ = 0;
};

// Over the threads of a group up to this one; `rank` is a thread's number in its group.
__device__ __forceinline__ uint64_t inclusive_sum(uint64_t x, int rank, int threads) {
#pragma unroll
  for (int distance = 1; distance < threads; distance *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, static_cast<unsigned long long>(x), distance);
    x += rank >= distance ? before : 0;
  }
  return x;
}

__device__ __forceinline__ uint64_t shuffle(uint64_t x, int lane) {
  return __shfl_sync(kAllLanes, static_cast<unsigned long long>(x), lane);
}

// The position of the first of a thread's elements whose inclusive prefix sum exceeds `target`, where the prefix sum
// before the first element is `before`; as many as there are elements if there is none.
template <int kMost>
__device__ __forceinline__ int first_above(const float (&half_weights)[kMost], int elements, uint64_t before,
                                           uint64_t target) {
  const int64_t left = int64_t(target - before);  // until the sum is above; less than 2^50, so 32 bits hold both parts
  int high = int(left >> 22), low = int(left & 0x3FFFFF), passed = elements;
#pragma unroll
  for (int e = 0; e < kMost; ++e) {
    if (e >= elements) break;
    const WeightBits bits(half_weights[e]);
    high -= int(bits.high - WeightBits::kHighZero);
    low -= int(bits.low - WeightBits::kLowZero);
    passed += (high + (low >> 22)) >> 31;  // -1 where it is above
  }
  return passed;
}

// The log-sum-exp of a row's largest logit and its sum of weights; NaN for no sum.
__device__ __forceinline__ double log_sum_exp_of(float largest, uint64_t total) {
  constexpr double kLn2 = 0.693147180559945309417;
  if (total == 0) return __longlong_as_double(0x7FF8000000000000);
  return double(largest) + (log(double(total)) - contract::kWeightBits * kLn2);
}

}  // namespace reinmax_kernels::cuda
