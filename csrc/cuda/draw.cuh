// What is one number a row: its uniforms, its index and its log-sum-exp.
#pragma once

#include "cuda/philox.cuh"
#include "cuda/softmax_double.cuh"
#include "cuda/weights.cuh"

namespace reinmax_kernels::cuda {

using Uniforms = contract::Uniforms<contract::OneLane>;

// Of a row by its number in the stream of a seed.
__device__ __forceinline__ Uniforms uniforms(uint64_t seed, uint64_t number, uint64_t offset) {
  const auto of_row = contract::uniforms<TwoWordLane>(seed, number, offset);
  return {of_row.chunk, of_row.element};
}

// Where a row is in the streams of all seeds.
struct PlaceInStream {
  uint64_t seed, number;

  template <class Arguments>
  __device__ __forceinline__ PlaceInStream(const Arguments& arguments, int64_t row) {
    const int64_t before = arguments.rows_per_seed.divide(row);
    seed = uint64_t(__ldg(arguments.seeds + before));
    number = arguments.row_offset + uint64_t(row - before * arguments.rows_per_seed.value());
  }
};

__device__ __forceinline__ Uniforms uniforms(const SampleArguments& arguments, int64_t row) {
  const PlaceInStream place(arguments, row);
  return uniforms(place.seed, place.number, arguments.offset);
}

// These numbers of some rows of one chunk, in shared memory, where neighbouring threads compute each of them once and
// write them side by side. Threads have to meet between the steps.
template <class T, bool kDense, int kRows>
class NumbersOfRows {
 public:
  __device__ __forceinline__ void start(const SampleArguments& arguments, int64_t first, int rows, int thread) {
    if (thread < rows) uniform_[thread] = uniforms(arguments, first + thread).element;
  }

  __device__ __forceinline__ uint64_t uniform(int r) const { return uniform_[r]; }

  // `log_sum_exp` is needed of float64 alone.
  __device__ __forceinline__ void keep(int r, int index, float largest, uint64_t total, double log_sum_exp) {
    index_[r] = index;
    if constexpr (kDense && kDouble) log_sum_exp_[r] = log_sum_exp;
    if constexpr (kDense && !kDouble) {
      largest_[r] = largest;
      total_[r] = total;
    }
  }

  __device__ __forceinline__ void store(const SampleArguments& arguments, int64_t first, int rows, int thread) const {
    if (thread >= rows) return;
    arguments.index[first + thread] = index_[thread];
    if constexpr (kDense && kDouble) arguments.log_sum_exp[first + thread] = log_sum_exp_[thread];
    if constexpr (kDense && !kDouble) {
      arguments.log_sum_exp[first + thread] = log_sum_exp_of(largest_[thread], total_[thread]);
    }
  }

 private:
  static constexpr bool kDouble = std::is_same_v<T, double>;
  struct Nothing {};
  uint64_t uniform_[kRows];
  std::conditional_t<kDense && kDouble, double, Nothing> log_sum_exp_[kRows];
  std::conditional_t<kDense && !kDouble, uint64_t, Nothing> total_[kRows];
  std::conditional_t<kDense && !kDouble, float, Nothing> largest_[kRows];
  int index_[kRows];
};

}  // namespace reinmax_kernels::cuda
