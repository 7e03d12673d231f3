// Tensors [..., C] as the kernels read them: rows that step as two loops do, the same two for all tensors of a kernel,
// and of logits and mask such whose categories are adjacent.
#pragma once

#include <array>
#include <utility>

#include "contract.h"
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

// Memory that is the kernels' own until they have run: torch's allocator gives it to nobody else on this stream before.
class Scratch {
 public:
  Scratch(const Tensor& logits, int64_t bytes) {
    if (bytes > 0) memory_.push_back(empty_beside(logits, {bytes}, ScalarType::Byte));
  }
  void* data() const { return memory_.empty() ? nullptr : memory_[0].mutable_data_ptr(); }

 private:
  std::vector<Tensor> memory_;  // one or none
};

// Tensors that are broadcast to a shape, as two loops over its dimensions reach them all. The first one's are the
// logits.
template <int kTensors>
class Loops {
 protected:
  static constexpr int kLoops = 2;
  struct Loop {
    int64_t size = 1;
    std::array<int64_t, kTensors> stride{};
  };

  explicit Loops(std::array<std::optional<Tensor>, kTensors> tensors) : tensors_(std::move(tensors)) {}

  // All tensors are on the logits' device, and broadcast to so many dimensions.
  void check(size_t dims) const {
    for (const std::optional<Tensor>& tensor : tensors_) {
      if (!tensor) continue;
      require_device(*tensor, *tensors_[0]);
      require(size_t(tensor->dim()) <= dims, "expected a tensor that broadcasts to the logits' shape");
    }
  }

  // Over the first of these dimensions. What more loops would reach is copied.
  void find(const std::vector<int64_t>& sizes, size_t dims) {
    if (merge(sizes, dims)) return;
    for (int t = 0; t < kTensors; ++t) {
      if (tensors_[t]) copy(t, sizes);
    }
    merge(sizes, dims);
  }

  void copy(int t, const std::vector<int64_t>& sizes) {
    Tensor contiguous = empty_beside(*tensors_[0], sizes, tensors_[t]->scalar_type());
    tensors_[t] = torch::stable::copy_(contiguous, *tensors_[t]);
  }

  // With one loop alone rows need no division.
  int64_t inner() const { return loops_[1].size == 1 ? 1 : loops_[0].size; }
  int64_t inner_stride(int t) const { return loops_[1].size == 1 ? 0 : loops_[0].stride[t]; }
  int64_t outer_stride(int t) const { return loops_[loops_[1].size == 1 ? 0 : 1].stride[t]; }

  std::array<std::optional<Tensor>, kTensors> tensors_;
  std::array<Loop, kLoops> loops_;

