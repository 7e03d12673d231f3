// Draws from rows of few categories. A warp has up to 32 rows, of which groups of its threads draw from some at a time:
// each thread has some adjacent categories.
#pragma once

#include "cuda/dense.cuh"
#include "cuda/draw.cuh"
#include "cuda/warp_chunk.cuh"

namespace reinmax_kernels::cuda {

constexpr int kShortWarps = 4;  // of a block

// How rows are shared out, the same for all warps.
struct ShortWork {
  int group_bits;  // a group has 2^group_bits threads
  int elements;    // of a row that a thread has: accesses of kWidth
  int rounds;      // of 32 >> group_bits rows each
  bool packed;     // rows lie one after the other
};

// Of a row, to a thread.
template <class T, int kWidth>
constexpr int kShortElements = kWidth > 1 && sizeof(T) == 8 ? 4 : 8;

// Categories: the threads of a group are those of a warp at most.
template <class T, int kWidth>
constexpr int kMostShortDraw = 32 * kShortElements<T, kWidth>;

// The rows that a warp draws from at a time, one after the other in shared memory, so that accesses to global memory
// are wide however short a row is. All of it is done by a warp.
template <class T>
class Stage {
 public:
  __device__ __forceinline__ T& operator[](int i) { return elements_[i]; }

  // Rows [first, first + count); where the mask forbids, -inf.
  __device__ __forceinline__ void load(const Logits& logits, int64_t first, int count, bool packed, int lane) {
    const int categories = int(logits.categories);
    if (packed) {
      const T* from = static_cast<const T*>(logits.values.data) + first * categories;
      copy(from, elements_, count * categories, from, lane);
      __syncwarp();
    }
    if (!packed || logits.mask.data != nullptr) {
      const int row_step = 32 / categories, step = 32 - row_step * categories;
      int r = lane / categories, j = lane - r * categories;
#pragma unroll 1
      for (int i = lane; i < count * categories; i += 32) {
        const LogitsRow<T> row(logits, RowNumber(first + r, logits.inner));
        if (!packed) elements_[i] = load_adjacent<1>(row.values.start + j)[0];
        if (row.mask.start != nullptr && load_adjacent<1>(row.mask.start + j)[0] == 0)
          elements_[i] = minus_infinity<T>();
        r += row_step;
        j += step;
        if (j >= categories) j -= categories, ++r;
      }
    }
    __syncwarp();
  }

  __device__ __forceinline__ void store(T* to, int count, int lane) const {
    __syncwarp();
    copy(elements_, to, count, to, lane);
    __syncwarp();
  }

 private:
  static __device__ __forceinline__ void copy(const T* from, T* to, int count, const T* global, int lane) {
    constexpr int kWide = kWidest<T>;
    const int wide = reinterpret_cast<uintptr_t>(global) % 16 == 0 ? count / kWide : 0;
#pragma unroll 1
    for (int i = lane; i < wide; i += 32) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
#pragma unroll 1
    for (int i = wide * kWide + lane; i < count; i += 32) to[i] = from[i];
  }

