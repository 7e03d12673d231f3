// The op table of reinmax_kernels/ops.py on CPU tensors, through torch's stable ABI: from tensors to rows, and to the
// kernels. The only file that knows both torch and the CPU's kernels.
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "tensors.h"

namespace reinmax_kernels::cpu {
namespace {

// Work below this many elements is not worth another thread.
constexpr int64_t kElementsPerThread = 1 << 14;

// The rows of a tensor that is broadcast to `sizes`, [..., C]: no copy, dimensions that step evenly merged.
Rows rows_of(const Tensor& tensor, const std::vector<int64_t>& sizes) {
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
Tensor with_adjacent_categories(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  const bool adjacent = tensor.size(last) <= 1 || tensor.stride(last) == 1 || tensor.stride(last) == 0;
  return adjacent ? tensor : torch::stable::contiguous(tensor);
}

Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) {
  return reinmax_kernels::empty(sizes, dtype, aoti_torch_device_type_cpu(), 0);
}

int64_t bytes_of(const Tensor& tensor) { return tensor.numel() * int64_t(tensor.element_size()); }

// An output of the logits' shape and dtype, every element of which will be written.
Tensor dense_output(const Tensor& logits, const std::vector<int64_t>& sizes) {
  Tensor output = empty(sizes, logits.scalar_type());
  prefer_huge_pages(output.mutable_data_ptr(), bytes_of(output));
  return output;
}

Logits logits_of(const Tensor& logits, const std::optional<Tensor>& mask, const Shape& shape) {
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

double value_at(const Rows& values, int64_t row, int64_t category);

// Names the first row without a distribution, and what it holds.
[[noreturn]] void throw_invalid_row(const Logits& logits, int64_t row, int64_t rows) {
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
    char text[64];
    if (std::isnan(value)) {
      std::snprintf(text, sizeof text, "NaN");
    } else if (std::isinf(value)) {
      std::snprintf(text, sizeof text, "+inf");
    } else {
      std::snprintf(text, sizeof text, "%g (beyond float32, in which draws are made)", value);
    }
    held = std::string(text) + " at category " + std::to_string(j);
    break;
  }
  if (!any_allowed) held = "no category that the mask allows";
  throw std::invalid_argument("logits: row " + std::to_string(row) + " of " + std::to_string(rows) + " holds " + held +
                              "; expected numbers or -inf, at least one of them finite");
}

double value_at(const Rows& values, int64_t row, int64_t category) {
  const int64_t at = values.offset(row) + category * values.category_stride;
  switch (values.dtype) {
    case DType::kFloat64: return static_cast<const double*>(values.data)[at];
    case DType::kFloat32: return static_cast<const float*>(values.data)[at];
    case DType::kFloat16: return static_cast<const torch::headeronly::Half*>(values.data)[at];
    default: return static_cast<const torch::headeronly::BFloat16*>(values.data)[at];
  }
}

template <class Body>
void parallel_for_rows(const Shape& shape, const Body& body) {
  const int64_t grain = kElementsPerThread / shape.categories + 1;
  if (shape.rows <= grain) {
    if (shape.rows > 0) body(int64_t{0}, shape.rows);
  } else {
    torch::stable::parallel_for(0, shape.rows, grain, body);
  }
}

// Draws into `arguments`, whose outputs the caller has allocated.
void draw(SampleArguments& arguments, const Tensor& logits, const Tensor& seed, const std::optional<Tensor>& mask,
          const Shape& shape) {
  const Tensor seed_values = checked_seeds(seed, shape);
  arguments.logits = logits_of(logits, mask, shape);
  arguments.seeds = seed_values.const_data_ptr<int64_t>();
  arguments.rows_per_seed = shape.rows / seed_values.numel();
  std::atomic<int64_t> first_invalid_row{std::numeric_limits<int64_t>::max()};
  arguments.first_invalid_row = &first_invalid_row;
  std::atomic<bool> out_of_memory{false};
  const int64_t scratch_bytes = sample_scratch_bytes(shape.categories);
  parallel_for_rows(shape, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<std::byte[]> scratch(new (std::nothrow) std::byte[scratch_bytes]);
    if (scratch) {
      kernels().sample(arguments, begin, end, scratch.get());
    } else {
      out_of_memory = true;
    }
  });
  if (out_of_memory) throw std::bad_alloc();
  if (first_invalid_row < shape.rows) throw_invalid_row(arguments.logits, first_invalid_row, shape.rows);
}

Tensor sample(const Tensor& logits_given, const Tensor& seed, const std::optional<Tensor>& mask, int64_t offset,
              int64_t row_offset) {
  const Shape shape(logits_given);
  const Tensor logits = with_adjacent_categories(logits_given);
  Tensor index = empty(shape.leading, ScalarType::Long);
  SampleArguments arguments;
  arguments.offset = offset;
  arguments.row_offset = row_offset;
  arguments.index = index.mutable_data_ptr<int64_t>();
  draw(arguments, logits, seed, mask, shape);
  return index;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sample_dense(const Tensor& logits_given, const Tensor& seed,
                                                        const std::optional<Tensor>& mask, int64_t offset,
                                                        int64_t row_offset) {
  const Shape shape(logits_given);
  const Tensor logits = with_adjacent_categories(logits_given);
  Tensor probs = dense_output(logits, shape.sizes);
  Tensor one_hot = empty(shape.sizes, logits.scalar_type());
  Tensor index = empty(shape.leading, ScalarType::Long);
  Tensor log_sum_exp = empty(shape.leading, ScalarType::Double);
  SampleArguments arguments;
  arguments.offset = offset;
  arguments.row_offset = row_offset;
  arguments.index = index.mutable_data_ptr<int64_t>();
  arguments.one_hot = one_hot.mutable_data_ptr();
  arguments.one_hot_is_zero = zero_by_discarding(arguments.one_hot, bytes_of(one_hot));
  if (!arguments.one_hot_is_zero) prefer_huge_pages(arguments.one_hot, bytes_of(one_hot));
  arguments.probs = probs.mutable_data_ptr();
  arguments.log_sum_exp = log_sum_exp.mutable_data_ptr<double>();
  draw(arguments, logits, seed, mask, shape);
  return {one_hot, probs, index, log_sum_exp};
}

// Runs one estimator's backward kernel; all of them take the same arguments.
template <Backward* Kernels::* kKernel>
Tensor backward(const std::optional<Tensor>& grad_one_hot, const std::optional<Tensor>& grad_probs,
                const Tensor& logits_given, const Tensor& index_given, const Tensor& log_sum_exp_given,
                const std::optional<Tensor>& mask, const std::optional<Tensor>& tau) {
  const Shape shape(logits_given);
  const Tensor logits = with_adjacent_categories(logits_given);
  const Tensor index = checked_index(index_given, shape), log_sum_exp = checked_log_sum_exp(log_sum_exp_given, shape);
  const int64_t* indices = index.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < shape.rows; ++i) {
    require(0 <= indices[i] && indices[i] < shape.categories, "index: expected categories in [0, C)");
  }
  Tensor grad_logits = dense_output(logits, shape.sizes);
  BackwardArguments arguments;
  arguments.logits = logits_of(logits, mask, shape);
  // Copies of gradients whose categories lie apart, alive until the kernel is done.
  std::optional<Tensor> gathered[2];
  const auto gradient_rows = [&](const std::optional<Tensor>& given, std::optional<Tensor>& kept) {
    if (!given) return Rows{};
    kept = with_adjacent_categories(*given);
    const Rows rows = rows_of(*kept, shape.sizes);
    require(rows.dtype == arguments.logits.values.dtype, "gradient: expected the logits' dtype");
    return rows;
  };
  arguments.grad_one_hot = gradient_rows(grad_one_hot, gathered[0]);
  arguments.grad_probs = gradient_rows(grad_probs, gathered[1]);
  arguments.index = indices;
  arguments.log_sum_exp = log_sum_exp.const_data_ptr<double>();
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  const double* value = checked_tau(tau);
  arguments.tau = value == nullptr ? 1 : *value;
  if (!(arguments.tau > 0) || std::isinf(arguments.tau)) {
    throw std::invalid_argument("tau: expected a finite value > 0, got " + std::to_string(arguments.tau));
  }
  parallel_for_rows(shape, [&](int64_t begin, int64_t end) { (kernels().*kKernel)(arguments, begin, end); });
  return grad_logits;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CPU, library) {
  library.impl("sample", TORCH_BOX(&sample));
  library.impl("sample_dense", TORCH_BOX(&sample_dense));
  library.impl("reinmax_backward", TORCH_BOX((&backward<&Kernels::reinmax_backward>)));
  library.impl("straight_through_backward", TORCH_BOX((&backward<&Kernels::straight_through_backward>)));
}

}  // namespace reinmax_kernels::cpu
