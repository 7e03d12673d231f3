// The element types of tensors that kernels take.
#pragma once

namespace reinmax_kernels {

enum class DType { kFloat16, kBFloat16, kFloat32, kFloat64, kBool };

}  // namespace reinmax_kernels
