// From tensors to what the CPU's kernels take, and the work spread over threads.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "tensors.h"

namespace reinmax_kernels::cpu {

// The rows of a tensor that is broadcast to `sizes`, [..., C]: no copy, dimensions that step evenly merged.
inline Rows rows_of(const Tensor& tensor, const std::vector<int64_t>& sizes) {
  const int64_t ndim = int64_t(sizes.size());
  require(tensor.dim() <= ndim && ndim <= Rows::kMaxDims, "expected a tensor that broadcasts to the logits' shape");
  Rows rows;
  rows.data = tensor.const_data_ptr();
  rows.dtype = dtype_of(tensor);
  const int64_t category_stride = broadcast_stride(tensor, sizes, ndim - 1);
  rows.category_stride = sizes[ndim - 1] == 1 ? 1 : category_stride;
  for (int64_t d = ndim - 2; d >= 0; --d) {
    if (sizes[d] == 1) continue;
    const int64_t step = broadcast_stride(tensor, sizes, d);
    if (rows.dims > 0 && step == rows.stride[rows.dims - 1] * rows.size[rows.dims - 1]) {
      rows.size[rows.dims - 1] *= sizes[d];
    } else {
      rows.size[rows.dims] = sizes[d];
      rows.stride[rows.dims++] = step;
    }
  }
  return rows;
}

// One block of memory for each value read is slow: where categories are apart, rows are gathered by torch's copy.
inline Tensor with_adjacent_categories(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  const bool adjacent = tensor.size(last) <= 1 || tensor.stride(last) == 1 || tensor.stride(last) == 0;
  return adjacent ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) {
  return reinmax_kernels::empty(sizes, dtype, aoti_torch_device_type_cpu(), 0);
}

inline int64_t bytes_of(const Tensor& tensor) { return tensor.numel() * int64_t(tensor.element_size()); }

// An output of the logits' shape and dtype, every element of which will be written.
inline Tensor dense_output(const Tensor& logits, const std::vector<int64_t>& sizes) {
  Tensor output = empty(sizes, logits.scalar_type());
  prefer_huge_pages(output.mutable_data_ptr(), bytes_of(output));
  return output;
}

// The categories that a forward drew, as its backward reads them.
inline Tensor checked_categories(const Tensor& index_given, const Shape& shape) {
  const Tensor index = checked_index(index_given, shape);
  const int64_t* indices = index.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < shape.rows; ++i) {
    require(0 <= indices[i] && indices[i] < shape.categories, "index: expected categories in [0, C)");
  }
  return index;
}

inline Logits logits_of(const Tensor& logits, const std::optional<Tensor>& mask, const Shape& shape) {
  Logits result;
  result.values = rows_of(logits, shape.sizes);
  require(result.values.dtype != DType::kBool, "logits: expected floating-point numbers");
  result.categories = shape.categories;
  if (mask) {
    result.mask = rows_of(*mask, shape.sizes);
    require(result.mask.dtype == DType::kBool, "mask: expected a boolean tensor");
  }
  return result;
}

inline double value_at(const Rows& values, int64_t row, int64_t category) {
  const int64_t at = values.offset(row) + category * values.category_stride;
  switch (values.dtype) {
    case DType::kFloat64: return static_cast<const double*>(values.data)[at];
    case DType::kFloat32: return static_cast<const float*>(values.data)[at];
    case DType::kFloat16: return static_cast<const torch::headeronly::Half*>(values.data)[at];
    default: return static_cast<const torch::headeronly::BFloat16*>(values.data)[at];
  }
}

// A value that no draw can be made with.
inline std::string spell(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return "+inf";
  char text[64];
  std::snprintf(text, sizeof text, "%g (beyond float32, in which draws are made)", value);
  return text;
}

// 1 where there is none.
inline double checked_tau_value(const std::optional<Tensor>& tau) {
  const double* value = checked_tau(tau);
  if (value == nullptr) return 1;
  if (!(*value > 0) || std::isinf(*value)) {
    throw std::invalid_argument("tau: expected a finite value > 0, got " + std::to_string(*value));
  }
  return *value;
}

// Names the first row without a distribution, and what it holds.
[[noreturn]] inline void throw_invalid_row(const Logits& logits, int64_t row, int64_t rows) {
  std::string held = "only -inf";
  bool any_allowed = false;
  for (int64_t j = 0; j < logits.categories; ++j) {
    if (logits.mask.data != nullptr) {
      const int64_t at = logits.mask.offset(row) + j * logits.mask.category_stride;
      if (!static_cast<const bool*>(logits.mask.data)[at]) continue;
    }
    any_allowed = true;
    const double value = value_at(logits.values, row, j);
    if (std::isfinite(value) && std::isfinite(float(value))) continue;
    if (std::isinf(value) && value < 0) continue;
    held = spell(value) + " at category " + std::to_string(j);
    break;
  }
  if (!any_allowed) held = "no category that the mask allows";
  throw std::invalid_argument("logits: row " + std::to_string(row) + " of " + std::to_string(rows) + " holds " + held +
                              "; expected numbers or -inf, at least one of them finite");
}

// Runs body(begin, end, scratch) over all rows, on the threads that their work is worth. `passes`: how often an element
// of a row is worked on.
template <class Body>
void parallel_for_rows(const Shape& shape, int64_t passes, int64_t scratch_bytes, const Body& body) {
  constexpr int64_t kElementsPerThread = 1 << 14;  // fewer are not worth another thread
  std::atomic<bool> out_of_memory{false};
  const auto with_scratch = [&](int64_t begin, int64_t end) {
    const std::unique_ptr<std::byte[]> scratch(scratch_bytes > 0 ? new (std::nothrow) std::byte[scratch_bytes]
                                                                 : nullptr);
    if (scratch || scratch_bytes == 0) {
      body(begin, end, scratch.get());
    } else {
      out_of_memory = true;
    }
  };
  const int64_t grain = kElementsPerThread / shape.categories / passes + 1;
  if (shape.rows <= grain) {
    if (shape.rows > 0) with_scratch(0, shape.rows);
  } else {
    torch::stable::parallel_for(0, shape.rows, grain, with_scratch);
  }
  if (out_of_memory) throw std::bad_alloc();
}

// Draws into `arguments`, whose outputs the caller has allocated.
inline void draw(SampleArguments& arguments, const Tensor& logits, const Tensor& seed,
                 const std::optional<Tensor>& mask, const Shape& shape) {
  const Tensor seed_values = checked_seeds(seed, shape);
  arguments.logits = logits_of(logits, mask, shape);
  arguments.seeds = seed_values.const_data_ptr<int64_t>();
  arguments.rows_per_seed = shape.rows / seed_values.numel();
  std::atomic<int64_t> first_invalid_row{std::numeric_limits<int64_t>::max()};
  arguments.first_invalid_row = &first_invalid_row;
  parallel_for_rows(shape, 1, sample_scratch_bytes(shape.categories), [&](int64_t begin, int64_t end, void* scratch) {
    kernels().sample(arguments, begin, end, scratch);
  });
  if (first_invalid_row < shape.rows) throw_invalid_row(arguments.logits, first_invalid_row, shape.rows);
}

}  // namespace reinmax_kernels::cpu
