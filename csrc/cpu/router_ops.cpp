// The op table of reinmax_kernels/router_ops.py on CPU tensors, as ops.cpp is that of the estimators.
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/dispatch_plan.h"
#include "cpu/kernels.h"
#include "cpu/operands.h"
#include "routers.h"

namespace reinmax_kernels::cpu {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// The experts that a forward chose, as its backward reads them.
Tensor checked_experts(const Tensor& index, const RouterShape& shape) {
  const int64_t count = shape.rows * shape.k;
  const Tensor contiguous = checked_chosen(index, shape);
  const int64_t* experts = contiguous.const_data_ptr<int64_t>();
  bool all_known = true;  // without a branch for each, which would cost as much as the backward of few experts
  for (int64_t i = 0; i < count; ++i) all_known &= uint64_t(experts[i]) < uint64_t(shape.categories);
  require(all_known, "index: expected experts in [0, E)");
  return contiguous;
}

Rows grad_rows(const Tensor& grad_weight, const RouterShape& shape, const Logits& logits) {
  const Rows rows = rows_of(grad_weight, shape.chosen);
  require(rows.dtype == logits.values.dtype, "grad_weight: expected the logits' dtype");
  return rows;
}

// Names the first row that has fewer experts to draw than it has to.
[[noreturn]] void throw_row_without_experts(const Logits& logits, int64_t row, int64_t rows, int64_t k) {
  int64_t finite = 0, unusable = 0;
  for (int64_t j = 0; j < logits.categories; ++j) {
    const int64_t at = logits.mask.offset(row) + j * logits.mask.category_stride;
    if (logits.mask.data != nullptr && !static_cast<const bool*>(logits.mask.data)[at]) continue;
    const double value = value_at(logits.values, row, j);
    finite += std::isfinite(float(value));
    unusable += !std::isfinite(float(value)) && !(std::isinf(value) && value < 0);
  }
  if (unusable > 0 || finite == 0) throw_invalid_row(logits, row, rows);
  throw std::invalid_argument("logits: row " + std::to_string(row) + " of " + std::to_string(rows) + " has " +
                              std::to_string(finite) +
                              " experts above -inf; expected at least k = " + std::to_string(k));
}

SparseMixerArguments mixer_arguments(const Tensor& logits, const std::optional<Tensor>& mask, const RouterShape& shape,
                                     double jitter_eps) {
  require_mixer(shape, jitter_eps);
  SparseMixerArguments arguments;
  arguments.logits = logits_of(logits, mask, shape);
  arguments.k = shape.k;
  arguments.jitter_eps = jitter_eps;
  return arguments;
}

std::tuple<Tensor, Tensor, Tensor> sparse_mixer(const Tensor& logits_given, const std::optional<Tensor>& seed,
                                                const std::optional<Tensor>& mask, int64_t offset, int64_t row_offset,
                                                int64_t k, int64_t version, double jitter_eps) {
  const RouterShape shape(logits_given, k);
  const Tensor logits = with_adjacent_categories(logits_given);
  SparseMixerArguments arguments = mixer_arguments(logits, mask, shape, jitter_eps);
  std::optional<Tensor> seeds;
  if (seed) {
    seeds = checked_seeds(*seed, shape);
    arguments.seeds = seeds->const_data_ptr<int64_t>();
    arguments.rows_per_seed = shape.rows / seeds->numel();
  }
  arguments.offset = offset;
  arguments.row_offset = row_offset;
  arguments.factor = checked_factor(shape, version);
  Tensor index = empty(shape.chosen, ScalarType::Long);
  Tensor weight = dense_output(logits, shape.chosen);
  Tensor log_sum_exp = empty(shape.chosen, ScalarType::Double);
  arguments.index = index.mutable_data_ptr<int64_t>();
  arguments.weight = weight.mutable_data_ptr();
  arguments.log_sum_exp = log_sum_exp.mutable_data_ptr<double>();
  std::atomic<int64_t> invalid{kNone};
  arguments.first_invalid_row = &invalid;
  parallel_for_rows(shape, 1, 0,
                    [&](int64_t begin, int64_t end, void*) { kernels().sparse_mixer(arguments, begin, end); });
  if (invalid < shape.rows) throw_row_without_experts(arguments.logits, invalid, shape.rows, k);
  return {index, weight, log_sum_exp};
}

Tensor sparse_mixer_backward(const Tensor& grad_weight, const Tensor& logits_given, const Tensor& index_given,
                             const Tensor& log_sum_exp_given, const std::optional<Tensor>& mask, double jitter_eps,
                             double scale) {
  const RouterShape shape(logits_given, index_given.size(-1));
  const Tensor logits = with_adjacent_categories(logits_given), index = checked_experts(index_given, shape);
  const Tensor log_sum_exp = checked_log_sum_exps(log_sum_exp_given, shape);
  Tensor grad_logits = dense_output(logits, shape.sizes);
  SparseMixerArguments arguments = mixer_arguments(logits, mask, shape, jitter_eps);
  arguments.index = const_cast<int64_t*>(index.const_data_ptr<int64_t>());
  arguments.log_sum_exp = const_cast<double*>(log_sum_exp.const_data_ptr<double>());
  arguments.grad_weight = grad_rows(grad_weight, shape, arguments.logits);
  arguments.scale = scale;
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  parallel_for_rows(shape, 1, 0,
                    [&](int64_t begin, int64_t end, void*) { kernels().sparse_mixer_backward(arguments, begin, end); });
  return grad_logits;
}

std::tuple<Tensor, Tensor> topk_router(const Tensor& logits_given, int64_t k, bool sigmoid, bool normalize) {
  const RouterShape shape(logits_given, k);
  const Tensor logits = with_adjacent_categories(logits_given);
  Tensor index = empty(shape.chosen, ScalarType::Long);
  Tensor weight = dense_output(logits, shape.chosen);
  std::atomic<int64_t> invalid{kNone};
  TopkRouterArguments arguments;
  arguments.logits = logits_of(logits, std::nullopt, shape);
  arguments.k = k;
  arguments.sigmoid = sigmoid;
  arguments.normalize = normalize;
  arguments.index = index.mutable_data_ptr<int64_t>();
  arguments.weight = weight.mutable_data_ptr();
  arguments.first_invalid_row = &invalid;
  parallel_for_rows(
      shape, 1, topk_router_scratch_bytes(shape.categories),
      [&](int64_t begin, int64_t end, void* scratch) { kernels().topk_router(arguments, begin, end, scratch); });
  if (invalid < shape.rows) throw_invalid_row(arguments.logits, invalid, shape.rows);
  return {index, weight};
}

Tensor topk_router_backward(const Tensor& grad_weight, const Tensor& logits_given, const Tensor& index_given,
                            bool sigmoid, bool normalize) {
  const RouterShape shape(logits_given, index_given.size(-1));
  const Tensor logits = with_adjacent_categories(logits_given), index = checked_experts(index_given, shape);
  Tensor grad_logits = dense_output(logits, shape.sizes);
  TopkRouterArguments arguments;
  arguments.logits = logits_of(logits, std::nullopt, shape);
  arguments.k = shape.k;
  arguments.sigmoid = sigmoid;
  arguments.normalize = normalize;
  arguments.index = const_cast<int64_t*>(index.const_data_ptr<int64_t>());
  arguments.grad_weight = grad_rows(grad_weight, shape, arguments.logits);
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  parallel_for_rows(shape, 1, 0, [&](int64_t begin, int64_t end, void*) {
    kernels().topk_router_backward(arguments, begin, end, nullptr);
  });
  return grad_logits;
}

// Lists of assignments [..., M], and how many each expert has [..., E].
struct Assignments {
  Assignments(const Tensor& index_given, int64_t number_of_experts) : experts(number_of_experts) {
    require(index_given.scalar_type() == ScalarType::Long && index_given.dim() >= 1, "index: expected int64, [..., M]");
    require(experts >= 1, "num_experts: expected at least 1");
    index = torch::stable::contiguous(index_given);
    sizes.assign(index.sizes().begin(), index.sizes().end());
    length = sizes.back();
    std::vector<int64_t> counts_sizes = sizes;
    counts_sizes.back() = experts;
    counts = empty(counts_sizes, ScalarType::Long);
  }

