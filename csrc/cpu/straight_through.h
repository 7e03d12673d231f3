// Straight-through (Bengio et al., 2013), backward: J(p) g / tau + J(pi) h, where pi = softmax(x),
// p = softmax(x / tau), g and h are the gradients of one-hot and probabilities. Included once per level.

template <class Row>
REINMAX_INLINE void straight_through_general(Row& row, double tau) {
  using Real = typename Row::Scalar;
  const Real inverse_tau = inverse_of<Real>(tau);
  using Vector = typename Row::Vector;
  const Vector largest = row.largest_logit();
  const auto tempered = [&](const Vector& logit) { return Simd<Real>::exp((logit - largest) * inverse_tau); };
  const auto sums = row.template reduce<3>([&](const auto& at, auto* sum) {
    const Vector p = tempered(at.logit);
    sum[0] += p;
    sum[1] += p * at.grad_one_hot;
    sum[2] += row.probability(at.logit) * at.grad_probs;
  });
  const Vector scale = Real(1) / sums[0];
  const Vector centre = sums[1] * scale;
  row.template write<0>([&](const auto& at, auto*) {
    const Vector p = tempered(at.logit) * scale;
    return p * (at.grad_one_hot - centre) * inverse_tau + row.probability(at.logit) * (at.grad_probs - sums[2]);
  });
}

// tau = 1: p is pi, and both gradients pass through the same Jacobian.
template <class Row>
REINMAX_INLINE void straight_through_unit(Row& row) {
  const auto sums = row.template reduce<1>(
      [&](const auto& at, auto* sum) { sum[0] += row.probability(at.logit) * (at.grad_one_hot + at.grad_probs); });
  row.template write<0>(
      [&](const auto& at, auto*) { return row.probability(at.logit) * (at.grad_one_hot + at.grad_probs - sums[0]); });
}

static void straight_through_backward(const BackwardArguments& arguments, int64_t begin, int64_t end, void*) {
  if (arguments.tau == 1) {
    for_each_row(arguments, begin, end, [](auto& row) { straight_through_unit(row); });
  } else {
    for_each_row(arguments, begin, end, [&](auto& row) { straight_through_general(row, arguments.tau); });
  }
}
