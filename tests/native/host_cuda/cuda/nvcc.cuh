// In place of csrc/cuda/nvcc.cuh, for the host's compiler.
#pragma once

#include <cuda_runtime.h>

#include <limits>

namespace reinmax_kernels::cuda {

inline float larger_or_nan(float a, float b) {
  return isnan(a) || isnan(b) ? std::numeric_limits<float>::quiet_NaN() : fmaxf(a, b);
}

inline float normal_or_zero(float x) { return fabsf(x) < std::numeric_limits<float>::min() ? copysignf(0, x) : x; }
inline float approximate_exp2(float t) { return normal_or_zero(exp2f(t)); }
inline float approximate_log2(float x) { return log2f(normal_or_zero(x)); }
inline float approximate_reciprocal(float x) { return normal_or_zero(1 / normal_or_zero(x)); }

template <class Number>
Number opaque(Number x) {
  return x;
}

inline int thread_of_block() { return int(threadIdx.x); }

inline uint64_t* memory_of_launch() { return host_cuda::memory_of_launch(); }

template <class... Parameters>
void start(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t,
           const std::common_type_t<Parameters>&... arguments) {
  host_cuda::run(grid, unsigned(threads), shared_bytes, [&] { kernel(arguments...); });
}

}  // namespace reinmax_kernels::cuda
