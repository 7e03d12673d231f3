// Tensors [..., C] as the kernels read them: rows that step as two loops do, the same two for all tensors of a kernel,
// and of logits and mask such whose categories are adjacent.
#pragma once

#include <array>

#include "cuda/kernels.h"
#include "tensors.h"

namespace reinmax_kernels::cuda {

inline void require_device(const Tensor& tensor, const Tensor& logits) {
  int32_t type = 0, expected = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(logits.get(), &expected));
  require(type == expected && tensor.get_device() == logits.get_device(), "expected all tensors on the logits' device");
}

// On the logits' device.
inline Tensor empty_beside(const Tensor& logits, const std::vector<int64_t>& sizes, ScalarType dtype) {
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(logits.get(), &type));
  return empty(sizes, dtype, type, logits.get_device());
}

// Logits, mask and gradients, each broadcast to the logits' shape. Nothing is copied where that is how they lie.
class Operands {
 public:
  Operands(const Shape& shape, const Tensor& logits, const std::optional<Tensor>& mask,
           const std::optional<Tensor>& grad_one_hot = std::nullopt,
           const std::optional<Tensor>& grad_probs = std::nullopt)
      : tensors_{logits, mask, grad_one_hot, grad_probs} {
    const DType dtype = dtype_of(logits);
    require(dtype != DType::kBool, "logits: expected floating-point numbers");
    require(!mask || dtype_of(*mask) == DType::kBool, "mask: expected a boolean tensor");
    for (const auto* gradient : {&grad_one_hot, &grad_probs}) {
      require(!*gradient || dtype_of(**gradient) == dtype, "gradient: expected the logits' dtype");
    }
    for (const std::optional<Tensor>& tensor : tensors_) {
      if (!tensor) continue;
      require_device(*tensor, logits);
      require(tensor->dim() <= int64_t(shape.sizes.size()), "expected a tensor that broadcasts to the logits' shape");
    }
    for (int t : {kLogits, kMask}) {
      if (!tensors_[t] || shape.categories == 1 || category_stride(t, shape) == 1) continue;
      std::vector<int64_t> sizes(tensors_[t]->sizes().begin(), tensors_[t]->sizes().end());
      if (sizes.empty()) sizes.push_back(1);
      sizes.back() = shape.categories;
      copy(t, sizes);
    }
    if (!find_loops(shape)) {
      for (int t = 0; t < kTensors; ++t) {
        if (tensors_[t]) copy(t, shape.sizes);
      }
      find_loops(shape);
    }
    logits_.dtype = dtype;
    logits_.rows = shape.rows;
    logits_.categories = shape.categories;
    logits_.inner = loops_[1].size == 1 ? 1 : loops_[0].size;
    logits_.values = rows(kLogits, shape);
    logits_.mask = rows(kMask, shape);
    grad_one_hot_ = rows(2, shape);
    grad_probs_ = rows(3, shape);
  }

  const Logits& logits() const { return logits_; }
  const Rows& grad_one_hot() const { return grad_one_hot_; }
  const Rows& grad_probs() const { return grad_probs_; }

 private:
  static constexpr int kLogits = 0, kMask = 1, kTensors = 4, kLoops = 2;
  struct Loop {
    int64_t size = 1;
    std::array<int64_t, kTensors> stride{};
  };

  // Merges the dimensions that step evenly, innermost first. False where more loops are left than a kernel has.
  bool find_loops(const Shape& shape) {
    loops_ = {};
    int used = 0;
    for (int64_t d = int64_t(shape.leading.size()) - 1; d >= 0; --d) {
      Loop next{shape.sizes[d], {}};
      bool is_even = used > 0;
      for (int t = 0; t < kTensors; ++t) {
        if (tensors_[t]) next.stride[t] = broadcast_stride(*tensors_[t], shape.sizes, d);
        is_even = is_even && next.stride[t] == loops_[used - 1].stride[t] * loops_[used - 1].size;
      }
      if (next.size == 1) continue;
      if (is_even) {
        loops_[used - 1].size *= next.size;
      } else if (used == kLoops) {
        return false;
      } else {
        loops_[used++] = next;
      }
    }
    return true;
  }

  int64_t category_stride(int t, const Shape& shape) const {
    return broadcast_stride(*tensors_[t], shape.sizes, int64_t(shape.sizes.size()) - 1);
  }

  void copy(int t, const std::vector<int64_t>& sizes) {
    Tensor contiguous = empty_beside(*tensors_[kLogits], sizes, tensors_[t]->scalar_type());
    tensors_[t] = torch::stable::copy_(contiguous, *tensors_[t]);
  }

  Rows rows(int t, const Shape& shape) const {
    if (!tensors_[t]) return {};
    Rows result;
    result.data = tensors_[t]->const_data_ptr();
    result.category_stride = shape.categories == 1 ? 1 : category_stride(t, shape);
    if (loops_[1].size == 1) {  // rows need no division: inner is 1
      result.outer_stride = loops_[0].stride[t];
    } else {
      result.inner_stride = loops_[0].stride[t];
      result.outer_stride = loops_[1].stride[t];
    }
    return result;
  }

  std::array<std::optional<Tensor>, kTensors> tensors_;
  std::array<Loop, kLoops> loops_;
  Logits logits_;
  Rows grad_one_hot_, grad_probs_;
};

}  // namespace reinmax_kernels::cuda
