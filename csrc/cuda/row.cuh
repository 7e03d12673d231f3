// Rows, as kernels read and write them: where they lie, accesses of up to 16 bytes to adjacent elements, the mask, and
// reductions over neighbouring threads. Logits, mask and gradients come with any strides; what is written is
// contiguous.
//
// Threads share a row the same way everywhere: access `a` of thread `t` of so many is for the kWidth elements from
// (a * threads + t) * kWidth on. kWidth is what 16 bytes hold, or 1 where rows don't allow for that (`is_wide`).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/kernels.h"

namespace reinmax_kernels::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// float64 stays float64; everything else is computed in float32.
template <class T>
using Computed = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
constexpr int kWidest = 16 / int(sizeof(T));  // elements of one access

template <class Real>
__host__ __device__ constexpr Real infinity() {
  return Real(__builtin_huge_val());
}

// Numbers of a type, without a conversion.
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

template <class T>
__device__ __forceinline__ T minus_infinity() {
  if constexpr (std::is_same_v<T, __half>) {
    return __ushort_as_half(0xFC00);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __ushort_as_bfloat16(0xFF80);
  } else {
    return -infinity<T>();
  }
}

// Elements in registers.
template <class Real, int kWidth>
struct Pack {
  Real at[kWidth];

  __device__ __forceinline__ Real& operator[](int e) { return at[e]; }
  __device__ __forceinline__ const Real& operator[](int e) const { return at[e]; }

  __device__ __forceinline__ void fill(Real x) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) at[e] = x;
  }
};

__device__ __forceinline__ float computed(float x) { return x; }
__device__ __forceinline__ double computed(double x) { return x; }
__device__ __forceinline__ float computed(__half x) { return __half2float(x); }
__device__ __forceinline__ float computed(__nv_bfloat16 x) { return __bfloat162float(x); }

// bfloat16 is the upper half of a float32, one shift or mask for each of a pair.
template <int kWidth>
__device__ __forceinline__ Pack<float, kWidth> all_computed(const Pack<__nv_bfloat16, kWidth>& x) {
  Pack<float, kWidth> result;
  if constexpr (kWidth % 2 == 0) {
    unsigned pairs[kWidth / 2];
    memcpy(pairs, &x, sizeof(x));
#pragma unroll
    for (int e = 0; e < kWidth; e += 2) {
      result[e] = __uint_as_float(pairs[e / 2] << 16);
      result[e + 1] = __uint_as_float(pairs[e / 2] & 0xFFFF0000u);
    }
  } else {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) result[e] = computed(x[e]);
  }
  return result;
}

template <int kWidth, class T>
__device__ __forceinline__ Pack<Computed<T>, kWidth> all_computed(const Pack<T, kWidth>& x) {
  Pack<Computed<T>, kWidth> result;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) result[e] = computed(x[e]);
  return result;
}

template <class T>
__device__ __forceinline__ T rounded(Computed<T> x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// What one instruction moves.
template <int kBytes>
struct BitsOf;
template <>
struct BitsOf<1> {
  using Type = unsigned char;
};
template <>
struct BitsOf<2> {
  using Type = unsigned short;
};
template <>
struct BitsOf<4> {
  using Type = unsigned int;
};
template <>
struct BitsOf<8> {
  using Type = uint2;
};
template <>
struct BitsOf<16> {
  using Type = uint4;
};

// Of memory that no kernel writes while this one runs.
template <int kWidth, class T>
__device__ __forceinline__ Pack<T, kWidth> load_adjacent(const T* from) {
  using Bits = typename BitsOf<sizeof(T) * kWidth>::Type;
  const Bits bits = __ldg(reinterpret_cast<const Bits*>(from));
  Pack<T, kWidth> elements;
  static_assert(sizeof(elements) == sizeof(bits));
  memcpy(&elements, &bits, sizeof(bits));
  return elements;
}

template <class T, int kWidth>
__device__ __forceinline__ void store_bits(T* to, const Pack<T, kWidth>& elements) {
  using Bits = typename BitsOf<sizeof(T) * kWidth>::Type;
  Bits bits;
  memcpy(&bits, &elements, sizeof(bits));
  __stwb(reinterpret_cast<Bits*>(to), bits);  // as an assignment, the compiler may take it apart
}

template <class T, int kWidth>
__device__ __forceinline__ void store_adjacent(T* to, const Pack<Computed<T>, kWidth>& values) {
  Pack<T, kWidth> elements;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) elements[e] = rounded<T>(values[e]);
  store_bits(to, elements);
}

// The same number, as one that the compiler knows nothing about: what depends on it inside a loop it does not compute
// ahead of the loop, to hold it all the while in registers.
__device__ __forceinline__ int within_loop(int number) {
  asm volatile("" : "+r"(number));
  return number;
}

// Which row, in the two loops that all tensors of a kernel step by.
struct RowNumber {
  int64_t outer, inner;

  __device__ __forceinline__ RowNumber(int64_t row, const Divisor& size)
      : outer(size.divide(row)), inner(row - outer * size.value()) {}
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

  template <int kWidth>
  __device__ __forceinline__ Pack<T, kWidth> load(int j) const {
    if constexpr (kWidth == 1) {
      return load_adjacent<1>(start + j * category_stride);
    } else {
      return load_adjacent<kWidth>(start + j);
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

// A gradient at the same elements: 0 where there is none, and where the category can't be drawn, whatever arrived
// there.
template <int kWidth, class T>
__device__ __forceinline__ Pack<Computed<T>, kWidth> load_gradient(const Row<T>& gradient,
                                                                   const Pack<Computed<T>, kWidth>& x, int j,
                                                                   bool inside) {
  Pack<Computed<T>, kWidth> g;
  g.fill(0);
  if (inside && gradient.start != nullptr) {
    const auto loaded = gradient.template load<kWidth>(j);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) g[e] = x[e] == -infinity<Computed<T>>() ? 0 : computed(loaded[e]);
  }
  return g;
}

// Whether every access of kWidth elements of these rows is to one aligned piece of memory.
template <class T>
inline bool is_wide(const Rows& rows) {
  constexpr int kWidth = kWidest<T>;
  const bool aligned = reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.outer_stride % kWidth == 0 &&
                       rows.inner_stride % kWidth == 0 && rows.category_stride == 1;
  return rows.data == nullptr || aligned;
}

// Logits of type T, their mask, and what is written beside them [N, C].
template <class T>
bool is_wide(const Logits& logits) {
  return logits.categories % kWidest<T> == 0 && is_wide<T>(logits.values) && is_wide<T>(logits.mask);
}

// f over groups of so many neighbouring threads of a warp, a power of two: all of a group get the result.
template <class X, class Function>
__device__ __forceinline__ X reduce(X x, Function f, int threads = 32) {
#pragma unroll
  for (int distance = threads / 2; distance > 0; distance /= 2) {
    x = f(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  return x;
}

template <class Real>
__device__ __forceinline__ Real sum(Real x, int threads = 32) {
  return reduce(x, [](Real a, Real b) { return a + b; }, threads);
}

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

// NaN is dropped.
template <class Real>
__device__ __forceinline__ Real largest(Real x, int threads = 32) {
  return reduce(x, [](Real a, Real b) { return larger(a, b); }, threads);
}

}  // namespace reinmax_kernels::cuda
