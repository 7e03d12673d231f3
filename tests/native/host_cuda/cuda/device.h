// In place of csrc/cuda/device.h: the host is the only device, and nothing is queued.
#pragma once

#include <cstdint>

#include "cuda/kernels.h"

namespace reinmax_kernels::cuda {

struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};

inline Stream current_stream(int32_t) { return nullptr; }

}  // namespace reinmax_kernels::cuda
