// Which chunk of a row is drawn, by a warp or all threads of a block together.
#pragma once

#include "cuda/draw.cuh"

namespace reinmax_kernels::cuda {

constexpr int kLongWarps = 8;  // of a block, at most, unless it has a dense row to itself

template <bool kDense>
constexpr int kMostLongWarps = kDense ? 16 : kLongWarps;

// Of the chunks of a row, or of all rows [N, chunks]: the sum of weights; of float64 logits whose probabilities are
// wanted the log-sum-exp, else null; and the largest logit.
struct Chunks {
  uint64_t* total;
  double* log_sum_exp;
  float* largest;

  static constexpr int64_t bytes(int64_t count, bool with_log_sum_exp) {
    return count * int64_t(sizeof(uint64_t) + sizeof(float) + (with_log_sum_exp ? sizeof(double) : 0));
  }

  // In memory aligned to 8 bytes.
  __host__ __device__ Chunks(void* memory, int64_t count, bool with_log_sum_exp)
      : total(static_cast<uint64_t*>(memory)),
        log_sum_exp(with_log_sum_exp ? reinterpret_cast<double*>(total + count) : nullptr) {
    largest = reinterpret_cast<float*>(total + (with_log_sum_exp ? 2 : 1) * count);
  }

  __device__ __forceinline__ Chunks from(int64_t first) const {
    Chunks chunks = *this;
    chunks.total += first;
    chunks.largest += first;
    if (log_sum_exp != nullptr) chunks.log_sum_exp += first;
    return chunks;
  }

  // W of the contract: a chunk's sum of weights beside those of the others, as an integer.
  __device__ __forceinline__ uint64_t weight(int k, float reference) const {
    const float exponent = (largest[k] - reference) * contract::kLog2E;
    const float factor = contract::exp2<0, OneFloat>(exponent);
    return uint64_t(__double2ll_rn(__dmul_rn(double(total[k]), double(factor))));
  }
};

struct ChosenChunk {
  int number;  // 0 where the row has no distribution
  float largest;
  float row_largest;
  uint64_t row_total;        // 0 where the row has no distribution
  uint64_t element_uniform;  // chooses the element within the chunk
};

// By so many threads: the first warp, or the block. Each weighs a run of chunks; the one whose run is hit looks through
// it once more.
__device__ __forceinline__ ChosenChunk choose_chunk(const SampleArguments& arguments, int64_t row, const Chunks& chunks,
                                                    int count, int threads) {
  __shared__ float largest_of_warp[kMostLongWarps<true>];
  __shared__ uint64_t total_of_warp[kMostLongWarps<true>];
  __shared__ Uniforms uniform;
  __shared__ int hit;
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const auto synchronize = [=] {
    if (threads == 32) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  };

  float largest = -infinity<float>();
  for (int k = thread; k < count; k += threads) largest = larger_or_nan(largest, chunks.largest[k]);
  largest = largest_or_nan(largest);
  if (lane == 0) largest_of_warp[warp] = largest;
  if (warp == 0) {
    const Uniforms of_row = uniforms(arguments, row);
    if (lane == 0) uniform = of_row, hit = 0;
  }
  synchronize();
  for (int w = 0; w < threads / 32; ++w) largest = larger_or_nan(largest, largest_of_warp[w]);
  const float reference = reference_point(largest);

  const int run = (count + threads - 1) / threads;
  const int first = min(thread * run, count), last = min(first + run, count);
  uint64_t own = 0;
#pragma unroll 1
  for (int k = first; k < last; ++k) own += chunks.weight(k, reference);
  uint64_t through = inclusive_sum(own, lane, 32);
  if (lane == 31) total_of_warp[warp] = through;
  synchronize();
  uint64_t row_total = 0;
  for (int w = 0; w < threads / 32; ++w) {
    if (w == warp) through += row_total;
    row_total += total_of_warp[w];
  }

  const uint64_t target = contract::multiply_high(uniform.chunk, row_total);
  if (through > target && through - own <= target) {
    uint64_t prefix = through - own;
    int k = first - 1;
    do prefix += chunks.weight(++k, reference);
    while (prefix <= target);
    hit = k;
  }
  synchronize();
  return {hit, chunks.largest[hit], largest, row_total, uniform.element};
}

}  // namespace reinmax_kernels::cuda
