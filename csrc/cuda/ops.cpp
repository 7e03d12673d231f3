// The op table of reinmax_kernels/ops.py on CUDA tensors, through torch's stable ABI: from tensors to rows, and to the
// kernels, on the current stream of the logits' device. Nothing waits for the device.
#include <cmath>
#include <string>
#include <tuple>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/operands.h"
#include "tensors.h"

namespace reinmax_kernels::cuda {
namespace {

// Draws into `arguments`, whose outputs the caller has allocated.
void draw(SampleArguments& arguments, const Tensor& logits, const Tensor& seed_given, const std::optional<Tensor>& mask,
          int64_t offset, int64_t row_offset, const Shape& shape) {
  require_device(seed_given, logits);
  const Tensor seed = checked_seeds(seed_given, shape);
  const Operands operands(shape, logits, mask);
  if (shape.rows == 0) return;
  arguments.logits = operands.logits();
  arguments.seeds = seed.const_data_ptr<int64_t>();
  arguments.rows_per_seed = shape.rows / seed.numel();
  arguments.offset = uint64_t(offset);
  arguments.row_offset = uint64_t(row_offset);
  const Scratch scratch(logits, sample_scratch_bytes(arguments));
  sample(arguments, scratch.data(), current_stream(logits.get_device()));
}

Tensor draw_index(const Tensor& logits, const Tensor& seed, const std::optional<Tensor>& mask, int64_t offset,
                  int64_t row_offset) {
  const DeviceGuard guard(logits.get_device());
  const Shape shape(logits);
  Tensor index = empty_beside(logits, shape.leading, ScalarType::Long);
  SampleArguments arguments;
  arguments.index = index.mutable_data_ptr<int64_t>();
  draw(arguments, logits, seed, mask, offset, row_offset, shape);
  return index;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> draw_dense(const Tensor& logits, const Tensor& seed,
                                                      const std::optional<Tensor>& mask, int64_t offset,
                                                      int64_t row_offset) {
  const DeviceGuard guard(logits.get_device());
  const Shape shape(logits);
  Tensor one_hot = empty_beside(logits, shape.sizes, logits.scalar_type());
  Tensor probs = empty_beside(logits, shape.sizes, logits.scalar_type());
  Tensor index = empty_beside(logits, shape.leading, ScalarType::Long);
  Tensor log_sum_exp = empty_beside(logits, shape.leading, ScalarType::Double);
  SampleArguments arguments;
  arguments.index = index.mutable_data_ptr<int64_t>();
  arguments.one_hot = one_hot.mutable_data_ptr();
  arguments.probs = probs.mutable_data_ptr();
  arguments.log_sum_exp = log_sum_exp.mutable_data_ptr<double>();
  draw(arguments, logits, seed, mask, offset, row_offset, shape);
  return {one_hot, probs, index, log_sum_exp};
}

// What one estimator's backward takes of its own, after what all take. Returns what has to outlive the launch.
std::nullopt_t take(BackwardArguments&, const Tensor&, const Shape&) { return std::nullopt; }

std::nullopt_t take(BackwardArguments& arguments, const Tensor&, const Shape&, double gap) {
  if (!(gap >= 0) || std::isinf(gap)) {
    throw std::invalid_argument("gap: expected a finite value >= 0, got " + std::to_string(gap));
  }
  arguments.gap = gap;
  return std::nullopt;
}

Tensor take(BackwardArguments& arguments, const Tensor& logits, const Shape& shape, const Tensor& seed, int64_t offset,
            int64_t row_offset, int64_t samples) {
  require(samples >= 1 && samples < int64_t{1} << 32, "num_samples: expected a value in [1, 2**32)");
  arguments.noise.samples = samples;
  return take_stream(arguments.noise, shape, logits, seed, offset, row_offset);
}

// Runs one estimator's backward kernel.
template <void (*kLaunch)(const BackwardArguments&, void* scratch, Stream),
          int64_t (*kScratchBytes)(const BackwardArguments&), class... Own>
Tensor backward(const std::optional<Tensor>& grad_one_hot, const std::optional<Tensor>& grad_probs,
                const Tensor& logits, const Tensor& index_given, const Tensor& log_sum_exp_given,
                const std::optional<Tensor>& mask, const std::optional<Tensor>& tau, Own... own) {
  const DeviceGuard guard(logits.get_device());
  const Shape shape(logits);
  require_device(index_given, logits);
  require_device(log_sum_exp_given, logits);
  if (tau) require_device(*tau, logits);
  const Tensor index = checked_index(index_given, shape), log_sum_exp = checked_log_sum_exp(log_sum_exp_given, shape);
  Tensor grad_logits = empty_beside(logits, shape.sizes, logits.scalar_type());
  const Operands operands(shape, logits, mask, grad_one_hot, grad_probs);
  BackwardArguments arguments;
  arguments.tau = checked_tau(tau);
  [[maybe_unused]] const auto kept = take(arguments, logits, shape, own...);
  if (shape.rows == 0) return grad_logits;
  arguments.logits = operands.logits();
  arguments.grad_one_hot = operands.grad_one_hot();
  arguments.grad_probs = operands.grad_probs();
  arguments.index = index.const_data_ptr<int64_t>();
  arguments.log_sum_exp = log_sum_exp.const_data_ptr<double>();
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  const Scratch scratch(logits, kScratchBytes(arguments));
  kLaunch(arguments, scratch.data(), current_stream(logits.get_device()));
  return grad_logits;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CUDA, library) {
  library.impl("sample", TORCH_BOX(&draw_index));
  library.impl("sample_dense", TORCH_BOX(&draw_dense));
  library.impl("reinmax_backward", TORCH_BOX((&backward<&reinmax_backward, &backward_scratch_bytes>)));
  library.impl("straight_through_backward",
               TORCH_BOX((&backward<&straight_through_backward, &backward_scratch_bytes>)));
  library.impl("gapped_straight_through_backward",
               TORCH_BOX((&backward<&gapped_straight_through_backward, &backward_scratch_bytes, double>)));
  library.impl(
      "gumbel_rao_backward",
      TORCH_BOX(
          (&backward<&gumbel_rao_backward, &gumbel_rao_scratch_bytes, const Tensor&, int64_t, int64_t, int64_t>)));
}

}  // namespace reinmax_kernels::cuda
