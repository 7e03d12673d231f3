// Draws from rows of few categories. A warp has up to 32 rows, of which groups of its threads draw from some at a time:
// each thread has some adjacent categories. Lane `i` keeps what is one number a row for the warp's row `i`, so that it
// is computed once and written 32 at a time.
#pragma once

#include "cuda/draw.cuh"
#include "cuda/softmax_double.cuh"
#include "cuda/warp_chunk.cuh"

namespace reinmax_kernels::cuda {

constexpr int kMostShortDraw = 64;  // categories
constexpr int kShortWarps = 4;      // of a block

// How rows are shared out, the same for all warps.
struct ShortWork {
  int group_bits;  // a group has 2^group_bits threads
  int elements;    // of a row that a thread has, at most
  int rounds;      // of 32 >> group_bits rows each
  bool staged;     // rows lie one after the other: they come and go by way of shared memory
};

// Of a row, to a thread.
template <class T, int kWidth>
constexpr int kShortElements = kWidth == 1 && sizeof(T) < 8 ? 16 : 8;

// Rows that lie one after the other, in shared memory; by a warp.
template <class T>
struct Stage {
  static constexpr int kElements = 32 * kShortElements<T, 1>;
  alignas(16) T elements[kElements];

  static __device__ __forceinline__ void copy(const T* from, T* to, int count, const void* global, int lane) {
    constexpr int kWide = kWidest<T>;
    int wide = 0;
    if (reinterpret_cast<uintptr_t>(global) % 16 == 0) wide = count / kWide;
    for (int i = lane; i < wide; i += 32) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
    for (int i = wide * kWide + lane; i < count; i += 32) to[i] = from[i];
    __syncwarp();
  }

  __device__ __forceinline__ void load(const T* from, int count, int lane) { copy(from, elements, count, from, lane); }

