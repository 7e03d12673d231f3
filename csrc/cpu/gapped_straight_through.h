// Gapped straight-through (Fan et al., ICML 2022), backward: J(q) g / tau + J(pi) h, where q = softmax(x' / tau) and x'
// is x with the drawn logit lifted to the largest, and every other one lowered to `gap` below it. Included once per
// level.

// Every category is first taken for one that was not drawn, and the drawn one, whose weight in q is 1, then put right.
template <class Row>
REINMAX_INLINE void gapped_straight_through(Row& row, double tau, double gap) {
  constexpr bool kGradProbs = Row::kGradProbs;
  using Real = typename Row::Scalar;
  using Vector = typename Row::Vector;
  const Real inverse_tau = inverse_of<Real>(tau);
  const Real lowered = Real(-gap);
  const auto largest = row.largest_logit();
  const auto weight = [&](const Vector& logit)
                          REINMAX_LAMBDA { return Simd<Real>::exp(minimum(logit - largest, lowered) * inverse_tau); };
  const auto sums = row.template reduce<2 + kGradProbs>([&](const auto& at, auto* sum) REINMAX_LAMBDA {
    const Vector w = weight(at.logit());
    row.keep(at, w);
    sum[0] += w;
    sum[1] += w * at.grad_one_hot();
    if constexpr (kGradProbs) sum[2] += row.probability(at.logit()) * at.grad_probs();
  });
  const auto drawn = row.drawn();
  const auto excess = row.kept(drawn, weight) - Real(1);
  const auto scale = Real(1) / (sums[0] - excess);
  const auto centre = (sums[1] - excess * drawn.grad_one_hot()) * scale;
  const auto share = scale * inverse_tau;
  const auto gradient = [&](const auto& at, const auto& w, const auto& grad_one_hot) REINMAX_LAMBDA {
    const auto through_sample = w * (grad_one_hot - centre) * share;
    if constexpr (!kGradProbs) return through_sample;
    return through_sample + row.probability(at.logit()) * (at.grad_probs() - sums[1 + kGradProbs]);
  };
  row.template write<0, kGradProbs>([&](const auto& at, auto*) REINMAX_LAMBDA {
    const Vector w = row.kept(at, weight);
    return gradient(at, w, at.grad_one_hot_of(w));
  });
  row.set_drawn(gradient(drawn, Real(1), drawn.grad_one_hot()));
}

static void gapped_straight_through_backward(const BackwardArguments& arguments, int64_t begin, int64_t end, void*) {
  const double tau = arguments.tau, gap = arguments.gap;
  for_each_row(arguments, begin, end, [=](auto& row) { gapped_straight_through(row, tau, gap); });
}
