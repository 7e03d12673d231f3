// The log-sum-exp of float64 logits in float64, for draws are made in float32 while probabilities keep their precision.
#pragma once

#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

__device__ __forceinline__ double quiet_nan() { return __longlong_as_double(0x7FF8000000000000); }

// Of the elements so far, relative to the largest of them: one exponential each, and one pass.
class LogSumExp {
 public:
  __device__ __forceinline__ void add(double x) { combine(x, 1); }

  // Of all elements of a group of threads.
  __device__ __forceinline__ double value(int threads = 32) {
    for (int distance = threads / 2; distance > 0; distance /= 2) {
      const double other_largest = __shfl_xor_sync(kAllLanes, largest_, distance);
      combine(other_largest, __shfl_xor_sync(kAllLanes, sum_, distance));
    }
    return largest_ == -infinity<double>() ? largest_ : largest_ + log(sum_);
  }

 private:
  __device__ __forceinline__ void combine(double largest, double sum) {
    if (largest == -infinity<double>()) return;
    const double difference = largest - largest_;
    const double scale = exp(-fabs(difference));
    sum_ = difference > 0 ? sum_ * scale + sum : sum_ + sum * scale;
    largest_ = fmax(largest_, largest);
  }

  double largest_ = -infinity<double>(), sum_ = 0;
};

// Of the categories [first, last) of a row, by a warp.
template <int kWidth>
__device__ __forceinline__ double log_sum_exp_of(const LogitsRow<double>& row, int first, int last, int lane) {
  LogSumExp sum;
#pragma unroll 1
  for (int j = first + lane * kWidth; j < last; j += 32 * kWidth) {
    const auto x = row.template load<kWidth>(j, true);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) sum.add(x[e]);
  }
  return sum.value();
}

// The same from those of so many parts, which lie side by side; NaN of none.
__device__ __forceinline__ double log_sum_exp_of_parts(const double* parts, int count, int lane) {
  LogSumExp sum;
#pragma unroll 1
  for (int k = lane; k < count; k += 32) sum.add(parts[k]);
  const double value = sum.value();
  return count > 0 ? value : quiet_nan();
}

}  // namespace reinmax_kernels::cuda
