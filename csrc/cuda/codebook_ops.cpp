// Of the op table of reinmax_kernels/codebook_ops.py the backwards on CUDA tensors: the codebook's gradient, and that
// of the logits. The gradient of the one-hot is a product, grad_vectors @ codebook.T. Of float32 and float64 torch's
// library makes it, some rows at a time, and the estimator's kernel takes those rows. Half types are left to Triton's
// kernels, which tensor cores make it for without rounding it in between, and so is the lookup.
#include <algorithm>
#include <array>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/operands.h"
#include "tensors.h"

namespace reinmax_kernels::cuda {
namespace {

constexpr int64_t kMostProducts = 16;                  // each is as much less of the logits' bytes
constexpr int64_t kLeastOfProduct = int64_t{1} << 20;  // elements, else it takes no longer than its launch

constexpr int64_t kRowsAligned = 16;  // of any length, and their addresses are multiples of 16 bytes

int64_t ceil_divide(int64_t n, int64_t d) { return (n + d - 1) / d; }

Tensor rows_of(const Tensor& tensor, int64_t first, int64_t count) {
  return torch::stable::narrow(const_cast<Tensor&>(tensor), 0, first, count);
}

template <class... Arguments>
Tensor call(const char* op, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Which categories of each row can be drawn, [N, C], or [C] where all rows have the same.
Tensor allowed_rows(const Tensor& mask, const Tensor& logits, const Shape& shape) {
  require_device(mask, logits);
  require(dtype_of(mask) == DType::kBool, "mask: expected a boolean tensor");
  const std::vector<int64_t> sizes(mask.sizes().begin(), mask.sizes().end());
  const bool is_of_categories = !sizes.empty() && sizes.back() == shape.categories;
  if (is_of_categories && mask.numel() == shape.categories) return torch::stable::reshape(mask, {shape.categories});
  Tensor allowed = mask;
  if (sizes != shape.sizes) {
    allowed = empty_beside(logits, shape.sizes, ScalarType::Bool);
    torch::stable::copy_(allowed, mask);
  }
  return torch::stable::reshape(allowed, {shape.rows, shape.categories});
}

template <void (*kLaunch)(const BackwardArguments&, void* scratch, Stream)>
Tensor backward_by_products(const Tensor& grad_vectors, const Tensor& codebook, const Tensor& logits,
                            const Tensor& index_given, const Tensor& log_sum_exp_given,
                            const std::optional<Tensor>& mask, const std::optional<Tensor>& tau) {
  const DeviceGuard guard(logits.get_device());
  const Shape shape(logits);
  const int64_t categories = shape.categories, d = grad_vectors.size(-1);
  for (const Tensor* each : {&grad_vectors, &codebook, &index_given, &log_sum_exp_given}) {
    require_device(*each, logits);
  }
  if (tau) require_device(*tau, logits);
  require(codebook.dim() == 2 && codebook.size(0) == categories && codebook.size(1) == d, "codebook: expected [C, d]");
  require(d >= 1 && grad_vectors.numel() == shape.rows * d, "grad_vectors: expected a vector a row");
  const Tensor index = checked_index(index_given, shape), log_sum_exp = checked_log_sum_exp(log_sum_exp_given, shape);
  Tensor grad_logits = empty_beside(logits, shape.sizes, logits.scalar_type());
  if (shape.rows == 0) return grad_logits;

  BackwardArguments arguments;
  arguments.tau = checked_tau(tau);
  // Detached, for torch differentiates nothing that it writes to a given tensor.
  const Tensor left = torch::stable::reshape(call("aten::detach", "", grad_vectors), {shape.rows, d});
  const Tensor right = torch::stable::transpose(call("aten::detach", "", codebook), 0, 1);
  const Tensor rows = torch::stable::reshape(logits, {shape.rows, categories});
  std::optional<Tensor> allowed;
  if (mask) allowed = allowed_rows(*mask, logits, shape);
  const int64_t least = std::max(ceil_divide(shape.rows, kMostProducts), ceil_divide(kLeastOfProduct, categories));
  const int64_t at_once = std::min(shape.rows, ceil_divide(least, kRowsAligned) * kRowsAligned);
  const Tensor product = empty_beside(logits, {at_once, categories}, logits.scalar_type());
  for (int64_t first = 0; first < shape.rows; first += at_once) {
    const int64_t count = std::min(at_once, shape.rows - first);
    // By its variant that writes to a tensor, which autocast leaves alone.
    const Tensor g = call("aten::mm", "out", rows_of(left, first, count), right, rows_of(product, 0, count));
    const Tensor some = rows_of(rows, first, count);
    std::optional<Tensor> allowed_here = allowed;
    if (allowed && allowed->dim() == 2) allowed_here = rows_of(*allowed, first, count);
    const Operands operands(Shape(some), some, allowed_here, g);
    arguments.logits = operands.logits();
    arguments.grad_one_hot = operands.grad_one_hot();
    arguments.index = index.const_data_ptr<int64_t>() + first;
    arguments.log_sum_exp = log_sum_exp.const_data_ptr<double>() + first;
    const int64_t offset = first * categories * int64_t(logits.element_size());
    arguments.grad_logits = static_cast<char*>(grad_logits.mutable_data_ptr()) + offset;
    const Scratch scratch(logits, backward_scratch_bytes(arguments));
    kLaunch(arguments, scratch.data(), current_stream(logits.get_device()));
  }
  return grad_logits;
}

struct ReinMaxOp {
  static constexpr const char* kName = "reinmax_kernels::codebook_reinmax_backward";
  static constexpr auto kLaunch = &reinmax_backward;
};

struct StraightThroughOp {
  static constexpr const char* kName = "reinmax_kernels::codebook_straight_through_backward";
  static constexpr auto kLaunch = &straight_through_backward;
};

template <class Op>
Tensor backward(const Tensor& grad_vectors, const Tensor& codebook, const Tensor& logits, const Tensor& index,
                const Tensor& log_sum_exp, const std::optional<Tensor>& mask, const std::optional<Tensor>& tau) {
  const ScalarType dtype = logits.scalar_type();
  const bool is_served = (dtype == ScalarType::Float || dtype == ScalarType::Double) &&
                         codebook.scalar_type() == dtype && grad_vectors.scalar_type() == dtype;
  if (!is_served) return call(Op::kName, "triton", grad_vectors, codebook, logits, index, log_sum_exp, mask, tau);
  return backward_by_products<Op::kLaunch>(grad_vectors, codebook, logits, index, log_sum_exp, mask, tau);
}

Tensor gradient(const Tensor& grad_vectors, const Tensor& index_given, int64_t codes) {
  const DeviceGuard guard(grad_vectors.get_device());
  const Shape shape(grad_vectors);
  require_device(index_given, grad_vectors);
  require(codes >= 1 && codes <= contract::kMaxCategories, "codes: expected 1 to 2**23");
  const Tensor index = checked_index(index_given, shape);
  const Operands operands(shape, grad_vectors, std::nullopt);
  Tensor grad_codebook = empty_beside(grad_vectors, {codes, shape.categories}, grad_vectors.scalar_type());
  CodebookGradientArguments arguments;
  arguments.vectors = operands.logits();
  arguments.index = index.const_data_ptr<int64_t>();
  arguments.codes = codes;
  arguments.grad_codebook = grad_codebook.mutable_data_ptr();
  const Scratch scratch(grad_vectors, codebook_gradient_scratch_bytes(arguments));
  codebook_gradient(arguments, scratch.data(), current_stream(grad_vectors.get_device()));
  return grad_codebook;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CUDA, library) {
  library.impl("codebook_reinmax_backward", TORCH_BOX(&backward<ReinMaxOp>));
  library.impl("codebook_straight_through_backward", TORCH_BOX(&backward<StraightThroughOp>));
  library.impl("codebook_gradient", TORCH_BOX(&gradient));
}

}  // namespace reinmax_kernels::cuda
