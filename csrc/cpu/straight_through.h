// Straight-through (Bengio et al., 2013), backward: J(p) g / tau + J(pi) h, where pi = softmax(x),
// p = softmax(x / tau), g and h are the gradients of one-hot and probabilities. Included once per level.

template <class Row>
REINMAX_INLINE void straight_through_general(Row& row, double tau) {
  constexpr bool kGradProbs = Row::kGradProbs;
  using Real = typename Row::Scalar;
  const Real inverse_tau = inverse_of<Real>(tau);
  using Vector = typename Row::Vector;
  const auto reference = row.reference();
  const auto weight = [&](const Vector& logit)
                          REINMAX_LAMBDA { return Simd<Real>::exp((logit - reference) * inverse_tau); };
  const auto sums = row.template reduce<2 + kGradProbs>([&](const auto& at, auto* sum) REINMAX_LAMBDA {
    const Vector w = weight(at.logit());
    row.keep(at, w);
    sum[0] += w;
    sum[1] += w * at.grad_one_hot();
    if constexpr (kGradProbs) sum[2] += row.probability(at.logit()) * at.grad_probs();
  });
  const auto scale = Real(1) / sums[0];
  const auto centre = sums[1] * scale;
  const auto share = scale * inverse_tau;
  row.template write<0, kGradProbs>([&](const auto& at, auto*) REINMAX_LAMBDA {
    const Vector w = row.kept(at, weight), through_sample = w * (at.grad_one_hot_of(w) - centre) * share;
    if constexpr (!kGradProbs) return through_sample;
    return through_sample + row.probability(at.logit()) * (at.grad_probs() - sums[1 + kGradProbs]);
  });
}

// tau = 1: p is pi, and both gradients pass through the same Jacobian.
template <class Row>
REINMAX_INLINE void straight_through_unit(Row& row) {
  constexpr bool kGradProbs = Row::kGradProbs;
  using Vector = typename Row::Vector;
  const auto probability = [&](const Vector& logit) REINMAX_LAMBDA { return row.probability(logit); };
  const auto sums = row.template reduce<1>([&](const auto& at, auto* sum) REINMAX_LAMBDA {
    const Vector pi = probability(at.logit());
    row.keep(at, pi);
    sum[0] += pi * (kGradProbs ? at.grad_one_hot() + at.grad_probs() : at.grad_one_hot());
  });
  row.template write<0, kGradProbs>([&](const auto& at, auto*) REINMAX_LAMBDA {
    const Vector pi = row.kept(at, probability);
    return pi * ((kGradProbs ? at.grad_one_hot() + at.grad_probs() : at.grad_one_hot_of(pi)) - sums[0]);
  });
}

static void straight_through_backward(const BackwardArguments& arguments, int64_t begin, int64_t end, void*) {
  if (arguments.tau == 1) {
    for_each_row(arguments, begin, end, [](auto& row) { straight_through_unit(row); });
  } else {
    for_each_row(arguments, begin, end, [&](auto& row) { straight_through_general(row, arguments.tau); });
  }
}
