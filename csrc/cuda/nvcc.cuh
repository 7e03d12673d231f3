// What only nvcc understands: PTX, the shared memory that a launch asks for, and a launch. The tests that run kernels
// on the host have a file for its compiler in place of this one.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace reinmax_kernels::cuda {

// NaN where either is.
__device__ __forceinline__ float larger_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// The hardware's, which are fast and not exact; subnormal numbers are 0 to them.
__device__ __forceinline__ float approximate_exp2(float t) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(t));
  return result;
}
__device__ __forceinline__ float approximate_log2(float x) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ float approximate_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// The same number, as one that the compiler knows nothing about.
template <class Number>
__device__ __forceinline__ Number opaque(Number x) {
  if constexpr (std::is_same_v<Number, float>) {
    asm volatile("" : "+f"(x));
  } else if constexpr (std::is_same_v<Number, double>) {
    asm volatile("" : "+d"(x));
  } else if constexpr (sizeof(Number) == 8) {
    asm volatile("" : "+l"(x));
  } else {
    asm volatile("" : "+r"(x));
  }
  return x;
}

// threadIdx.x, which is read anew wherever this is called, and not held in a register.
__device__ __forceinline__ int thread_of_block() {
  int number;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(number));
  return number;
}

// Of a block, as much as its launch asks for, for accesses of up to 16 bytes.
__device__ __forceinline__ uint64_t* memory_of_launch() {
  extern __shared__ __align__(16) uint64_t memory[];
  return memory;
}

template <class... Parameters>
void start(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream,
           const std::common_type_t<Parameters>&... arguments) {
  kernel<<<grid, threads, shared_bytes, stream>>>(arguments...);
}

}  // namespace reinmax_kernels::cuda
