// The estimators of bits, backward: a slope times the gradient of the bits, and P (1 - P) h, with P = sigmoid(x) and h
// the gradient of the probabilities. The slopes are those of the estimators of categorical choices for the two
// categories (x, 0). Included once per level.

// What a slope sees of a block's vector of bits. `other`: the log-odds of the bit that was not drawn.
template <class Real>
struct BitPosition {
  Pack<Real> logit, other;
  Odds<Real> odds;
  const Real* uniform;  // of the noise

  REINMAX_MEMBER Pack<Real> variance() const { return odds.likely * odds.unlikely; }

  // Of the other bit, as a row of the categories' estimators has it. The logarithm of a probability near 1 is taken
  // for 0.
  REINMAX_MEMBER Pack<Real> probability(const Pack<Real>& z) const { return odds.probability(z); }
  REINMAX_MEMBER Pack<Real> log_probability(const Pack<Real>& z) const { return minimum(z, Pack<Real>{}); }
};

template <class Real, bool kNoise, class Slope>
static void for_each_bit(const BernoulliArguments& a, int64_t begin, int64_t end, const Slope& slope) {
  using Vector = Pack<Real>;
  alignas(kRegisterBytes) Real x[kBlockRows] = {}, g[kBlockRows] = {}, h[kBlockRows] = {}, bits[kBlockRows] = {};
  alignas(kRegisterBytes) Real uniforms[kBlockRows], gradient[kBlockRows];
  RowNoise noise;
  for (int64_t first = begin; first < end; first += kBlockRows) {
    const int64_t count = end - first < kBlockRows ? end - first : kBlockRows;
    read_bit_logits(a, first, count, x);
    read_elements(a.grad_bits, first, count, g);
    read_elements(a.grad_probs, first, count, h);
    read_elements(a.drawn, first, count, bits);
    if constexpr (kNoise) {
      noise.start_block(a.stream, first, count);
      for (int lane = 0; lane < kBlockRows; lane += kRegisterLanes<float>) {
        noise.words(0, 0, lane, [&](int word, UInt32 random) {
          if (word == 0) store_as(uniforms + lane, noise_uniform(random));
        });
      }
    }
    for (int lane = 0; lane < kBlockRows; lane += Vector::kLanes) {
      const Vector logit = Vector::load(x + lane), zero{};
      const Vector other = select(Vector::load(bits + lane) > zero, zero - logit, logit);
      const BitPosition<Real> at{logit, other, Odds<Real>::of(logit), uniforms + lane};
      // A certain bit has no gradient, whatever arrived.
      const auto certain = magnitude(logit) > Vector::broadcast(std::numeric_limits<Real>::max());
      const Vector through_bit = slope(at) * select(certain, zero, Vector::load(g + lane));
      const Vector through_probs = at.variance() * select(certain, zero, Vector::load(h + lane));
      (through_bit + through_probs).store(gradient + lane);
    }
    write(gradient, a.logits.dtype, count, static_cast<char*>(a.grad_logits) + first * size_of(a.logits.dtype));
  }
}

// The slope of a kind, at tau = 1 or at any: `unit` and `general` take a position, the latter 1 / tau besides.
template <class Real, bool kNoise, class Unit, class General>
static void backward_of_bits(const BernoulliArguments& a, int64_t begin, int64_t end, Unit unit, General general) {
  if (a.tau == 1) {
    for_each_bit<Real, kNoise>(a, begin, end, unit);
  } else {
    const Real inverse_tau = inverse_of<Real>(a.tau);
    for_each_bit<Real, kNoise>(a, begin, end, [&](const auto& at) { return general(at, inverse_tau); });
  }
}

// o / 2, the probability of the other bit; at any tau ((1 - s^2) - P (1 - P)) / 2, s that of the drawn one in
// sigmoid(x / tau): 1 - s^2 = o (2 - o) keeps the digits of a small o.
template <class Real>
static void bernoulli_reinmax_as(const BernoulliArguments& a, int64_t begin, int64_t end) {
  const auto unit = [](const auto& at) { return at.probability(at.other) * Real(0.5); };
  const auto general = [](const auto& at, Real inverse_tau) {
    const auto other = Odds<Real>::of(at.logit * inverse_tau).probability(at.other);
    return (other * (Real(2) - other) - at.variance()) * Real(0.5);
  };
  backward_of_bits<Real, false>(a, begin, end, unit, general);
}

// s (1 - s) / tau.
template <class Real>
static void bernoulli_straight_through_as(const BernoulliArguments& a, int64_t begin, int64_t end) {
  const auto unit = [](const auto& at) { return at.variance(); };
  const auto general = [](const auto& at, Real inverse_tau) {
    const auto tempered = Odds<Real>::of(at.logit * inverse_tau);
    return tempered.likely * tempered.unlikely * inverse_tau;
  };
  backward_of_bits<Real, false>(a, begin, end, unit, general);
}

// The same of noisy logits, given the bit.
template <class Real>
static void bernoulli_gumbel_softmax_as(const BernoulliArguments& a, int64_t begin, int64_t end) {
  const auto unit = [](const auto& at) {
    return unit_slope_of_two(at.probability(at.other), Pack<Real>::load(at.uniform));
  };
  const auto general = [](const auto& at, Real inverse_tau) {
    const AnyPower<Real> power{inverse_tau};
    const auto u = Pack<Real>::load(at.uniform);
    return power.slope_of_two(power.probability(at, at.other), power.factor(at, at.other), u) * inverse_tau;
  };
  backward_of_bits<Real, true>(a, begin, end, unit, general);
}

static void bernoulli_reinmax_backward(const BernoulliArguments& a, int64_t begin, int64_t end) {
  a.logits.dtype == DType::kFloat64 ? bernoulli_reinmax_as<double>(a, begin, end)
                                    : bernoulli_reinmax_as<float>(a, begin, end);
}

static void bernoulli_straight_through_backward(const BernoulliArguments& a, int64_t begin, int64_t end) {
  a.logits.dtype == DType::kFloat64 ? bernoulli_straight_through_as<double>(a, begin, end)
                                    : bernoulli_straight_through_as<float>(a, begin, end);
}

static void bernoulli_gumbel_softmax_backward(const BernoulliArguments& a, int64_t begin, int64_t end) {
  a.logits.dtype == DType::kFloat64 ? bernoulli_gumbel_softmax_as<double>(a, begin, end)
                                    : bernoulli_gumbel_softmax_as<float>(a, begin, end);
}