 private:
  // Merges the dimensions that step evenly, innermost first. False where more loops are left than a kernel has.
  bool merge(const std::vector<int64_t>& sizes, size_t dims) {
    loops_ = {};
    int used = 0;
    for (int64_t d = int64_t(dims) - 1; d >= 0; --d) {
      Loop next{sizes[d], {}};
      bool is_even = used > 0;
      for (int t = 0; t < kTensors; ++t) {
        if (tensors_[t]) next.stride[t] = broadcast_stride(*tensors_[t], sizes, d);
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
};

// Logits, mask and gradients, each broadcast to the logits' shape. Nothing is copied where that is how they lie.
class Operands : private Loops<4> {
 public:
  Operands(const Shape& shape, const Tensor& logits, const std::optional<Tensor>& mask,
           const std::optional<Tensor>& grad_one_hot = std::nullopt,
           const std::optional<Tensor>& grad_probs = std::nullopt)
      : Loops({logits, mask, grad_one_hot, grad_probs}) {
    const DType dtype = dtype_of(logits);
    require(dtype != DType::kBool, "logits: expected floating-point numbers");
    require(!mask || dtype_of(*mask) == DType::kBool, "mask: expected a boolean tensor");
    for (const auto* gradient : {&grad_one_hot, &grad_probs}) {
      require(!*gradient || dtype_of(**gradient) == dtype, "gradient: expected the logits' dtype");
    }
    check(shape.sizes.size());
    for (int t : {kLogits, kMask}) {
      if (!tensors_[t] || shape.categories == 1 || category_stride(t, shape) == 1) continue;
      std::vector<int64_t> sizes(tensors_[t]->sizes().begin(), tensors_[t]->sizes().end());
      if (sizes.empty()) sizes.push_back(1);
      sizes.back() = shape.categories;
      copy(t, sizes);
    }
    find(shape.sizes, shape.leading.size());
    logits_.dtype = dtype;
    logits_.rows = shape.rows;
    logits_.categories = shape.categories;
    logits_.inner = inner();
    logits_.values = rows(kLogits, shape);
    logits_.mask = rows(kMask, shape);
    grad_one_hot_ = rows(2, shape);
    grad_probs_ = rows(3, shape);
  }

  const Logits& logits() const { return logits_; }
  const Rows& grad_one_hot() const { return grad_one_hot_; }
  const Rows& grad_probs() const { return grad_probs_; }

 private:
  static constexpr int kLogits = 0, kMask = 1;

  int64_t category_stride(int t, const Shape& shape) const {
    return broadcast_stride(*tensors_[t], shape.sizes, int64_t(shape.sizes.size()) - 1);
  }

  Rows rows(int t, const Shape& shape) const {
    if (!tensors_[t]) return {};
    Rows result;
    result.data = tensors_[t]->const_data_ptr();
    result.category_stride = shape.categories == 1 ? 1 : category_stride(t, shape);
    result.outer_stride = outer_stride(t);
    result.inner_stride = inner_stride(t);
    return result;
  }

  Logits logits_;
  Rows grad_one_hot_, grad_probs_;
};

// Logits and what lies beside them, element by element; `drawn` are the bits of a backward.
class ElementOperands : private Loops<5> {
 public:
  ElementOperands(const Shape& shape, const Tensor& logits, const std::optional<Tensor>& mask,
                  const std::optional<Tensor>& grad_bits = std::nullopt,
                  const std::optional<Tensor>& grad_probs = std::nullopt,
                  const std::optional<Tensor>& drawn = std::nullopt)
      : Loops({logits, mask, grad_bits, grad_probs, drawn}) {
    const DType dtype = dtype_of(logits);
    require(dtype != DType::kBool, "logits: expected floating-point numbers");
    require(!mask || dtype_of(*mask) == DType::kBool, "mask: expected a boolean tensor");
    for (const auto* gradient : {&grad_bits, &grad_probs}) {
      require(!*gradient || dtype_of(**gradient) == dtype, "gradient: expected the logits' dtype");
    }
    require(!drawn || dtype_of(*drawn) == dtype, "bits: expected the logits' dtype");
    check(shape.leading.size());
    find(shape.leading, shape.leading.size());
    arguments_.count = shape.rows;
    arguments_.inner = inner();
    arguments_.dtype = dtype;
    Elements* const to[] = {&arguments_.logits, &arguments_.mask, &arguments_.grad_bits, &arguments_.grad_probs,
                            &arguments_.drawn};
    for (int t = 0; t < 5; ++t) *to[t] = elements(t);
  }

  // Of the tensors that are kept here.
  const BernoulliArguments& arguments() const { return arguments_; }

 private:
  Elements elements(int t) const {
    if (!tensors_[t]) return {};
    const int64_t width = 16 / int64_t(tensors_[0]->element_size());  // elements of one access
    const auto address = reinterpret_cast<uintptr_t>(tensors_[t]->const_data_ptr());
    const bool aligned = address % (width * tensors_[t]->element_size()) == 0;
    const bool even = outer_stride(t) == inner() * inner_stride(t);  // whatever the other tensors do
    const bool adjacent = inner() == 1 ? outer_stride(t) == 1 : even && inner_stride(t) == 1;
    return {tensors_[t]->const_data_ptr(), outer_stride(t), inner_stride(t), adjacent && aligned};
  }

  BernoulliArguments arguments_;
};

// The stream of seeds that rows are drawn from. Returns what has to outlive the launch.
inline Tensor take_stream(Noise& noise, const Shape& shape, const Tensor& logits, const Tensor& seed, int64_t offset,
                          int64_t row_offset) {
  require_device(seed, logits);
  const Tensor seeds = checked_seeds(seed, shape);
  noise = {seeds.const_data_ptr<int64_t>(),          shape.rows / seeds.numel(), uint64_t(offset),
           contract::mixed_offset(uint64_t(offset)), uint64_t(row_offset),       noise.samples};
  return seeds;
}

}  // namespace reinmax_kernels::cuda
