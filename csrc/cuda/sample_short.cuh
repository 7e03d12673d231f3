// Draws from rows of few categories. A warp has up to 32 rows, of which groups of its threads draw from some at a time:
// each thread has some adjacent categories.
#pragma once

#include "cuda/dense.cuh"
#include "cuda/draw.cuh"
#include "cuda/short_rows.cuh"

namespace reinmax_kernels::cuda {

// Whether a thread stores its elements as two accesses of 16 bytes. Each would fill half of a sector, of 32 bytes, and
// memory takes whole ones.
template <class T, int kWidth>
constexpr bool kFillsHalfSectors = std::is_same_v<T, float> && kWidth > 1;

// Of four adjacent accesses' elements, of which an even thread has the first two and the next one the others: then one
// has the first and the third, the other the second and the fourth. At a distance of 0 an even thread keeps its own.
template <int kWidth>
__device__ __forceinline__ void interleave(Pack<float, kWidth> (&accesses)[2], bool odd, int distance) {
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    const float first = accesses[0][e], second = accesses[1][e];
    const float received = __shfl_xor_sync(kAllLanes, odd ? first : second, distance);
    accesses[0][e] = odd ? received : first;
    accesses[1][e] = odd ? second : received;
  }
}

// Whether the compiler is to know how many elements a thread has, which takes registers: newer targets have too few.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kKnowsElements = false;
#else
constexpr bool kKnowsElements = true;
#endif

template <class T, int kWidth, bool kDense>
__global__ void __launch_bounds__(32 * kShortWarps, 8)
    sample_short_kernel(const SampleArguments arguments, const ShortWork work) {
  constexpr int kElements = kShortElements<T, kWidth>;
  constexpr bool kDouble = std::is_same_v<T, double>, kStaged = kWidth == 1, kAtOnce = !kStaged && !kDouble;
  constexpr bool kSwaps = kDense && kFillsHalfSectors<T, kWidth>;
  using Real = Computed<T>;
  __shared__ NumbersOfRows<T, kDense, 32> numbers_of_warp[kShortWarps];
  __shared__ Stage<T> stage_of_warp[kStaged ? kShortWarps : 1];
  const int warp = threadIdx.x / 32;
  auto& numbers = numbers_of_warp[warp];
  auto& stage = stage_of_warp[kStaged ? warp : 0];

  const int threads = 1 << work.group_bits, groups = 32 >> work.group_bits;
  const int categories = int(arguments.logits.categories);
  const int elements = (kDouble && !kStaged) || (kSwaps && kKnowsElements) ? kElements : work.elements;
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
    const auto [category, total] = draw_of_group(half_weights, elements, sum, numbers.uniform(r), lane, threads);
    const int index = total > 0 ? category : 0;

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
        Pack<Real, kWidth> probs[kElements / kWidth];
#pragma unroll
        for (int i = 0; i < kElements; ++i) probs[i / kWidth][i % kWidth] = half_weights[i] * scale;
        int from = begin, step = kWidth;
        if constexpr (kSwaps) {
          const int odd = rank & 1, distance = threads > 1 ? 1 : 0;
          interleave(probs, odd, distance);
          from -= odd * kWidth;
          step += distance * kWidth;
        }
#pragma unroll
        for (int a = 0; a < kElements / kWidth; ++a) {
          const int j = from + a * step;
          if (is_here && j < categories) out.store(j, probs[a]);
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
