// What all draws share: a row's uniforms, and the dense outputs.
#pragma once

#include "contract.h"
#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

using Uniforms = contract::Uniforms<contract::OneLane>;

__device__ __forceinline__ Uniforms uniforms(const SampleArguments& arguments, int64_t row) {
  int64_t seed = 0, number = row;
  if (arguments.rows_per_seed != arguments.logits.rows) {
    seed = row / arguments.rows_per_seed;
    number = row - seed * arguments.rows_per_seed;
  }
  return contract::uniforms<contract::OneLane>(uint64_t(__ldg(arguments.seeds + seed)),
                                               arguments.row_offset + uint64_t(number), arguments.offset);
}

// 1 of a type, without a conversion.
template <class T>
__device__ __forceinline__ T one() {
  if constexpr (std::is_same_v<T, __half>) {
    return __ushort_as_half(0x3C00);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __ushort_as_bfloat16(0x3F80);
  } else {
    return T(1);
  }
}

template <class T>
__device__ __forceinline__ T zero() {
  if constexpr (std::is_same_v<T, __half>) {
    return __ushort_as_half(0);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __ushort_as_bfloat16(0);
  } else {
    return T(0);
  }
}

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
};

}  // namespace reinmax_kernels::cuda
