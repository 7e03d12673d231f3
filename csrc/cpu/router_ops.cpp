// The op table of reinmax_kernels/router_ops.py on CPU tensors, as ops.cpp is that of the estimators.
#include <atomic>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/dispatch_plan.h"
#include "cpu/kernels.h"
#include "cpu/operands.h"
#include "tensors.h"

namespace reinmax_kernels::cpu {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// Logits [..., E], and what a router gives for them, [..., k].
struct RouterShape : Shape {
  RouterShape(const Tensor& logits, int64_t k) : Shape(logits), chosen(leading) {
    require(2 <= categories && categories <= kMostExperts, "logits: expected 2 to 1024 experts");
    require(1 <= k && k <= categories, "k: expected a value in [1, E]");
    chosen.push_back(k);
  }
  std::vector<int64_t> chosen;
};

// The experts that a forward chose, as its backward reads them.
Tensor checked_experts(const Tensor& index, const RouterShape& shape) {
  const int64_t count = shape.rows * shape.chosen.back();
  require(index.scalar_type() == ScalarType::Long && index.numel() == count, "index: expected int64, [..., k]");
  const Tensor contiguous = torch::stable::contiguous(index);
  const int64_t* experts = contiguous.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i) {
    require(0 <= experts[i] && experts[i] < shape.categories, "index: expected experts in [0, E)");
  }
  return contiguous;
}

Rows grad_rows(const Tensor& grad_weight, const RouterShape& shape, const Logits& logits) {
  const Rows rows = rows_of(grad_weight, shape.chosen);
  require(rows.dtype == logits.values.dtype, "grad_weight: expected the logits' dtype");
  return rows;
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
  parallel_for_rows(shape, 1, 0,
                    [&](int64_t begin, int64_t end, void*) { kernels().topk_router(arguments, begin, end); });
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
  arguments.k = shape.chosen.back();
  arguments.sigmoid = sigmoid;
  arguments.normalize = normalize;
  arguments.index = const_cast<int64_t*>(index.const_data_ptr<int64_t>());
  arguments.grad_weight = grad_rows(grad_weight, shape, arguments.logits);
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  parallel_for_rows(shape, 1, 0,
                    [&](int64_t begin, int64_t end, void*) { kernels().topk_router_backward(arguments, begin, end); });
  return grad_logits;
}

// Each list [..., M] by itself.
std::tuple<Tensor, Tensor, Tensor> dispatch_plan(const Tensor& index_given, int64_t experts) {
  require(index_given.scalar_type() == ScalarType::Long && index_given.dim() >= 1, "index: expected int64, [..., M]");
  require(experts >= 1, "num_experts: expected at least 1");
  const Tensor index = torch::stable::contiguous(index_given);
  std::vector<int64_t> sizes(index.sizes().begin(), index.sizes().end());
  Tensor order = empty(sizes, ScalarType::Long), inverse = empty(sizes, ScalarType::Long);
  const int64_t length = sizes.back();
  sizes.back() = experts;
  Tensor counts = empty(sizes, ScalarType::Long);
  const int64_t* from = index.const_data_ptr<int64_t>();
  for (int64_t list = 0; list < counts.numel() / experts; ++list, from += length) {
    DispatchPlan plan(from, length, experts);
    std::atomic<int64_t> invalid{kNone};
    const auto for_parts = [&](const auto& body) {
      if (plan.parts() == 1) return body(0, 1);
      torch::stable::parallel_for(0, plan.parts(), 1, body);
    };
    for_parts([&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        if (const int64_t bad = plan.count(part); bad >= 0) report_invalid_row(invalid, bad);
      }
    });
    if (invalid != kNone) {
      throw std::invalid_argument("index: expected experts in [0, " + std::to_string(experts) + "), got " +
                                  std::to_string(from[invalid]) + " at position " + std::to_string(invalid));
    }
    plan.sum(counts.mutable_data_ptr<int64_t>() + list * experts);
    for_parts([&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        plan.place(part, order.mutable_data_ptr<int64_t>() + list * length,
                   inverse.mutable_data_ptr<int64_t>() + list * length);
      }
    });
  }
  return {counts, order, inverse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CPU, library) {
  library.impl("topk_router", TORCH_BOX(&topk_router));
  library.impl("topk_router_backward", TORCH_BOX(&topk_router_backward));
  library.impl("dispatch_plan", TORCH_BOX(&dispatch_plan));
}

}  // namespace reinmax_kernels::cpu
