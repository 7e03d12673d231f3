// From tensors to what kernels take, as far as it is the same on every device. Knows torch, and no kernel.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "contract.h"
#include "dtype.h"

namespace reinmax_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What a caller of the public functions can't cause: the shapes were checked there. Kept as errors all the same, for
// the ops can be called without them.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::Bool: return DType::kBool;
    default: throw std::invalid_argument("expected a floating-point or boolean tensor");
  }
}

// The size of logits [..., C].
struct Shape {
  explicit Shape(const Tensor& logits) : Shape(std::vector<int64_t>(logits.sizes().begin(), logits.sizes().end())) {}

  // Of elements, which are rows of one category.
  static Shape of_elements(const Tensor& logits) {
    std::vector<int64_t> sizes(logits.sizes().begin(), logits.sizes().end());
    sizes.push_back(1);
    return Shape(std::move(sizes));
  }

  std::vector<int64_t> sizes, leading;
  int64_t rows = 1, categories;

 private:
  explicit Shape(std::vector<int64_t> given) : sizes(std::move(given)) {
    require(!sizes.empty(), "logits: expected a category dimension");
    categories = sizes.back();
    require(categories >= 1 && categories <= contract::kMaxCategories, "logits: expected 1 to 2**23 categories");
    leading.assign(sizes.begin(), sizes.end() - 1);
    for (const int64_t size : leading) rows *= size;
  }
};

// The stride of dimension `d` of `sizes`, which the tensor is broadcast to.
inline int64_t broadcast_stride(const Tensor& tensor, const std::vector<int64_t>& sizes, int64_t d) {
  const int64_t own = d - (int64_t(sizes.size()) - tensor.dim());
  if (own < 0) return 0;
  const int64_t size = tensor.size(own);
  require(size == sizes[d] || size == 1, "expected a tensor that broadcasts to the logits' shape");
  return size == 1 ? 0 : tensor.stride(own);
}

// Contiguous and unwritten. Not by `new_empty`, which the dispatcher looks up by its name: four of them made a small
// draw on the CPU take 14 us, not 10.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, int32_t device_type, int32_t device_index) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = step;
    step *= std::max<int64_t>(sizes[d], 1);
  }
  const auto type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle tensor = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), type,
                                                  device_type, device_index, &tensor));
  return Tensor(tensor);
}

// One seed for so many rows each, adjacent in memory.
inline Tensor checked_seeds(const Tensor& seed, const Shape& shape) {
  const int64_t seeds = seed.numel();
  require(seed.scalar_type() == ScalarType::Long && seeds >= 1 && shape.rows % seeds == 0,
          "seed: expected int64 seeds whose number divides the rows");
  return torch::stable::contiguous(seed);
}

inline Tensor checked_index(const Tensor& index, const Shape& shape) {
  require(index.scalar_type() == ScalarType::Long && index.numel() == shape.rows, "index: expected int64, one a row");
  return torch::stable::contiguous(index);
}

inline Tensor checked_log_sum_exp(const Tensor& log_sum_exp, const Shape& shape) {
  require(log_sum_exp.scalar_type() == ScalarType::Double && log_sum_exp.numel() == shape.rows,
          "log_sum_exp: expected float64, one a row");
  return torch::stable::contiguous(log_sum_exp);
}

// Null where there is none, which stands for 1.
inline const double* checked_tau(const std::optional<Tensor>& tau) {
  if (!tau) return nullptr;
  require(tau->numel() == 1 && tau->scalar_type() == ScalarType::Double, "tau: expected one float64");
  return tau->const_data_ptr<double>();
}

}  // namespace reinmax_kernels
