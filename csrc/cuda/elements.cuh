// Elements in registers: their types, conversions, and accesses of up to 16 bytes to adjacent ones.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace reinmax_kernels::cuda {

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

// Of memory that no kernel writes while this one runs. kInPlace: the compiler does not put it off until behind the next
// `__syncwarp`, as it may do with others, to need fewer registers.
template <int kWidth, bool kInPlace = false, class T>
__device__ __forceinline__ Pack<T, kWidth> load_adjacent(const T* from) {
  using Bits = typename BitsOf<sizeof(T) * kWidth>::Type;
  const Bits* const at = reinterpret_cast<const Bits*>(from);
  const Bits bits = kInPlace ? *at : __ldg(at);
  Pack<T, kWidth> elements;
  static_assert(sizeof(elements) == sizeof(bits));
  memcpy(&elements, &bits, sizeof(bits));
  return elements;
}

// As an assignment, the compiler may take it apart. What is streamed leaves the caches before all else.
template <class T, int kWidth>
__device__ __forceinline__ void store_bits(T* to, const Pack<T, kWidth>& elements, bool streamed = false) {
  using Bits = typename BitsOf<sizeof(T) * kWidth>::Type;
  Bits bits;
  memcpy(&bits, &elements, sizeof(bits));
  if (streamed) {
    __stcs(reinterpret_cast<Bits*>(to), bits);
  } else {
    __stwb(reinterpret_cast<Bits*>(to), bits);
  }
}

template <class T, int kWidth>
__device__ __forceinline__ void store_adjacent(T* to, const Pack<Computed<T>, kWidth>& values, bool streamed = false) {
  Pack<T, kWidth> elements;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) elements[e] = rounded<T>(values[e]);
  store_bits(to, elements, streamed);
}

}  // namespace reinmax_kernels::cuda
