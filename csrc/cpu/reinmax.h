// ReinMax (Liu et al., NeurIPS 2023), backward: 2 J((p + e) / 2) g - J(pi) g / 2 + J(pi) h in closed form, where
// pi = softmax(x), p = softmax(x / tau), e is the drawn one-hot, g and h the gradients of one-hot and probabilities.
// Included once per level.

// tau = 1: pi_j (g_j - g_D) / 2 + pi_j (h_j - <pi, h>) away from the drawn category; at it (g_D - <pi, g>) / 2, which
// is what makes the terms of g add up to 0, and the same term of h. Without h, one pass.
template <class Row>
REINMAX_INLINE void reinmax_unit(Row& row) {
  constexpr bool kGradProbs = Row::kGradProbs;
  using Real = typename Row::Scalar;
  using Vector = typename Row::Vector;
  const auto drawn = row.drawn();
  typename Row::Quantity centre{};
  if constexpr (kGradProbs) {
    centre = row.template reduce<1>([&](const auto& at, auto* sum)
                                        REINMAX_LAMBDA { sum[0] += row.probability(at.logit()) * at.grad_probs(); })[0];
  }
  const auto through_probs = [&](const auto& at, const auto& half_pi)
                                 REINMAX_LAMBDA { return half_pi * (at.grad_probs() - centre) * Real(2); };
  const auto sums = row.template write<1, true>([&](const auto& at, auto* sum) REINMAX_LAMBDA {
    const Vector half_pi = row.template probability<-1>(at.logit());
    const Vector gradient = half_pi * (at.grad_one_hot() - drawn.grad_one_hot());
    sum[0] += gradient;
    return kGradProbs ? gradient + through_probs(at, half_pi) : gradient;
  });
  const auto gradient = typename Row::Quantity{} - sums[0];
  row.set_drawn(kGradProbs ? gradient + through_probs(drawn, row.template probability<-1>(drawn.logit())) : gradient);
}

// Any tau. With a = <pi, g>, b = <p, g>: (e + p)(g - (g_D + b) / 2) - pi (g - a) / 2 + pi (h - <pi, h>).
template <class Row>
REINMAX_INLINE void reinmax_general(Row& row, double tau) {
  constexpr bool kGradProbs = Row::kGradProbs;
  using Real = typename Row::Scalar;
  const Real inverse_tau = inverse_of<Real>(tau);
  using Vector = typename Row::Vector;
  const auto reference = row.reference();
  const auto tempered = [&](const Vector& logit)
                            REINMAX_LAMBDA { return Simd<Real>::exp((logit - reference) * inverse_tau); };
  const auto sums = row.template reduce<3 + kGradProbs>([&](const auto& at, auto* sum) REINMAX_LAMBDA {
    const Vector pi = row.probability(at.logit()), p = tempered(at.logit());
    row.keep(at, p);
    sum[0] += p;
    sum[1] += p * at.grad_one_hot();
    sum[2] += pi * at.grad_one_hot();
    if constexpr (kGradProbs) sum[3] += pi * at.grad_probs();
  });
  const auto drawn = row.drawn();
  const auto scale = Real(1) / sums[0];
  const auto centre = (drawn.grad_one_hot() + sums[1] * scale) * Real(0.5);
  const auto gradient = [&](const auto& at, const auto& p) REINMAX_LAMBDA {
    const auto pi = row.probability(at.logit());
    const auto through_sample =
        p * scale * (at.grad_one_hot() - centre) - pi * (at.grad_one_hot() - sums[2]) * Real(0.5);
    if constexpr (!kGradProbs) return through_sample;
    return through_sample + pi * (at.grad_probs() - sums[2 + kGradProbs]);
  };
  const auto drawn_gradient = gradient(drawn, row.kept(drawn, tempered)) + (drawn.grad_one_hot() - centre);
  row.template write<0, true>([&](const auto& at, auto*)
                                  REINMAX_LAMBDA { return gradient(at, row.kept(at, tempered)); });
  row.set_drawn(drawn_gradient);
}

static void reinmax_backward(const BackwardArguments& arguments, int64_t begin, int64_t end, void*) {
  if (arguments.tau == 1) {
    for_each_row(arguments, begin, end, [](auto& row) { reinmax_unit(row); });
  } else {
    for_each_row(arguments, begin, end, [&](auto& row) { reinmax_general(row, arguments.tau); });
  }
}