  alignas(16) T elements_[32 * kShortElements<T, 1>];
};

// Of a row's categories from `begin` on, without waiting for one access between two: in place of those beyond the row
// the row's last ones.
template <int kWidth, class T, int kAccesses>
__device__ __forceinline__ void load_side_by_side(const LogitsRow<T>& row, int begin, int categories,
                                                  Pack<T, kWidth> (&stored)[kAccesses]) {
  const auto position = [=](int a) { return min(begin + a * kWidth, categories - kWidth); };
#pragma unroll
  for (int a = 0; a < kAccesses; ++a) stored[a] = load_adjacent<kWidth, true>(row.values.start + position(a));
  __syncwarp();
  if (row.mask.start == nullptr) return;
#pragma unroll
  for (int a = 0; a < kAccesses; ++a) {
    const auto allowed = load_adjacent<kWidth>(row.mask.start + position(a));
#pragma unroll
    for (int e = 0; e < kWidth; ++e) stored[a][e] = allowed[e] ? stored[a][e] : minus_infinity<T>();
  }
}

template <class T, int kWidth, bool kDense>
__global__ void __launch_bounds__(32 * kShortWarps, 8)
    sample_short_kernel(const SampleArguments arguments, const ShortWork work) {
  constexpr int kElements = kShortElements<T, kWidth>;
  constexpr bool kDouble = std::is_same_v<T, double>, kStaged = kWidth == 1, kAtOnce = !kStaged && !kDouble;
  using Real = Computed<T>;
  __shared__ NumbersOfRows<T, kDense, 32> numbers_of_warp[kShortWarps];
  __shared__ Stage<T> stage_of_warp[kStaged ? kShortWarps : 1];
  const int warp = threadIdx.x / 32;
  auto& numbers = numbers_of_warp[warp];
  auto& stage = stage_of_warp[kStaged ? warp : 0];

  const int threads = 1 << work.group_bits, groups = 32 >> work.group_bits;
  const int categories = int(arguments.logits.categories);
  const int elements = kDouble && !kStaged ? kElements : work.elements;  // known where registers are few
  const int64_t first = (int64_t(blockIdx.x) * kShortWarps + warp) * (groups * work.rounds);
  const int rows = int(min(int64_t(groups * work.rounds), arguments.logits.rows - first));
  // Loads of the next round's rows are under way while these are drawn from; a mask is waited for.
  Pack<T, kWidth> ahead[kAtOnce ? kElements / kWidth : 1];
  const auto load_ahead = [&](int start, int lane) {
    const int r = start + min(lane >> work.group_bits, min(groups, rows - start) - 1);
    const LogitsRow<T> row(arguments.logits, RowNumber(first + r, arguments.logits.inner));
    load_side_by_side(row, (lane & (threads - 1)) * elements, categories, ahead);
  };
  if (kAtOnce && rows > 0) load_ahead(0, threadIdx.x % 32);
  numbers.start(arguments, first, rows, threadIdx.x % 32);
  __syncwarp();
#pragma unroll 1
  for (int start = 0; start < rows; start += groups) {
    const int lane = within_loop(threadIdx.x % 32), rank = lane & (threads - 1);
    const int here = min(groups, rows - start), r = start + min(lane >> work.group_bits, here - 1);
    const bool is_here = lane >> work.group_bits < here;
    const int begin = rank * elements, count = is_here ? min(categories - begin, elements) : 0;
    const int64_t at = (first + start) * categories;
    const int staged = (r - start) * categories + begin;
    const LogitsRow<T> row(arguments.logits, RowNumber(first + r, arguments.logits.inner));
    if constexpr (kStaged) stage.load(arguments.logits, first + start, here, work.packed, lane);
    const auto load = [&](int i) {
      Pack<Real, kWidth> x;
      if constexpr (kStaged) {
        x[0] = i < count ? computed(stage[staged + i]) : -infinity<Real>();
      } else {
        x = row.template load<kWidth>(begin + i, i < count);
      }
      return x;
    };

    float x[kElements], largest = -infinity<float>();
    const auto take = [&](int i, const Pack<Real, kWidth>& loaded) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        x[i + e] = draw_value(loaded[e]);
        largest = larger_or_nan(largest, x[i + e]);
      }
    };
    if constexpr (kAtOnce) {
#pragma unroll
      for (int i = 0; i < kElements; i += kWidth) {
        if (i >= count) ahead[i / kWidth].fill(minus_infinity<T>());
        take(i, all_computed(ahead[i / kWidth]));
      }
      if (start + groups < rows) load_ahead(start + groups, lane);
    } else {
#pragma unroll
      for (int i = 0; i < kElements; i += kWidth) {
        if (i >= elements) break;
        take(i, load(i));
      }
    }
    largest = threads == 32 ? largest_or_nan(largest) : largest_or_nan(largest, threads);
    const float reference = reference_point(largest);
    float half_weights[kElements] = {};
    WeightSum sum;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i % kWidth == 0 && i >= elements) break;
      half_weights[i] = half_weight(x[i], reference);
      sum.add(half_weights[i]);
    }
    const WeightSum to_here = threads == 32 ? sum.up_to(rank, 32) : sum.up_to(rank, threads);
    const uint64_t own = sum.total(elements), through = to_here.total((rank + 1) * elements);
    const uint64_t total = shuffle(through, lane | (threads - 1));
    const uint64_t target = contract::multiply_high(numbers.uniform(r), total);
    int index = element_above(half_weights, elements, through - own, through, target, rank);
    if (total == 0) index = 0;

    double log_sum_exp = 0;
    if constexpr (kDense && kDouble) {
      LogSumExp of_row;
#pragma unroll 1
      for (int i = 0; i < elements; i += kWidth) {
        const auto loaded = load(i);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) of_row.add(loaded[e]);
      }
      log_sum_exp = of_row.value(threads);
      if (total == 0) log_sum_exp = quiet_nan();
    }
    if (is_here && rank == 0) numbers.keep(r, index, largest, total, log_sum_exp);
    if constexpr (kDense) {
      const DenseRow<T> out(arguments, first + r, index);
      const auto store = [&](int i, const Pack<Real, kWidth>& probs) {
        if constexpr (kStaged) {
          stage[staged + i] = rounded<T>(probs[0]);
        } else {
          out.store(begin + i, probs);
        }
      };
      if constexpr (kDouble || kStaged) {  // from the logits once more: weights take registers
        const Probability<T> probability(largest, total, log_sum_exp);
#pragma unroll 1
        for (int i = 0; i < count; i += kWidth) store(i, probability(load(i)));
      } else {
        const float scale = 2 * inverse(total);  // NaN is 0 times it where there is no sum
#pragma unroll
        for (int i = 0; i < kElements; i += kWidth) {
          if (i >= elements) break;
          Pack<Real, kWidth> probs;
#pragma unroll
          for (int e = 0; e < kWidth; ++e) probs[e] = half_weights[i + e] * scale;
          if (i < count) store(i, probs);
        }
      }
      if constexpr (kStaged) {
        stage.store(static_cast<T*>(arguments.probs) + at, here * categories, lane);
#pragma unroll 1
        for (int i = 0; i < count; ++i) stage[staged + i] = begin + i == index ? one<T>() : zero<T>();
        stage.store(static_cast<T*>(arguments.one_hot) + at, here * categories, lane);
      }
    }
    __syncwarp();  // the stage has been read, and the numbers are kept
  }
  numbers.store(arguments, first, rows, threadIdx.x % 32);
}

}  // namespace reinmax_kernels::cuda
