// Draws from rows of two, four or eight categories that lie one after the other without a mask. A thread draws from
// whole rows by itself.
#pragma once

#include "cuda/dense.cuh"
#include "cuda/draw.cuh"

namespace reinmax_kernels::cuda {

constexpr int kFewThreads = 128;  // of a block

// Of a thread at a time: two, whose indices are 16 bytes, where their elements are no more than that.
template <class T, int kCategories>
constexpr int kFewRows = 2 * kCategories <= kWidest<T> ? 2 : 1;

// What a thread reads or writes of its rows, in the widest accesses; only the first row may be there.
template <int kRows, int kOfRow, class T>
struct RowsOfThread {
  static constexpr int kCount = kRows * kOfRow;
  Pack<T, kCount> all;

  __device__ __forceinline__ void load(const T* from, bool first_alone) {
    first_alone ? load_many<kOfRow>(from) : load_many<kCount>(from);
  }

  __device__ __forceinline__ void store(T* to, bool first_alone) const {
    first_alone ? store_many<kOfRow>(to) : store_many<kCount>(to);
  }

 private:
  template <int kMany>
  static constexpr int kWidth = kMany < kWidest<T> ? kMany : kWidest<T>;

  template <int kMany>
  __device__ __forceinline__ void load_many(const T* from) {
#pragma unroll
    for (int i = 0; i < kMany; i += kWidth<kMany>) {
      const auto piece = load_adjacent<kWidth<kMany>>(from + i);
      memcpy(&all[i], &piece, sizeof(piece));
    }
  }

  template <int kMany>
  __device__ __forceinline__ void store_many(T* to) const {
#pragma unroll
    for (int i = 0; i < kMany; i += kWidth<kMany>) {
      Pack<T, kWidth<kMany>> piece;
      memcpy(&piece, &all[i], sizeof(piece));
      store_bits(to + i, piece);
    }
  }
};

// A block has so many rounds of a thread's rows; all of a block's have one seed.
template <class T, int kCategories, bool kDense>
__global__ void __launch_bounds__(kFewThreads, 8) sample_few_kernel(const SampleArguments arguments, const int rounds) {
  constexpr int kRows = kFewRows<T, kCategories>;
  constexpr int kRound = kFewThreads * kRows;
  const int64_t rows = arguments.logits.rows, begin = int64_t(blockIdx.x) * kRound * rounds;
  const int64_t end = min(begin + int64_t{kRound} * rounds, rows);
  const int64_t seeds_before = arguments.rows_per_seed.divide(begin);
  const uint64_t seed = uint64_t(__ldg(arguments.seeds + seeds_before));
  const uint64_t numbers = arguments.row_offset - uint64_t(seeds_before * arguments.rows_per_seed.value());
#pragma unroll 1
  for (int64_t first = begin + threadIdx.x * kRows; first < end; first += kRound) {
    const bool first_alone = kRows > 1 && first + 1 == rows;
    RowsOfThread<kRows, kCategories, T> logits, one_hot, probs;
    RowsOfThread<kRows, 1, int64_t> index;
    RowsOfThread<kRows, 1, double> log_sum_exp;
    const uint64_t key = kRows > 1 && kDense ? within_loop(seed) : seed;  // else its multiples take registers
    logits.all.fill(zero<T>());
    logits.load(static_cast<const T*>(arguments.logits.values.data) + first * kCategories, first_alone);
    const auto x = all_computed(logits.all);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int start = r * kCategories;
      float largest = x[start];
#pragma unroll
      for (int e = 1; e < kCategories; ++e) largest = larger_or_nan(largest, x[start + e]);
      const float reference = reference_point(largest);
      float half_weights[kCategories];
      uint64_t through[kCategories], total = 0;
#pragma unroll
      for (int e = 0; e < kCategories; ++e) {
        half_weights[e] = half_weight(x[start + e], reference);
        through[e] = total += integer_weight(half_weights[e]);
      }
      const uint64_t uniform = uniforms(key, numbers + uint64_t(first + r), arguments.offset).element;
      const uint64_t target = contract::multiply_high(uniform, total);
      int drawn = 0;
#pragma unroll
      for (int e = 1; e < kCategories; ++e) {
        if (through[e - 1] <= target) drawn = e;
      }
      if (total == 0) drawn = 0;
      index.all[r] = drawn;
      if constexpr (kDense) {
        const float scale = 2 * inverse(total);  // NaN is 0 times it where there is no sum
#pragma unroll
        for (int e = 0; e < kCategories; ++e) {
          one_hot.all[start + e] = e == drawn ? one<T>() : zero<T>();
          probs.all[start + e] = rounded<T>(half_weights[e] * scale);
        }
        log_sum_exp.all[r] = log_sum_exp_of(largest, total);
      }
    }
    index.store(arguments.index + first, first_alone);
    if constexpr (kDense) {
      one_hot.store(static_cast<T*>(arguments.one_hot) + first * kCategories, first_alone);
      probs.store(static_cast<T*>(arguments.probs) + first * kCategories, first_alone);
      log_sum_exp.store(arguments.log_sum_exp + first, first_alone);
    }
  }
}

}  // namespace reinmax_kernels::cuda
