// torch's current device and stream, on whatever torch this library is loaded beside: one without CUDA has no such
// stream, and has to load it all the same.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>

#include "cuda/kernels.h"

extern "C" {
// From torch 2.13 on, and before it where there is CUDA. Null where the torch beside this library has no such function.
__attribute__((weak)) AOTITorchError torch_stream_native_handle(StreamHandle stream, void** native_handle);
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
}

namespace reinmax_kernels::cuda {

// Makes a device the current one for as long as it lives.
using torch::stable::accelerator::DeviceGuard;

inline Stream current_stream(int32_t device_index) {
  void* stream = nullptr;
  if (torch_stream_native_handle != nullptr) {
    StreamHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_stream(device_index, &handle));
    const torch::stable::accelerator::Stream owner(handle);
    TORCH_ERROR_CODE_CHECK(torch_stream_native_handle(handle, &stream));
  } else if (aoti_torch_get_current_cuda_stream != nullptr) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  } else {
    throw std::runtime_error("this torch has no CUDA streams");
  }
  return stream;
}

}  // namespace reinmax_kernels::cuda
