// The op table of reinmax_kernels/ops.py on CPU tensors, through torch's stable ABI: from tensors to rows, and to the
// kernels. The only file that knows both torch and the CPU's kernels.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/operands.h"
#include "tensors.h"

namespace reinmax_kernels::cpu {
namespace {

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

// What one estimator's backward takes of its own, after what all take. Returns what has to outlive the kernel.
std::nullopt_t take(BackwardArguments&, const Shape&) { return std::nullopt; }

std::nullopt_t take(BackwardArguments& arguments, const Shape&, double gap) {
  if (!(gap >= 0) || std::isinf(gap)) {
    throw std::invalid_argument("gap: expected a finite value >= 0, got " + std::to_string(gap));
  }
  arguments.gap = gap;
  return std::nullopt;
}

Tensor take(BackwardArguments& arguments, const Shape& shape, const Tensor& seed, int64_t offset, int64_t row_offset,
            int64_t samples) {
  require(samples >= 1 && samples < int64_t{1} << 32, "num_samples: expected a value in [1, 2**32)");
  const Tensor seeds = checked_seeds(seed, shape);
  arguments.noise = {seeds.const_data_ptr<int64_t>(), shape.rows / seeds.numel(), offset, row_offset, samples};
  return seeds;
}

// Runs one estimator's backward kernel.
template <Backward* Kernels::* kKernel, class... Own>
Tensor backward(const std::optional<Tensor>& grad_one_hot, const std::optional<Tensor>& grad_probs,
                const Tensor& logits_given, const Tensor& index_given, const Tensor& log_sum_exp_given,
                const std::optional<Tensor>& mask, const std::optional<Tensor>& tau, Own... own) {
  const Shape shape(logits_given);
  const Tensor logits = with_adjacent_categories(logits_given);
  const Tensor index = checked_categories(index_given, shape);
  const Tensor log_sum_exp = checked_log_sum_exp(log_sum_exp_given, shape);
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
  arguments.index = index.const_data_ptr<int64_t>();
  arguments.log_sum_exp = log_sum_exp.const_data_ptr<double>();
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  arguments.tau = checked_tau_value(tau);
  [[maybe_unused]] const auto kept = take(arguments, shape, own...);
  const int64_t passes = std::max<int64_t>(arguments.noise.samples, 1);
  parallel_for_rows(shape, passes, backward_scratch_bytes(arguments), [&](int64_t begin, int64_t end, void* scratch) {
    (kernels().*kKernel)(arguments, begin, end, scratch);
  });
  return grad_logits;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CPU, library) {
  library.impl("sample", TORCH_BOX(&sample));
  library.impl("sample_dense", TORCH_BOX(&sample_dense));
  library.impl("reinmax_backward", TORCH_BOX((&backward<&Kernels::reinmax_backward>)));
  library.impl("straight_through_backward", TORCH_BOX((&backward<&Kernels::straight_through_backward>)));
  library.impl("gapped_straight_through_backward",
               TORCH_BOX((&backward<&Kernels::gapped_straight_through_backward, double>)));
  library.impl("gumbel_rao_backward",
               TORCH_BOX((&backward<&Kernels::gumbel_rao_backward, const Tensor&, int64_t, int64_t, int64_t>)));
}

}  // namespace reinmax_kernels::cpu
