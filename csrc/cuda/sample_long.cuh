// Draws from rows of many chunks. A warp takes one chunk after the other; where rows are few, several blocks share each,
// and a second launch draws.
#pragma once

#include "cuda/chunks.cuh"
#include "cuda/draw.cuh"
#include "cuda/softmax_double.cuh"

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

// The sums of a chunk.
template <class T, int kWidth, bool kDense>
__device__ __forceinline__ void weigh_chunk(const LogitsRow<T>& row, int k, int categories, const Chunks& chunks,
                                            int lane) {
  const int first = k * contract::kChunk;
  const WarpChunk<T, kWidth, false> chunk(row, first, categories, lane);
  const float largest = chunk.largest();
  const uint64_t total = chunk.total(largest);
  if (lane == 0) {
    chunks.largest[k] = largest;
    chunks.total[k] = total;
  }
  if constexpr (kDense && std::is_same_v<T, double>) {
    LogSumExp sum;
    const int last = min(first + contract::kChunk, categories);
    for (int j = first + lane * kWidth; j < last; j += 32 * kWidth) {
      const auto x = row.template load<kWidth>(j, true);
      for (int e = 0; e < kWidth; ++e) sum.add(x[e]);
    }
    const double log_sum_exp = sum.value();
    if (lane == 0) chunks.log_sum_exp[k] = log_sum_exp;
  }
}

// The category drawn from the chosen chunk, by a warp.
template <class T, int kWidth>
__device__ __forceinline__ int draw(const LogitsRow<T>& row, int categories, const ChosenChunk& chosen,
                                    uint64_t uniform, int lane) {
  const int first = chosen.number * contract::kChunk;
  WarpChunk<T, kWidth, false> chunk(row, first, categories, lane);
  const auto sums = chunk.weigh_segments(chosen.largest);
  const uint64_t target = contract::multiply_high(uniform, sums.total());
  const int index = draw_from_chunk(row, first, categories, chosen.largest, sums, target, lane);
  return chosen.row_total > 0 ? index : 0;
}

// exp(x - log_sum_exp) of a row whose log-sum-exp is told by its largest logit and its sum of weights, or, of float64,
// by itself. NaN where there is no sum.
template <class T>
class Probability {
 public:
  __device__ __forceinline__ Probability(const ChosenChunk& chosen, double log_sum_exp) : log_sum_exp_(log_sum_exp) {
    const float total = __ull2float_rn(chosen.row_total);
    if (std::is_same_v<T, float>) {
      origin_ = reference_point(chosen.row_largest);
      scale_ = 2.0f / total;
    } else {
      origin_ = chosen.row_largest;
      scale_ = contract::kWeightBits - log2f(total);
    }
  }

  template <int kWidth>
  __device__ __forceinline__ Pack<Computed<T>, kWidth> operator()(Pack<Computed<T>, kWidth> x) const {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      if constexpr (std::is_same_v<T, double>) {
        x[e] = exp(x[e] - log_sum_exp_);
      } else if constexpr (std::is_same_v<T, float>) {
        x[e] = half_weight(x[e], origin_) * scale_;
      } else {  // by the hardware's exponential, whose error is far below the rounding of half types
        const float exponent = __fmaf_rn(x[e] - origin_, contract::kLog2E, scale_);
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(x[e]) : "f"(exponent));
      }
    }
    return x;
  }

 private:
  float origin_, scale_;  // the scale is a factor or, of half types, a power of two
  double log_sum_exp_;
};

// The dense outputs of a chunk, from its logits once more.
template <class T, int kWidth>
__device__ __forceinline__ void store_chunk(const LogitsRow<T>& row, int k, int categories,
                                            const Probability<T>& probability, const DenseRow<T>& out, int lane) {
  constexpr int kAccesses = contract::kChunk / (32 * kWidth);
  constexpr int kAtOnce = sizeof(T) == 8 ? 1 : kWidth > 1 ? 16 / kWidth : 4;  // accesses, for memory's latency
  static_assert(kAccesses % kAtOnce == 0);
  const int first = k * contract::kChunk + lane * kWidth;
#pragma unroll 1
  for (int a = 0; a < kAccesses; a += kAtOnce) {
    Pack<Computed<T>, kWidth> x[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int j = first + (a + i) * 32 * kWidth;
      x[i] = row.template load<kWidth>(j, j < categories);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int j = first + (a + i) * 32 * kWidth;
      if (j < categories) out.store(j, probability(x[i]));
    }
  }
}

template <class T, int kWidth, bool kDense>
__global__ void __launch_bounds__(32 * kLongWarps, 4)
    sample_long_kernel(const SampleArguments arguments, const LongWork work) {
  extern __shared__ uint64_t chunk_memory[];
  constexpr bool kDouble = std::is_same_v<T, double>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int categories = int(arguments.logits.categories);
  const unsigned parts = unsigned(work.parts);
  const int64_t row_number = blockIdx.x / parts;
  const int first = int(blockIdx.x % parts) * work.chunks_per_part;
  const int last = min(first + work.chunks_per_part, work.count);
  const LogitsRow<T> row(arguments.logits, RowNumber(row_number, arguments.logits.inner));
  const Chunks chunks = work.weighs && work.draws ? Chunks(chunk_memory, work.count, kDense && kDouble)
                                                  : work.chunks.from(row_number * work.count);
  if (work.weighs) {
    for (int k = first + warp; k < last; k += warps) weigh_chunk<T, kWidth, kDense>(row, k, categories, chunks, lane);
    __syncthreads();
  }
  if (!work.draws) return;

  const Uniforms uniform = uniforms(arguments, row_number);
  const ChosenChunk chosen = choose_chunk(chunks, work.count, uniform.chunk);
  if constexpr (!kDense) {
    if (warp > 0) return;
    const int index = draw<T, kWidth>(row, categories, chosen, uniform.element, lane);
    if (lane == 0) arguments.index[row_number] = index;
  } else {
    const double log_sum_exp =
        kDouble ? log_sum_exp_of(chunks.log_sum_exp, chosen.row_total > 0 ? work.count : 0, lane)
                : cuda::log_sum_exp(chosen.row_largest, chosen.row_total);
    const Probability<T> probability(chosen, log_sum_exp);
    for (int k = first + warp; k < last; k += warps) {
      DenseRow<T> out(arguments, row_number, -1);
      if (k == chosen.number) {
        out.index = draw<T, kWidth>(row, categories, chosen, uniform.element, lane);
        if (lane == 0) {
          arguments.index[row_number] = out.index;
          arguments.log_sum_exp[row_number] = log_sum_exp;
        }
      }
      store_chunk<T, kWidth>(row, k, categories, probability, out, lane);
    }
  }
}

}  // namespace reinmax_kernels::cuda
