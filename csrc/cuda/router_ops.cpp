// The op table of reinmax_kernels/router_ops.py on CUDA tensors, as ops.cpp is that of the estimators. What has no
// kernel here, the dispatcher finds elsewhere.
#include <tuple>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/operands.h"
#include "routers.h"

namespace reinmax_kernels::cuda {
namespace {

// Of the operands, which have to outlive the launch.
template <class Arguments>
void take_logits(Arguments& arguments, const Operands& operands, const RouterShape& shape) {
  arguments.logits = operands.logits();
  arguments.k = int(shape.k);
}

// Of a backward, [..., k] in one piece.
Tensor checked_grad_weight(const Tensor& grad_weight, const Tensor& logits, const RouterShape& shape) {
  require_device(grad_weight, logits);
  require(grad_weight.scalar_type() == logits.scalar_type() && grad_weight.numel() == shape.rows * shape.k,
          "grad_weight: expected [..., k] in the logits' dtype");
  return torch::stable::contiguous(grad_weight);
}

std::tuple<Tensor, Tensor, Tensor> mix(const Tensor& logits, const std::optional<Tensor>& seed,
                                       const std::optional<Tensor>& mask, int64_t offset, int64_t row_offset, int64_t k,
                                       int64_t version, double jitter_eps) {
  const DeviceGuard guard(logits.get_device());
  const RouterShape shape(logits, k);
  require_mixer(shape, jitter_eps);
  SparseMixerArguments arguments;
  arguments.factor = checked_factor(shape, version);
  std::optional<Tensor> seeds;
  if (seed) {
    require_device(*seed, logits);
    seeds = checked_seeds(*seed, shape);
    arguments.seeds = seeds->const_data_ptr<int64_t>();
    arguments.rows_per_seed = shape.rows / seeds->numel();
  }
  const Operands operands(shape, logits, mask);
  take_logits(arguments, operands, shape);
  arguments.offset = uint64_t(offset);
  arguments.row_offset = uint64_t(row_offset);
  arguments.jitter_limit = 2 * jitter_eps;
  Tensor index = empty_beside(logits, shape.chosen, ScalarType::Long);
  Tensor weight = empty_beside(logits, shape.chosen, logits.scalar_type());
  Tensor log_sum_exp = empty_beside(logits, shape.chosen, ScalarType::Double);
  arguments.index = index.mutable_data_ptr<int64_t>();
  arguments.weight = weight.mutable_data_ptr();
  arguments.log_sum_exp = log_sum_exp.mutable_data_ptr<double>();
  if (shape.rows > 0) sparse_mixer(arguments, current_stream(logits.get_device()));
  return {index, weight, log_sum_exp};
}

Tensor mix_backward(const Tensor& grad_weight_given, const Tensor& logits, const Tensor& index_given,
                    const Tensor& log_sum_exp_given, const std::optional<Tensor>& mask, double jitter_eps,
                    double scale) {
  const DeviceGuard guard(logits.get_device());
  const RouterShape shape(logits, index_given.size(-1));
  require_mixer(shape, jitter_eps);
  require_device(index_given, logits);
  require_device(log_sum_exp_given, logits);
  const Tensor grad_weight = checked_grad_weight(grad_weight_given, logits, shape);
  const Tensor index = checked_chosen(index_given, shape);
  const Tensor log_sum_exp = checked_log_sum_exps(log_sum_exp_given, shape);
  const Operands operands(shape, logits, mask);
  Tensor grad_logits = empty_beside(logits, shape.sizes, logits.scalar_type());
  SparseMixerBackwardArguments arguments;
  take_logits(arguments, operands, shape);
  arguments.grad_weight = grad_weight.const_data_ptr();
  arguments.index = index.const_data_ptr<int64_t>();
  arguments.log_sum_exp = log_sum_exp.const_data_ptr<double>();
  arguments.jitter_limit = 2 * jitter_eps;
  arguments.scale = scale;
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  if (shape.rows > 0) sparse_mixer_backward(arguments, current_stream(logits.get_device()));
  return grad_logits;
}

std::tuple<Tensor, Tensor> take_best(const Tensor& logits, int64_t k, bool sigmoid, bool normalize) {
  const DeviceGuard guard(logits.get_device());
  const RouterShape shape(logits, k);
  const Operands operands(shape, logits, std::nullopt);
  Tensor index = empty_beside(logits, shape.chosen, ScalarType::Long);
  Tensor weight = empty_beside(logits, shape.chosen, logits.scalar_type());
  TopkRouterArguments arguments;
  take_logits(arguments, operands, shape);
  arguments.sigmoid = sigmoid;
  arguments.normalize = normalize;
  arguments.index = index.mutable_data_ptr<int64_t>();
  arguments.weight = weight.mutable_data_ptr();
  if (shape.rows > 0) topk_router(arguments, current_stream(logits.get_device()));
  return {index, weight};
}

Tensor take_best_backward(const Tensor& grad_weight_given, const Tensor& logits, const Tensor& index_given,
                          bool sigmoid, bool normalize) {
  const DeviceGuard guard(logits.get_device());
  const RouterShape shape(logits, index_given.size(-1));
  require_device(index_given, logits);
  const Tensor grad_weight = checked_grad_weight(grad_weight_given, logits, shape);
  const Tensor index = checked_chosen(index_given, shape);
  const Operands operands(shape, logits, std::nullopt);
  Tensor grad_logits = empty_beside(logits, shape.sizes, logits.scalar_type());
  TopkRouterBackwardArguments arguments;
  take_logits(arguments, operands, shape);
  arguments.grad_weight = grad_weight.const_data_ptr();
  arguments.index = index.const_data_ptr<int64_t>();
  arguments.sigmoid = sigmoid;
  arguments.normalize = normalize;
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  if (shape.rows > 0) topk_router_backward(arguments, current_stream(logits.get_device()));
  return grad_logits;
}

// Lists of assignments [..., M], and how many each expert has [..., E].
struct Lists {
  Lists(const Tensor& index_given, int64_t experts) {
    require(index_given.scalar_type() == ScalarType::Long && index_given.dim() >= 1, "index: expected int64, [..., M]");
    require(experts >= 1, "num_experts: expected at least 1");
    index = torch::stable::contiguous(index_given);
    sizes.assign(index.sizes().begin(), index.sizes().end());
    std::vector<int64_t> counts_sizes = sizes;
    counts_sizes.back() = experts;
    counts = empty_beside(index, counts_sizes, ScalarType::Long);
    arguments.index = index.const_data_ptr<int64_t>();
    arguments.lists = counts.numel() / experts;
    arguments.length = sizes.back();
    arguments.experts = experts;
    arguments.counts = counts.mutable_data_ptr<int64_t>();
  }