  __device__ __forceinline__ void store(T* to, int count, int lane) const {
    __syncwarp();
    copy(elements, to, count, to, lane);
  }
};

template <class T, int kWidth, bool kDense>
__global__ void __launch_bounds__(32 * kShortWarps, 8)
    sample_short_kernel(const SampleArguments arguments, const ShortWork work) {
  constexpr int kElements = kShortElements<T, kWidth>;
  constexpr bool kDouble = std::is_same_v<T, double>;
  using Real = Computed<T>;
  __shared__ Stage<T> stages[kWidth == 1 ? kShortWarps : 1];
  Stage<T>& stage = stages[kWidth == 1 ? threadIdx.x / 32 : 0];

  const int lane = threadIdx.x % 32, threads = 1 << work.group_bits, groups = 32 >> work.group_bits;
  const int rank = lane & (threads - 1), group = lane >> work.group_bits;
  const int categories = int(arguments.logits.categories), elements = kWidth == 1 ? work.elements : kElements;
  const int begin = rank * elements;
  const int64_t first = (int64_t(blockIdx.x) * kShortWarps + threadIdx.x / 32) * (groups * work.rounds);
  const int rows = int(min(int64_t(groups * work.rounds), arguments.logits.rows - first));
  if (rows <= 0) return;
  const uint64_t uniform = uniforms(arguments, first + min(lane, rows - 1)).element;
  int own_index = 0;
  float own_largest = 0;
  uint64_t own_total = 0;
  double own_log_sum_exp = 0;

  for (int start = 0; start < rows; start += groups) {
    const int here = min(groups, rows - start), number = min(group, here - 1);
    const bool is_here = group < here;
    const LogitsRow<T> row(arguments.logits, RowNumber(first + start + number, arguments.logits.inner));
    const int64_t at = (first + start) * categories;
    if (kWidth == 1 && work.staged) {
      stage.load(static_cast<const T*>(arguments.logits.values.data) + at, here * categories, lane);
    }
    Real x[kElements];
#pragma unroll
    for (int i = 0; i < kElements; i += kWidth) {
      if (i >= elements) break;
      const int j = begin + i;
      const bool inside = is_here && j < categories;
      Pack<Real, kWidth> loaded;
      if (kWidth == 1 && work.staged) {
        const bool allowed = inside && (row.mask.start == nullptr || row.mask.template load<1>(j)[0]);
        loaded.fill(-infinity<Real>());
        if (allowed) loaded[0] = computed(stage.elements[number * categories + j]);
      } else {
        loaded = row.template load<kWidth>(j, inside);
      }
#pragma unroll
      for (int e = 0; e < kWidth; ++e) x[i + e] = loaded[e];
    }

    float largest = -infinity<float>();
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i >= elements) break;
      largest = larger_or_nan(largest, draw_value(x[i]));
    }
    largest = largest_or_nan(largest, threads);
    const float reference = reference_point(largest);
    float half_weights[kElements];
    WeightSum sum;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i >= elements) break;
      half_weights[i] = half_weight(draw_value(x[i]), reference);
      sum.add(half_weights[i]);
    }
    const uint64_t own = sum.total(elements), through = inclusive_sum(own, rank, threads);
    const uint64_t total = shuffle(through, lane | (threads - 1));
    const uint64_t target = contract::multiply_high(shuffle(uniform, start + group), total);
    int index = element_above(half_weights, through - own, through, target, elements, rank, threads);
    if (total == 0) index = 0;

    // The row of lane `lane` is drawn from by group `lane - start`, if at all in this round.
    const int source = (lane & (groups - 1)) << work.group_bits;
    const bool is_own = lane - start >= 0 && lane - start < groups;
    const int its_index = __shfl_sync(kAllLanes, index, source);
    if (is_own) own_index = its_index;

    if constexpr (kDense) {
      double log_sum_exp = 0;
      if constexpr (kDouble) {
        LogSumExp of_row;
#pragma unroll
        for (int i = 0; i < kElements; ++i) {
          if (i < elements) of_row.add(x[i]);
        }
        log_sum_exp = of_row.value(threads);
        if (total == 0) log_sum_exp = quiet_nan();
        const double its_log_sum_exp = __shfl_sync(kAllLanes, log_sum_exp, source);
        if (is_own) own_log_sum_exp = its_log_sum_exp;
      } else {
        const float its_largest = __shfl_sync(kAllLanes, largest, source);
        const uint64_t its_total = shuffle(total, source);
        if (is_own) {
          own_largest = its_largest;
          own_total = its_total;
        }
      }
      const float scale = 2.0f / __ull2float_rn(total);  // NaN is 0 times it where there is no sum
      const DenseRow<T> out(arguments, first + start + number, index);
#pragma unroll
      for (int i = 0; i < kElements; i += kWidth) {
        if (i >= elements) break;
        const int j = begin + i;
        Pack<Real, kWidth> probs;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          if constexpr (kDouble) {
            probs[e] = exp(x[i + e] - log_sum_exp);
          } else {
            probs[e] = half_weights[i + e] * scale;
          }
        }
        if (!is_here || j >= categories) continue;
        if (kWidth == 1 && work.staged) {
          stage.elements[number * categories + j] = rounded<T>(probs[0]);
        } else {
          out.store(j, probs);
        }
      }
      if (kWidth == 1 && work.staged) {
        stage.store(static_cast<T*>(arguments.probs) + at, here * categories, lane);
#pragma unroll
        for (int i = 0; i < kElements; ++i) {
          const int j = begin + i;
          if (i >= elements || !is_here || j >= categories) break;
          stage.elements[number * categories + j] = j == index ? one<T>() : zero<T>();
        }
        stage.store(static_cast<T*>(arguments.one_hot) + at, here * categories, lane);
      }
    }
    __syncwarp();  // the stage has been read
  }
  if (lane >= rows) return;
  arguments.index[first + lane] = own_index;
  if constexpr (kDense) {
    if (!kDouble) own_log_sum_exp = log_sum_exp(own_largest, own_total);
    arguments.log_sum_exp[first + lane] = own_log_sum_exp;
  }
}

}  // namespace reinmax_kernels::cuda
