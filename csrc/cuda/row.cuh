// Rows, as kernels read and write them: where they lie, the mask, and reductions over neighbouring threads. Logits,
// mask and gradients come with any strides between rows; what is written is contiguous.
//
// Threads share a row the same way everywhere: access `a` of thread `t` of so many is for the kWidth elements from
// (a * threads + t) * kWidth on. kWidth is what 16 bytes hold, or 1 where rows don't allow for that (`is_wide`).
#pragma once

#include "cuda/elements.cuh"
#include "cuda/kernels.h"
#include "cuda/nvcc.cuh"

namespace reinmax_kernels::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// The same number: what depends on it inside a loop the compiler does not compute ahead of the loop, to hold it all the
// while in registers.
template <class Number>
__device__ __forceinline__ Number within_loop(Number number) {
  return opaque(number);
}

// Which row, in the two loops that all tensors of a kernel step by.
struct RowNumber {
  int64_t outer, inner = 0;

  __device__ __forceinline__ RowNumber(int64_t row, const Divisor& size) : outer(row) {
    if (size.value() == 1) return;  // mostly: rows need no division
    outer = size.divide(row);
    inner = row - outer * size.value();
  }
};

// One row of a tensor; `start` is null where there is no such tensor.
template <class T>
struct Row {
  const T* start;
  int64_t category_stride;

  __device__ __forceinline__ Row(const Rows& rows, const RowNumber& row)
      : start(static_cast<const T*>(rows.data)), category_stride(rows.category_stride) {
    if (start != nullptr) start += row.outer * rows.outer_stride + row.inner * rows.inner_stride;
  }

  template <int kWidth, bool kInPlace = false>
  __device__ __forceinline__ Pack<T, kWidth> load(int j) const {
    if constexpr (kWidth == 1) {
      return load_adjacent<1, kInPlace>(start + j * category_stride);
    } else {
      return load_adjacent<kWidth, kInPlace>(start + j);
    }
  }
};

// A row of logits, which are -inf where the mask forbids. In both, categories lie side by side.
template <class T>
struct LogitsRow {
  Row<T> values;
  Row<unsigned char> mask;

  __device__ __forceinline__ LogitsRow(const Logits& logits, const RowNumber& row)
      : values(logits.values, row), mask(logits.mask, row) {}

  // The elements from `j` on, or -inf where those are not inside the row.
  template <int kWidth>
  __device__ __forceinline__ Pack<T, kWidth> load_stored(int j, bool inside) const {
    Pack<T, kWidth> x;
    x.fill(minus_infinity<T>());
    if (inside) {
      x = load_adjacent<kWidth>(values.start + j);
      if (mask.start != nullptr) {
        const auto allowed = load_adjacent<kWidth>(mask.start + j);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) x[e] = allowed[e] ? x[e] : minus_infinity<T>();
      }
    }
    return x;
  }

  // The same as they are computed with.
  template <int kWidth>
  __device__ __forceinline__ Pack<Computed<T>, kWidth> load(int j, bool inside) const {
    return all_computed(load_stored<kWidth>(j, inside));
  }
};

// Whether every access to so many of these rows' elements, of so many bytes each, is to one aligned piece of memory.
template <class T, int kWidth = kWidest<T>>
bool is_wide(const Rows& rows, int element_bytes) {
  const bool begins_aligned = reinterpret_cast<uintptr_t>(rows.data) % (kWidth * element_bytes) == 0;
  const bool stays_aligned = rows.outer_stride % kWidth == 0 && rows.inner_stride % kWidth == 0;
  return rows.data == nullptr || (begins_aligned && stays_aligned && rows.category_stride == 1);
}

// Of logits of type T, their mask, and what is written beside them [N, C].
template <class T, int kWidth = kWidest<T>>
bool is_wide(const Logits& logits) {
  return logits.categories % kWidth == 0 && is_wide<T, kWidth>(logits.values, sizeof(T)) &&
         is_wide<T, kWidth>(logits.mask, 1);
}

// f over groups of so many neighbouring threads of a warp, a power of two, of each of the values: all of a group get
// the results. The values' shuffles are under way side by side.
template <class X, int kCount, class Function>
__device__ __forceinline__ void reduce(X (&values)[kCount], Function f, int threads = 32) {
#pragma unroll
  for (int distance = threads / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (X& value : values) value = f(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
}

template <class X, class Function>
__device__ __forceinline__ X reduce(X x, Function f, int threads = 32) {
  X values[] = {x};
  reduce(values, f, threads);
  return values[0];
}

// NaN is dropped.
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float smaller(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double smaller(double a, double b) { return fmin(a, b); }

}  // namespace reinmax_kernels::cuda