  void launch() {
    if (arguments.lists == 0) return;
    const int64_t bytes = dispatch_plan_scratch_bytes(arguments);
    Tensor scratch = empty_beside(index, {bytes / int64_t(sizeof(int64_t))}, ScalarType::Long);
    dispatch_plan(arguments, scratch.mutable_data_ptr(), current_stream(index.get_device()));
  }

  Tensor index, counts;
  std::vector<int64_t> sizes;
  DispatchPlanArguments arguments;
};

Tensor count(const Tensor& index, int64_t experts) {
  const DeviceGuard guard(index.get_device());
  Lists lists(index, experts);
  lists.launch();
  return lists.counts;
}

std::tuple<Tensor, Tensor, Tensor> plan(const Tensor& index, int64_t experts) {
  const DeviceGuard guard(index.get_device());
  Lists lists(index, experts);
  Tensor order = empty_beside(index, lists.sizes, ScalarType::Long);
  Tensor inverse = empty_beside(index, lists.sizes, ScalarType::Long);
  lists.arguments.order = order.mutable_data_ptr<int64_t>();
  lists.arguments.inverse = inverse.mutable_data_ptr<int64_t>();
  lists.launch();
  return {lists.counts, order, inverse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CUDA, library) {
  library.impl("sparse_mixer", TORCH_BOX(&mix));
  library.impl("sparse_mixer_backward", TORCH_BOX(&mix_backward));
  library.impl("topk_router", TORCH_BOX(&take_best));
  library.impl("topk_router_backward", TORCH_BOX(&take_best_backward));
  library.impl("dispatch_plan", TORCH_BOX(&plan));
  library.impl("expert_counts", TORCH_BOX(&count));
}

}  // namespace reinmax_kernels::cuda
