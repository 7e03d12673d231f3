// The dense outputs of a draw: the one-hot and the probabilities.
#pragma once

#include "cuda/softmax_double.cuh"
#include "cuda/weights.cuh"

namespace reinmax_kernels::cuda {

// One over a sum of weights, infinite for no sum.
__device__ __forceinline__ float inverse(uint64_t sum) { return approximate_reciprocal(__ull2float_rn(sum)); }

// exp(x - log_sum_exp) of a row whose log-sum-exp is told by its largest logit and its sum of weights, or, of float64,
// by itself. NaN where there is no sum. But for float64 by the hardware's exponential, whose relative error is 2^-22:
// draws are made from weights, which are exact.
template <class T>
class Probability {
 public:
  __device__ __forceinline__ Probability(float largest, uint64_t sum, double log_sum_exp) : log_sum_exp_(log_sum_exp) {
    constexpr float kLargestWeight = float(uint64_t{1} << contract::kWeightBits);
    if (std::is_same_v<T, float>) {
      origin_ = reference_point(largest);
      scale_ = kLargestWeight * inverse(sum);
    } else {
      origin_ = largest;
      scale_ = contract::kWeightBits - approximate_log2(__ull2float_rn(sum));
    }
  }

  template <int kWidth>
  __device__ __forceinline__ Pack<Computed<T>, kWidth> operator()(Pack<Computed<T>, kWidth> x) const {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      if constexpr (std::is_same_v<T, double>) {
        x[e] = exp(x[e] - log_sum_exp_);
      } else if constexpr (std::is_same_v<T, float>) {
        x[e] = approximate_exp2((x[e] - origin_) * contract::kLog2E) * scale_;
      } else {
        x[e] = approximate_exp2(__fmaf_rn(x[e] - origin_, contract::kLog2E, scale_));
      }
    }
    return x;
  }

 private:
  float origin_, scale_;  // the scale is a factor or, of half types, a power of two
  double log_sum_exp_;
};

// The dense outputs of one row.
template <class T>
struct DenseRow {
  T *one_hot, *probs;
  int index;

  __device__ __forceinline__ DenseRow(const SampleArguments& arguments, int64_t row, int drawn) : index(drawn) {
    const int64_t start = row * arguments.logits.categories;
    one_hot = static_cast<T*>(arguments.one_hot) + start;
    probs = static_cast<T*>(arguments.probs) + start;
  }

  // From category `j` on.
  template <int kWidth>
  __device__ __forceinline__ void store(int j, const Pack<Computed<T>, kWidth>& p) const {
    Pack<T, kWidth> is_drawn;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) is_drawn[e] = index - j == e ? one<T>() : zero<T>();
    store_bits(one_hot + j, is_drawn);
    store_adjacent<T>(probs + j, p);
  }

  // Of the chunk from `first` on, by a warp, from its logits once more, which other warps' outputs are not to displace
  // in the caches. The one of the one-hot comes last, so that no other position is compared with it.
  template <int kWidth>
  __device__ __forceinline__ void store_chunk(const LogitsRow<T>& row, int first, int categories,
                                              const Probability<T>& probability, int lane) const {
    const int last = min(first + contract::kChunk, categories);
    if (row.mask.start == nullptr && (last - first) % (kAtOnce<kWidth> * 32 * kWidth) == 0) {
      store_without_the_one<kWidth, true>(row, first, last, probability, lane);
    } else {
      store_without_the_one<kWidth, false>(row, first, last, probability, lane);
    }
    __syncwarp();
    if (lane == 0 && first <= index && index < last) one_hot[index] = one<T>();
  }

 private:
  template <int kWidth>
  static constexpr int kAtOnce = sizeof(T) == 8 ? 1
                                 : kWidth > 1   ? 8 / kWidth
                                                : 4;  // accesses, for memory's latency

  // kWhole: without a mask, and as many as all lanes take at once.
  template <int kWidth, bool kWhole>
  __device__ __forceinline__ void store_without_the_one(const LogitsRow<T>& row, int first, int last,
                                                        const Probability<T>& probability, int lane) const {
    Pack<T, kWidth> zeros;
    zeros.fill(zero<T>());
#pragma unroll 1
    for (int start = first + lane * kWidth; start < last; start += kAtOnce<kWidth> * 32 * kWidth) {
      Pack<Computed<T>, kWidth> x[kAtOnce<kWidth>];
#pragma unroll
      for (int i = 0; i < kAtOnce<kWidth>; ++i) {
        const int j = start + i * 32 * kWidth;
        if constexpr (kWhole) {
          x[i] = all_computed(load_adjacent<kWidth>(row.values.start + j));
        } else {
          x[i] = row.template load<kWidth>(j, j < last);
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce<kWidth>; ++i) {
        const int j = start + i * 32 * kWidth;
        if (!kWhole && j >= last) continue;
        store_bits(one_hot + j, zeros, true);
        store_adjacent<T>(probs + j, probability(x[i]), true);
      }
    }
  }
};

}  // namespace reinmax_kernels::cuda
