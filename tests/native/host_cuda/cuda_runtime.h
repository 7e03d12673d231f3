// As much of CUDA's language and runtime as the kernels use, for the host's compiler.
#pragma once

#include <math.h>
#include <string.h>

#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "threads.h"

#define __CUDACC__ 1
#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __noinline__  // the standard library has the name too, as an attribute's, which may be empty
#define __launch_bounds__(...)
#define __shared__ static  // a block has it for itself: blocks run one after the other

template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

// What one access moves. It may be to memory of any type.
struct __attribute__((may_alias, aligned(8))) uint2 {
  unsigned x, y;
};
struct __attribute__((may_alias, aligned(16))) uint4 {
  unsigned x, y, z, w;
};

template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T>
void require_aligned(const T* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) throw std::logic_error("misaligned access");
}

template <class T>
T __ldg(const T* from) {
  require_aligned(from);
  T value;
  memcpy(&value, from, sizeof(T));
  return value;
}
template <class T>
void __stwb(T* to, T value) {
  require_aligned(to);
  memcpy(to, &value, sizeof(T));
}
template <class T>
void __stcs(T* to, T value) {
  __stwb(to, value);
}

// Arithmetic.

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __double2float_rn(double x) { return float(x); }
inline long long __double2ll_rn(double x) { return llrint(x); }
inline float __ull2float_rn(unsigned long long x) { return float(x); }
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t{a} * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  __extension__ typedef unsigned __int128 Wide;
  return uint64_t(Wide(a) * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Between threads.

inline const uint64_t* exchange_in_warp(unsigned mask, uint64_t given) {
  if (mask != 0xFFFFFFFFu) throw std::logic_error("a warp's threads meet all together, or not at all");
  return host_cuda::exchange(given);
}

inline void __syncthreads() { host_cuda::meet_block(); }
inline void __syncwarp() { host_cuda::exchange(0); }

template <class T>
T shuffled(unsigned mask, T x, int lane) {
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof(T));
  const uint64_t* all = exchange_in_warp(mask, bits);
  memcpy(&x, &all[lane], sizeof(T));
  return x;
}
template <class T>
T __shfl_sync(unsigned mask, T x, int lane, int width = 32) {
  return shuffled(mask, x, (int(threadIdx.x % 32) & -width) + (lane & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int distance) {
  return shuffled(mask, x, int(threadIdx.x % 32) ^ distance);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned distance) {
  const unsigned lane = threadIdx.x % 32;
  return shuffled(mask, x, int(lane < distance ? lane : lane - distance));
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const uint64_t* all = exchange_in_warp(mask, vote);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= unsigned(all[lane]) << lane;
  return votes;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T x) {
  const uint64_t* all = exchange_in_warp(mask, uint64_t(x));
  unsigned same = 0;
  for (int lane = 0; lane < 32; ++lane) same |= unsigned(all[lane] == uint64_t(x)) << lane;
  return same;
}
inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long x) {  // threads take turns
  const unsigned long long before = *to;
  *to += x;
  return before;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned x) {
  const uint64_t* all = exchange_in_warp(mask, x);
  unsigned sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += unsigned(all[lane]);
  return sum;
}
inline int __reduce_max_sync(unsigned mask, int x) {
  const uint64_t* all = exchange_in_warp(mask, unsigned(x));
  for (int lane = 0; lane < 32; ++lane) x = x < int(unsigned(all[lane])) ? int(unsigned(all[lane])) : x;
  return x;
}

// The runtime: the device has as many multiprocessors as its number says.

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

namespace host_cuda {
inline int device = 0;
}

inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* number) {
  *number = host_cuda::device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? number : 99 << 10;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
