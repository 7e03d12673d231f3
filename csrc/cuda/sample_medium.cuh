// Draws from rows of one chunk. A warp holds a row in its registers, one row after the other. Lane `i` keeps what is one
// number a row for the warp's row `i`, so that it is computed once and written 32 at a time.
#pragma once

#include "cuda/draw.cuh"
#include "cuda/softmax_double.cuh"
#include "cuda/warp_chunk.cuh"

namespace reinmax_kernels::cuda {

constexpr int kMediumWarps = 4;  // of a block

// The dense outputs of a row of float64, from the logits once more. Returns the log-sum-exp.
template <int kWidth>
__device__ __forceinline__ double store_dense_double(const LogitsRow<double>& row, int categories, bool valid,
                                                     const DenseRow<double>& out, int lane) {
  LogSumExp sum;
  for (int j = lane * kWidth; j < categories; j += 32 * kWidth) {
    const auto x = row.template load<kWidth>(j, true);
#pragma unroll 1
    for (int e = 0; e < kWidth; ++e) sum.add(x[e]);
  }
  const double log_sum_exp = valid ? sum.value() : quiet_nan();
  for (int j = lane * kWidth; j < categories; j += 32 * kWidth) out.store(j, exp_of(row.template load<kWidth>(j, true), log_sum_exp));
  return log_sum_exp;
}

template <class T, int kWidth, bool kDense>
__global__ void __launch_bounds__(32 * kMediumWarps, 8)
    sample_medium_kernel(const SampleArguments arguments, int rows_per_warp) {
  const int lane = threadIdx.x % 32, categories = int(arguments.logits.categories);
  const int64_t first = (int64_t(blockIdx.x) * kMediumWarps + threadIdx.x / 32) * rows_per_warp;
  const int rows = int(min(int64_t(rows_per_warp), arguments.logits.rows - first));
  if (rows <= 0) return;
  const uint64_t uniform = uniforms(arguments, first + min(lane, rows - 1)).element;
  int own_index = 0;
  float own_largest = 0;
  uint64_t own_total = 0;
  double own_log_sum_exp = 0;
  for (int r = 0; r < rows; ++r) {
    const LogitsRow<T> row(arguments.logits, RowNumber(first + r, arguments.logits.inner));
    WarpChunk<T, kWidth, true> chunk(row, 0, categories, lane);
    const float largest = chunk.largest();
    const auto sums = chunk.weigh_segments(largest);
    const uint64_t total = sums.total();
    const uint64_t target = contract::multiply_high(shuffle(uniform, r), total);
    int index = draw_from_chunk(row, 0, categories, largest, sums, target, lane);
    if (total == 0) index = 0;
    if (lane == r) {
      own_index = index;
      own_largest = largest;
      own_total = total;
    }
    if constexpr (kDense) {
      const DenseRow<T> out(arguments, first + r, index);
      if constexpr (std::is_same_v<T, double>) {
        const double log_sum_exp = store_dense_double<kWidth>(row, categories, total != 0, out, lane);
        if (lane == r) own_log_sum_exp = log_sum_exp;
      } else {
        const float scale = 2.0f / __ull2float_rn(total);  // NaN is 0 times it where there is no sum
        chunk.visit(0, lane, [&](int j, Pack<float, kWidth> half_weights) {
#pragma unroll
          for (int e = 0; e < kWidth; ++e) half_weights[e] *= scale;
          out.store(j, half_weights);
        });
      }
    }
  }
  if (lane >= rows) return;
  arguments.index[first + lane] = own_index;
  if constexpr (kDense) {
    if (!std::is_same_v<T, double>) own_log_sum_exp = log_sum_exp(own_largest, own_total);
    arguments.log_sum_exp[first + lane] = own_log_sum_exp;
  }
}

}  // namespace reinmax_kernels::cuda