  // `place(plan, list)` for each list by itself, counted.
  template <class Place>
  void for_lists(const Place& place) {
    const int64_t* from = index.const_data_ptr<int64_t>();
    for (int64_t list = 0; list < counts.numel() / experts; ++list, from += length) {
      DispatchPlan plan(from, length, experts);
      std::atomic<int64_t> invalid{kNone};
      for_parts(plan, [&](int64_t part) {
        if (const int64_t bad = plan.count(part); bad >= 0) report_invalid_row(invalid, bad);
      });
      if (invalid != kNone) {
        throw std::invalid_argument("index: expected experts in [0, " + std::to_string(experts) + "), got " +
                                    std::to_string(from[invalid]) + " at position " + std::to_string(invalid));
      }
      plan.sum(counts.mutable_data_ptr<int64_t>() + list * experts);
      place(plan, list);
    }
  }

  template <class Body>
  static void for_parts(const DispatchPlan& plan, const Body& body) {
    if (plan.parts() == 1) return body(0);
    torch::stable::parallel_for(0, plan.parts(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) body(part);
    });
  }

  int64_t experts, length;
  Tensor index, counts;
  std::vector<int64_t> sizes;
};

Tensor expert_counts(const Tensor& index, int64_t experts) {
  Assignments assignments(index, experts);
  assignments.for_lists([](DispatchPlan&, int64_t) {});
  return assignments.counts;
}

std::tuple<Tensor, Tensor, Tensor> dispatch_plan(const Tensor& index, int64_t experts) {
  Assignments assignments(index, experts);
  Tensor order = empty(assignments.sizes, ScalarType::Long), inverse = empty(assignments.sizes, ScalarType::Long);
  assignments.for_lists([&](DispatchPlan& plan, int64_t list) {
    const int64_t first = list * assignments.length;
    Assignments::for_parts(plan, [&](int64_t part) {
      plan.place(part, order.mutable_data_ptr<int64_t>() + first, inverse.mutable_data_ptr<int64_t>() + first);
    });
  });
  return {assignments.counts, order, inverse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CPU, library) {
  library.impl("sparse_mixer", TORCH_BOX(&sparse_mixer));
  library.impl("sparse_mixer_backward", TORCH_BOX(&sparse_mixer_backward));
  library.impl("topk_router", TORCH_BOX(&topk_router));
  library.impl("topk_router_backward", TORCH_BOX(&topk_router_backward));
  library.impl("dispatch_plan", TORCH_BOX(&dispatch_plan));
  library.impl("expert_counts", TORCH_BOX(&expert_counts));
}

}  // namespace reinmax_kernels::cpu
