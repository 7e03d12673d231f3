// What routers take, as far as it is the same on every device.
#pragma once

#include <cmath>
#include <vector>

#include "experts.h"
#include "tensors.h"

namespace reinmax_kernels {

// Logits [..., E], and what a router gives for them, [..., k].
struct RouterShape : Shape {
  RouterShape(const Tensor& logits, int64_t experts_of_row) : Shape(logits), chosen(leading), k(experts_of_row) {
    require(2 <= categories && categories <= kMostExperts, "logits: expected 2 to 1024 experts");
    require(1 <= k && k <= categories, "k: expected a value in [1, E]");
    chosen.push_back(k);
  }
  std::vector<int64_t> chosen;
  int64_t k;
};

inline void require_mixer(const RouterShape& shape, double jitter_eps) {
  require(shape.k <= kMostDraws, "k: expected 1 or 2");
  require(jitter_eps >= 0 && std::isfinite(jitter_eps), "jitter_eps: expected a finite value >= 0");
}

inline MixerFactor checked_factor(const RouterShape& shape, int64_t version) {
  require(version == 2 || (version == 1 && shape.k == 1), "version: expected 2, or 1 with k = 1");
  return mixer_factor(version);
}

// What a forward left, as its backward reads it.
inline Tensor checked_chosen(const Tensor& index, const RouterShape& shape) {
  require(index.scalar_type() == ScalarType::Long && index.numel() == shape.rows * shape.k,
          "index: expected int64, [..., k]");
  return torch::stable::contiguous(index);
}

inline Tensor checked_log_sum_exps(const Tensor& log_sum_exp, const RouterShape& shape) {
  require(log_sum_exp.scalar_type() == ScalarType::Double && log_sum_exp.numel() == shape.rows * shape.k,
          "log_sum_exp: expected float64, [..., k]");
  return torch::stable::contiguous(log_sum_exp);
}

}  // namespace reinmax_kernels
