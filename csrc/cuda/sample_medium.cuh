// Draws from rows of one chunk. A warp holds a row in its registers.
#pragma once

#include "cuda/dense.cuh"
#include "cuda/draw.cuh"
#include "cuda/launch.cuh"
#include "cuda/warp_chunk.cuh"

namespace reinmax_kernels::cuda {

constexpr int kMediumRows = 8;  // of a block, and its warps

template <class T, int kWidth, bool kDense>
__global__ void __launch_bounds__(32 * kMediumRows, kResidentThreads / (32 * kMediumRows))
    sample_medium_kernel(const SampleArguments arguments) {
  __shared__ NumbersOfRows<T, kDense, kMediumRows> numbers;
  const int thread = threadIdx.x, lane = thread % 32, r = thread / 32;
  const int categories = int(arguments.logits.categories);
  const int64_t first = int64_t(blockIdx.x) * kMediumRows;
  const int rows = int(min(int64_t(kMediumRows), arguments.logits.rows - first));
  // Loads are under way while the uniforms are computed; a warp without a row has the last one's.
  const LogitsRow<T> row(arguments.logits, RowNumber(first + min(r, rows - 1), arguments.logits.inner));
  const WarpChunk<T, kWidth, ChunkKind::kBySegment> chunk(row, 0, categories, lane);
  numbers.start(arguments, first, rows, thread);
  __syncthreads();
  if (r < rows) {
    const float largest = chunk.largest();
    const uint64_t own = chunk.segment_total(largest, lane);
    const auto [category, total] = draw_element<T, kWidth>(row, 0, categories, largest, own, numbers.uniform(r), lane);
    const int index = total > 0 ? category : 0;
    double log_sum_exp = 0;
    if constexpr (kDense) {
      if constexpr (std::is_same_v<T, double>) {
        log_sum_exp = total > 0 ? log_sum_exp_of<kWidth>(row, 0, categories, lane) : quiet_nan();
      }
      const Probability<T> probability(largest, total, log_sum_exp);
      DenseRow<T>(arguments, first + r, index).template store_chunk<kWidth>(row, 0, categories, probability, lane);
    }
    if (lane == 0) numbers.keep(r, index, largest, total, log_sum_exp);
  }
  __syncthreads();
  numbers.store(arguments, first, rows, thread);
}

}  // namespace reinmax_kernels::cuda
