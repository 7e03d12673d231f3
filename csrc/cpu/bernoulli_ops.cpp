// The ops of reinmax_kernels/ops.py that work on each element by itself, on CPU tensors: as ops.cpp for categories.
#include <atomic>
#include <limits>
#include <optional>
#include <string>
#include <tuple>

#include "cpu/kernels.h"
#include "cpu/operands.h"
#include "tensors.h"

namespace reinmax_kernels::cpu {
namespace {

// Elements are rows of one category.
Tensor as_rows(const Tensor& elements) { return torch::stable::unsqueeze(elements, -1); }

Rows elements_of(const std::optional<Tensor>& given, const Shape& shape) {
  return given ? rows_of(as_rows(*given), shape.sizes) : Rows{};
}

// What a call works on, whose tensors the caller keeps.
BernoulliArguments arguments_of(const Tensor& logits, const std::optional<Tensor>& mask, const Shape& shape) {
  const Logits operands = logits_of(as_rows(logits), mask ? std::optional(as_rows(*mask)) : std::nullopt, shape);
  BernoulliArguments arguments;
  arguments.logits = operands.values;
  arguments.mask = operands.mask;
  return arguments;
}

std::tuple<Tensor, Tensor> bernoulli(const Tensor& logits, const Tensor& seed, const std::optional<Tensor>& mask,
                                     int64_t offset, int64_t row_offset) {
  const Shape shape(as_rows(logits));
  const Tensor seeds = checked_seeds(seed, shape);
  BernoulliArguments arguments = arguments_of(logits, mask, shape);
  arguments.stream = {seeds.const_data_ptr<int64_t>(), shape.rows / seeds.numel(), offset, row_offset};
  Tensor bits = dense_output(logits, shape.leading), probs = dense_output(logits, shape.leading);
  arguments.bits = bits.mutable_data_ptr();
  arguments.probs = probs.mutable_data_ptr();
  std::atomic<int64_t> invalid{std::numeric_limits<int64_t>::max()};
  arguments.first_invalid = &invalid;
  parallel_for_rows(shape, 1, 0,
                    [&](int64_t begin, int64_t end, void*) { kernels().bernoulli(arguments, begin, end); });
  if (invalid < shape.rows) {
    throw std::invalid_argument("logits: element " + std::to_string(invalid) + " of " + std::to_string(shape.rows) +
                                " holds " + spell(value_at(arguments.logits, invalid, 0)) +
                                "; expected numbers or infinities");
  }
  return {bits, probs};
}

template <Bernoulli* Kernels::* kKernel>
Tensor run_backward(BernoulliArguments& arguments, const std::optional<Tensor>& grad_bits,
                    const std::optional<Tensor>& grad_probs, const Tensor& logits, const Tensor& bits,
                    const std::optional<Tensor>& tau, const Shape& shape) {
  arguments.grad_bits = elements_of(grad_bits, shape);
  arguments.grad_probs = elements_of(grad_probs, shape);
  arguments.drawn = elements_of(bits, shape);
  const DType dtype = arguments.logits.dtype;
  require(!grad_bits || arguments.grad_bits.dtype == dtype, "gradient: expected the logits' dtype");
  require(!grad_probs || arguments.grad_probs.dtype == dtype, "gradient: expected the logits' dtype");
  require(arguments.drawn.dtype == dtype, "bits: expected the logits' dtype");
  arguments.tau = checked_tau_value(tau);
  Tensor grad_logits = dense_output(logits, shape.leading);
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  parallel_for_rows(shape, 1, 0,
                    [&](int64_t begin, int64_t end, void*) { (kernels().*kKernel)(arguments, begin, end); });
  return grad_logits;
}

template <Bernoulli* Kernels::* kKernel>
Tensor backward(const std::optional<Tensor>& grad_bits, const std::optional<Tensor>& grad_probs, const Tensor& logits,
                const Tensor& bits, const std::optional<Tensor>& mask, const std::optional<Tensor>& tau) {
  const Shape shape(as_rows(logits));
  BernoulliArguments arguments = arguments_of(logits, mask, shape);
  return run_backward<kKernel>(arguments, grad_bits, grad_probs, logits, bits, tau, shape);
}

template <Bernoulli* Kernels::* kKernel>
Tensor noisy_backward(const std::optional<Tensor>& grad_bits, const std::optional<Tensor>& grad_probs,
                      const Tensor& logits, const Tensor& bits, const std::optional<Tensor>& mask,
                      const std::optional<Tensor>& tau, const Tensor& seed, int64_t offset, int64_t row_offset) {
  const Shape shape(as_rows(logits));
  const Tensor seeds = checked_seeds(seed, shape);
  BernoulliArguments arguments = arguments_of(logits, mask, shape);
  arguments.stream = {seeds.const_data_ptr<int64_t>(), shape.rows / seeds.numel(), offset, row_offset};
  return run_backward<kKernel>(arguments, grad_bits, grad_probs, logits, bits, tau, shape);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CPU, library) {
  library.impl("bernoulli", TORCH_BOX(&bernoulli));
  library.impl("bernoulli_reinmax_backward", TORCH_BOX((&backward<&Kernels::bernoulli_reinmax_backward>)));
  library.impl("bernoulli_straight_through_backward",
               TORCH_BOX((&backward<&Kernels::bernoulli_straight_through_backward>)));
  library.impl("bernoulli_gumbel_softmax_backward",
               TORCH_BOX((&noisy_backward<&Kernels::bernoulli_gumbel_softmax_backward>)));
}

}  // namespace reinmax_kernels::cpu
