// Draws from rows of many chunks. A warp takes one chunk after the other; where rows are few, several blocks share
// each, and a second launch draws.
#pragma once

#include "cuda/chunks.cuh"
#include "cuda/dense.cuh"
#include "cuda/warp_chunk.cuh"

namespace reinmax_kernels::cuda {

constexpr int kMostShared = 1024;  // chunks of a row whose sums are kept in shared memory

// What a launch does. A row in one part is weighed and drawn at once, its chunks' sums in shared memory; else those are
// in `chunks`, of all rows.
struct LongWork {
  Chunks chunks;
  int count;            // chunks of a row
  int chunks_per_part;  // a block's share of them
  int parts;
  bool weighs, draws;
};

// The sums of chunk `k`.
template <ChunkKind kKind, int kWidth, class T>
__device__ __forceinline__ void weigh_chunk(const LogitsRow<T>& row, int k, int categories, const Chunks& chunks,
                                            int lane) {
  const int first = k * contract::kChunk;
  const WarpChunk<T, kWidth, kKind> chunk(row, first, categories, lane);
  const float largest = chunk.largest();
  const uint64_t total = chunk.total(largest);
  if (lane == 0) {
    chunks.largest[k] = largest;
    chunks.total[k] = total;
  }
}

// Those of this warp's chunks of a block's [first, last). Of float64, whose elements take two registers until they are
// narrowed, a whole chunk is too much to load at once.
template <bool kDense, int kWidth, class T>
__device__ __forceinline__ void weigh_chunks(const LogitsRow<T>& row, int first, int last, int categories,
                                             const Chunks& chunks, int lane) {
  constexpr bool kAtOnce = sizeof(T) < 8;
  constexpr ChunkKind kOther = kAtOnce ? ChunkKind::kAny : ChunkKind::kBySegment;
  const int warps = blockDim.x / 32, whole = row.mask.start == nullptr ? min(last, categories / contract::kChunk) : 0;
  const int start = first + threadIdx.x / 32;
  int k = start;
  if constexpr (kAtOnce) {
    for (; k < whole; k += warps) weigh_chunk<ChunkKind::kWhole, kWidth>(row, k, categories, chunks, lane);
  }
  for (; k < last; k += warps) weigh_chunk<kOther, kWidth>(row, k, categories, chunks, lane);
  if constexpr (kDense && std::is_same_v<T, double>) {  // by itself, for its constants take registers
    for (k = start; k < last; k += warps) {
      const int begin = k * contract::kChunk, end = min(begin + contract::kChunk, categories);
      const double log_sum_exp = log_sum_exp_of<kWidth>(row, begin, end, lane);
      if (lane == 0) chunks.log_sum_exp[k] = log_sum_exp;
    }
  }
}

// The sum of weights of segment number `lane` of the chosen chunk, if this warp has it.
template <class T, int kWidth>
__device__ __forceinline__ uint64_t weigh_segments(const LogitsRow<T>& row, int categories, const ChosenChunk& chosen,
                                                   int lane, const Sharers& sharers) {
  const int first = chosen.number * contract::kChunk;
  const WarpChunk<T, kWidth, ChunkKind::kBySegment> chunk(row, first, categories, lane, sharers);
  return chunk.segment_total(chosen.largest, lane);
}

// The category drawn from the chosen chunk, by a warp, of whose segments `own` is number `lane`'s sum of weights.
template <class T, int kWidth>
__device__ __forceinline__ int draw(const LogitsRow<T>& row, int categories, const ChosenChunk& chosen, uint64_t own,
                                    int lane) {
  const int first = chosen.number * contract::kChunk;
  const DrawnElement drawn =
      draw_element<T, kWidth>(row, first, categories, chosen.largest, own, chosen.element_uniform, lane);
  return chosen.row_total > 0 ? drawn.category : 0;
}

template <class T, int kWidth, bool kDense>
__global__ void __launch_bounds__(32 * kMostLongWarps<kDense>, 32 / kMostLongWarps<kDense>)
    sample_long_kernel(const SampleArguments arguments, const LongWork work) {
  constexpr bool kDouble = std::is_same_v<T, double>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int categories = int(arguments.logits.categories);
  const unsigned parts = unsigned(work.parts);
  const int64_t row_number = blockIdx.x / parts;
  const int first = int(blockIdx.x % parts) * work.chunks_per_part;
  const int last = min(first + work.chunks_per_part, work.count);
  const LogitsRow<T> row(arguments.logits, RowNumber(row_number, arguments.logits.inner));
  const Chunks chunks = work.weighs && work.draws ? Chunks(memory_of_launch(), work.count, kDense && kDouble)
                                                  : work.chunks.from(row_number * work.count);
  if (work.weighs) {
    weigh_chunks<kDense, kWidth>(row, first, last, categories, chunks, lane);
    __syncthreads();
  }
  if (!work.draws) return;

  const int threads = work.weighs ? 32 : blockDim.x;  // a warp is enough for the chunks of shared memory
  ChosenChunk chosen;
  if (threadIdx.x < threads) chosen = choose_chunk(arguments, row_number, chunks, work.count, threads);
  if (work.weighs) {
    __shared__ ChosenChunk told;
    if (threadIdx.x == 0) told = chosen;
    __syncthreads();
    chosen = told;
  }
  if constexpr (!kDense) {
    // All warps weigh the chosen chunk's segments: by one of them it takes as long as to weigh a chunk.
    __shared__ uint64_t total_of_segment[kSegments<kWidth>];
    const Sharers sharers{warp, warps};
    const uint64_t own = weigh_segments<T, kWidth>(row, categories, chosen, lane, sharers);
    if (lane < kSegments<kWidth> && sharers.has(lane)) total_of_segment[lane] = own;
    __syncthreads();
    if (warp > 0) return;
    const uint64_t of_lane = lane < kSegments<kWidth> ? total_of_segment[lane] : 0;
    const int index = draw<T, kWidth>(row, categories, chosen, of_lane, lane);
    if (lane == 0) arguments.index[row_number] = index;
  } else {
    double log_sum_exp = 0;
    if constexpr (kDouble) {
      log_sum_exp = log_sum_exp_of_parts(chunks.log_sum_exp, chosen.row_total > 0 ? work.count : 0, lane);
    }
    const Probability<T> probability(chosen.row_largest, chosen.row_total, log_sum_exp);
    DenseRow<T> out(arguments, row_number, -1);
    if (first <= chosen.number && chosen.number < last && (last - 1 - chosen.number) % warps == warp) {
      const uint64_t own = weigh_segments<T, kWidth>(row, categories, chosen, lane, {});
      out.index = draw<T, kWidth>(row, categories, chosen, own, lane);
      if (lane == 0) {
        arguments.index[row_number] = out.index;
        arguments.log_sum_exp[row_number] =
            kDouble ? log_sum_exp : log_sum_exp_of(chosen.row_largest, chosen.row_total);
      }
    }
    // Backwards, for what was read last is in the caches.
    for (int k = last - 1 - warp; k >= first; k -= warps) {
      out.template store_chunk<kWidth>(row, k * contract::kChunk, categories, probability, lane);
    }
  }
}

}  // namespace reinmax_kernels::cuda
