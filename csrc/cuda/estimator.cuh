// An estimator is its formula: a struct with `gradient(point, sums, inverse_tau)`; with kTakesGradDrawn, whether that
// takes g at the drawn category; and, where at tau = 1 and without a gradient of the probabilities no sum is needed
// away from the drawn category, with `away_from_drawn(pi, g, g_drawn)`.
#pragma once

namespace reinmax_kernels::cuda {

// One position of a row: pi = softmax(x) and its relaxation p there, the gradients of one-hot and probabilities,
// and whether the category was drawn.
template <class Real>
struct Point {
  Real pi, p, g, h;
  bool is_drawn;
};

// Of a row: g at the drawn category (0 where an estimator does not take it), and inner products.
template <class Real>
struct Sums {
  Real g_drawn, pi_g, p_g, pi_h;
};

}  // namespace reinmax_kernels::cuda
