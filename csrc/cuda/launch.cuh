// How kernels are launched: errors, the device's size, and from a dtype at run time to a type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/kernels.h"
#include "cuda/nvcc.cuh"

namespace reinmax_kernels::cuda {

constexpr int kWarp = 32;

// Threads of a processor for which kernels have registers, at least: half of what it holds, whichever that is.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr int kResidentThreads = 768;
#else
constexpr int kResidentThreads = 1024;
#endif

constexpr int kOccupyingWarps = 32;  // of a processor: half of what the largest hold, enough to hide memory's latency
constexpr int kMostDevices = 64;     // whose size is remembered

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Of the current device.
template <cudaDeviceAttr kAttribute>
int attribute_of_device() {
  static std::atomic<int> known[kMostDevices];  // 0: not yet
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  if (device < kMostDevices) value = known[device].load(std::memory_order_relaxed);
  if (value == 0) {
    check(cudaDeviceGetAttribute(&value, kAttribute, device), "cudaDeviceGetAttribute");
    if (device < kMostDevices) known[device].store(value, std::memory_order_relaxed);
  }
  return value;
}

inline int processors() { return attribute_of_device<cudaDevAttrMultiProcessorCount>(); }

// Bytes of shared memory that launches may ask for once that is allowed, where the kernel has at most kBeside of its
// own. As much is always allowed: that holds for launches of other threads, too, of which nothing is known here.
constexpr int kBeside = 2048;
inline int most_bytes_of_launch() { return attribute_of_device<cudaDevAttrMaxSharedMemoryPerBlockOptin>() - kBeside; }

template <class... Parameters>
void allow_most_bytes(void (*kernel)(Parameters...)) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes_of_launch()),
        "shared memory");
}

constexpr int64_t ceil_divide(int64_t n, int64_t d) { return (n + d - 1) / d; }

constexpr int64_t size_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// Of the `blocks` that a long row is read in, how many a thread block of so many warps takes: all of them, unless rows
// are too few to occupy the device. All thread blocks are resident at once then: a few more of them would take as long
// again as the rest.
inline int64_t blocks_per_part(int64_t rows, int64_t blocks, int warps) {
  const int64_t resident = ceil_divide(int64_t{kOccupyingWarps} * processors(), warps);
  const int64_t parts = rows < resident ? resident / rows : 1;
  return ceil_divide(blocks, parts < blocks ? parts : blocks);
}

// Launches on a stream. Grids stay below 2^31 blocks in x, of which launchers take as many as rows need.
template <class... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, Stream stream,
            const std::common_type_t<Parameters>&... arguments) {
  start(kernel, grid, threads, shared_bytes, static_cast<cudaStream_t>(stream), arguments...);
  check(cudaGetLastError(), "kernel launch");
}

// Calls body(T{}) with the type of the elements.
template <class Body>
void dispatch(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat16: return body(__half{});
    case DType::kBFloat16: return body(__nv_bfloat16{});
    case DType::kFloat32: return body(float{});
    case DType::kFloat64: return body(double{});
    case DType::kBool: break;
  }
  throw std::invalid_argument("expected floating-point logits");
}

}  // namespace reinmax_kernels::cuda
