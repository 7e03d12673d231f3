// The ops of reinmax_kernels/ops.py that work on each element by itself, on CUDA tensors: as ops.cpp for categories.
#include <tuple>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/operands.h"
#include "tensors.h"

namespace reinmax_kernels::cuda {
namespace {

Tensor output_beside(const Tensor& logits, const Shape& shape) {
  return empty_beside(logits, shape.leading, logits.scalar_type());
}

std::tuple<Tensor, Tensor> draw_bits(const Tensor& logits, const Tensor& seed, const std::optional<Tensor>& mask,
                                     int64_t offset, int64_t row_offset) {
  const DeviceGuard guard(logits.get_device());
  const Shape shape = Shape::of_elements(logits);
  const ElementOperands operands(shape, logits, mask);
  BernoulliArguments arguments = operands.arguments();
  const Tensor seeds = take_stream(arguments.noise, shape, logits, seed, offset, row_offset);
  Tensor bits = output_beside(logits, shape), probs = output_beside(logits, shape);
  if (shape.rows == 0) return {bits, probs};
  arguments.bits = bits.mutable_data_ptr();
  arguments.probs = probs.mutable_data_ptr();
  bernoulli(arguments, current_stream(logits.get_device()));
  return {bits, probs};
}

// Of an estimator that makes no noise.
std::nullopt_t stream_of(BernoulliArguments&, const Shape&, const Tensor&) { return std::nullopt; }

// Of one that does. Returns what has to outlive the launch.
Tensor stream_of(BernoulliArguments& arguments, const Shape& shape, const Tensor& logits, const Tensor& seed,
                 int64_t offset, int64_t row_offset) {
  return take_stream(arguments.noise, shape, logits, seed, offset, row_offset);
}

template <void (*kLaunch)(const BernoulliArguments&, Stream), class... Own>
Tensor backward_of_bits(const std::optional<Tensor>& grad_bits, const std::optional<Tensor>& grad_probs,
                        const Tensor& logits, const Tensor& bits, const std::optional<Tensor>& mask,
                        const std::optional<Tensor>& tau, Own... own) {
  const DeviceGuard guard(logits.get_device());
  const Shape shape = Shape::of_elements(logits);
  const ElementOperands operands(shape, logits, mask, grad_bits, grad_probs, bits);
  BernoulliArguments arguments = operands.arguments();
  [[maybe_unused]] const auto kept = stream_of(arguments, shape, logits, own...);
  if (tau) require_device(*tau, logits);
  arguments.tau = checked_tau(tau);
  Tensor grad_logits = output_beside(logits, shape);
  if (shape.rows == 0) return grad_logits;
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  kLaunch(arguments, current_stream(logits.get_device()));
  return grad_logits;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CUDA, library) {
  library.impl("bernoulli", TORCH_BOX(&draw_bits));
  library.impl("bernoulli_reinmax_backward", TORCH_BOX((&backward_of_bits<&bernoulli_reinmax_backward>)));
  library.impl("bernoulli_straight_through_backward",
               TORCH_BOX((&backward_of_bits<&bernoulli_straight_through_backward>)));
  library.impl("bernoulli_gumbel_softmax_backward",
               TORCH_BOX((&backward_of_bits<&bernoulli_gumbel_softmax_backward, const Tensor&, int64_t, int64_t>)));
}

}  // namespace reinmax_kernels::cuda
