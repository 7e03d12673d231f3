// Gumbel-Rao by Monte Carlo (Paulus et al., ICLR 2021), backward: the mean over samples k of J(s_k) g / tau, and J(pi)
// h. s_k = softmax(G_k / tau), where G_k are Gumbel-perturbed logits given the draw D: with exponential variates E, G_D
// - G_j = log(1 + E_j / (E_D pi_j)). Straight-through Gumbel-Softmax is this with one sample. Included once per level.

// The weight of category j in s_k, that of D being 1, is (1 + E_j / (E_D pi_j))^(-1 / tau). No category lies so far
// below that it underflows unless the weight does: probabilities below e^-60 count as that, and a factor makes up for
// it, for of so large a sum the 1 has no part.
constexpr double kLeastLogProbability = -60;

// tau = 1, where neither a power nor a factor is needed.
template <class Real>
struct UnitPower {
  static constexpr bool kFactor = false;

  template <class Row>
  REINMAX_MEMBER Pack<Real> probability(const Row& row, const Pack<Real>& logit) const {
    return row.probability(logit);
  }

  template <class Row>
  REINMAX_MEMBER Pack<Real> factor(const Row&, const Pack<Real>&) const {
    return Pack<Real>{};
  }

  template <class Quantity>
  REINMAX_MEMBER Pack<Real> weight(const Pack<Real>& logarithm, const Quantity& drawn_logarithm,
                                   const Pack<Real>& probability, const Pack<Real>&) const {
    const auto scaled = probability * drawn_logarithm;
    return scaled / (scaled + logarithm);
  }
};

template <class Real>
struct AnyPower {
  static constexpr bool kFactor = true;
  Real inverse_tau;

  template <class Row>
  REINMAX_MEMBER Pack<Real> probability(const Row& row, const Pack<Real>& logit) const {
    return maximum(row.probability(logit), Pack<Real>::broadcast(Real(std::exp(kLeastLogProbability))));
  }

  template <class Row>
  REINMAX_MEMBER Pack<Real> factor(const Row& row, const Pack<Real>& logit) const {
    const auto excess = row.log_probability(logit) - Real(kLeastLogProbability);
    return Simd<Real>::exp(minimum(excess, Real(0)) * inverse_tau);
  }

  REINMAX_MEMBER Pack<Real> power(const Pack<Real>& ratio) const {
    return Simd<Real>::exp(ratio.each([](auto v) REINMAX_LAMBDA { return -log_1p(v); }) * inverse_tau);
  }

  // s_D s_j of two categories, from a uniform; the probability and the factor are those of j.
  REINMAX_MEMBER Pack<Real> slope_of_two(const Pack<Real>& probability, const Pack<Real>& factor,
                                         const Pack<Real>& u) const {
    const auto w = power(u / ((Real(1) - u) * probability)) * factor, whole = w + Real(1);
    return w / (whole * whole);
  }

  template <class Quantity>
  REINMAX_MEMBER Pack<Real> weight(const Pack<Real>& logarithm, const Quantity& drawn_logarithm,
                                   const Pack<Real>& probability, const Pack<Real>& factor) const {
    return power(logarithm / (probability * drawn_logarithm)) * factor;
  }
};

// s_D s_j of two categories at tau = 1: a (a + u) / (2 a + u)^2, with a = pi_j (1 - u).
template <class Real>
REINMAX_INLINE Pack<Real> unit_slope_of_two(const Pack<Real>& pi, const Pack<Real>& u) {
  const Pack<Real> a = pi * (Real(1) - u), b = a + u, c = a + b;
  return a * b / (c * c);
}

// One sample: straight-through Gumbel-Softmax. Nothing is kept but the weights, where the noise was. As in gapped
// straight-through, the drawn category is first taken for one that was not drawn.
template <class Row, class Power>
REINMAX_INLINE void gumbel_softmax(Row& row, const BackwardArguments& arguments, void* scratch, const Power& power) {
  constexpr bool kGradProbs = Row::kGradProbs;
  using Real = typename Row::Scalar;
  using Vector = typename Row::Vector;
  auto* const weights = static_cast<Real*>(scratch);
  row.log_uniforms(0, weights);
  const auto drawn_logarithm = row.drawn_of(weights);
  const auto sums = row.template reduce<2 + kGradProbs>([&](const auto& at, auto* sum) REINMAX_LAMBDA {
    const Vector w = power.weight(Vector::load(weights + at.slot), drawn_logarithm, power.probability(row, at.logit()),
                                  power.factor(row, at.logit()));
    w.store(weights + at.slot);
    sum[0] += w;
    sum[1] += w * at.grad_one_hot();
    if constexpr (kGradProbs) sum[2] += row.probability(at.logit()) * at.grad_probs();
  });
  const auto drawn = row.drawn();
  const auto excess = row.drawn_of(weights) - Real(1);
  const auto scale = Real(1) / (sums[0] - excess);
  const auto centre = (sums[1] - excess * drawn.grad_one_hot()) * scale;
  const auto share = scale * inverse_of<Real>(arguments.tau);
  const auto gradient = [&](const auto& at, const auto& w, const auto& grad_one_hot) REINMAX_LAMBDA {
    const auto through_sample = w * (grad_one_hot - centre) * share;
    if constexpr (!kGradProbs) return through_sample;
    return through_sample + row.probability(at.logit()) * (at.grad_probs() - sums[1 + kGradProbs]);
  };
  row.template write<0, kGradProbs>([&](const auto& at, auto*) REINMAX_LAMBDA {
    const Vector w = Vector::load(weights + at.slot);
    return gradient(at, w, at.grad_one_hot_of(w));
  });
  row.set_drawn(gradient(drawn, Real(1), drawn.grad_one_hot()));
}

// What a row's samples have in common, in arrays that are as long as the row: see Position::slot.
template <class Real>
struct GumbelArrays {
  Real *probability, *factor, *gradient, *weight, *total;

  GumbelArrays(void* scratch, int64_t slots) {
    auto* next = static_cast<Real*>(scratch);
    for (Real** array : {&probability, &factor, &gradient, &weight, &total}) {
      *array = next;
      next += slots;
    }
  }
};

// Any number of samples. In the arrays the drawn category has weight 0, and is added apart.
template <class Row, class Power>
REINMAX_INLINE void gumbel_rao(Row& row, const BackwardArguments& arguments, void* scratch, const Power& power) {
  constexpr bool kGradProbs = Row::kGradProbs;
  using Real = typename Row::Scalar;
  using Vector = typename Row::Vector;
  const int64_t slots = row.slots(), samples = arguments.noise.samples;
  const GumbelArrays<Real> arrays(scratch, slots);
  const auto sums = row.template reduce<kGradProbs>([&](const auto& at, auto* sum) REINMAX_LAMBDA {
    power.probability(row, at.logit()).store(arrays.probability + at.slot);
    if (Power::kFactor) power.factor(row, at.logit()).store(arrays.factor + at.slot);
    at.grad_one_hot().store(arrays.gradient + at.slot);
    Vector{}.store(arrays.total + at.slot);
    if constexpr (kGradProbs) sum[0] += row.probability(at.logit()) * at.grad_probs();
  });
  row.set_drawn_of(Power::kFactor ? arrays.factor : arrays.probability, 0);
  const auto drawn = row.drawn();
  typename Row::Quantity drawn_total{};
  for (int64_t k = 0; k < samples; ++k) {
    row.log_uniforms(k, arrays.weight);
    const auto drawn_logarithm = row.drawn_of(arrays.weight);
    Vector sum{}, product{};
    for (int64_t first = 0; first < slots; first += kChunk) {  // as sums over a row are made
      Vector chunk_sum{}, chunk_product{};
      for (int64_t slot = first; slot < slots && slot < first + kChunk; slot += Row::kLanes) {
        const Vector factor = Power::kFactor ? Vector::load(arrays.factor + slot) : Vector{};
        const Vector w = power.weight(Vector::load(arrays.weight + slot), drawn_logarithm,
                                      Vector::load(arrays.probability + slot), factor);
        w.store(arrays.weight + slot);
        chunk_sum += w;
        chunk_product += w * Vector::load(arrays.gradient + slot);
      }
      sum += chunk_sum;
      product += chunk_product;
    }
    const auto scale = Real(1) / (row.row_sum(sum) + Real(1));
    const auto centre = (row.row_sum(product) + drawn.grad_one_hot()) * scale;
    drawn_total += scale * (drawn.grad_one_hot() - centre);
    for (int64_t slot = 0; slot < slots; slot += Row::kLanes) {
      const Vector share = Vector::load(arrays.weight + slot) * scale;
      const Vector gradient = share * (Vector::load(arrays.gradient + slot) - centre);
      (Vector::load(arrays.total + slot) + gradient).store(arrays.total + slot);
    }
  }
  const Real scale = inverse_of<Real>(arguments.tau) / Real(samples);
  const auto gradient = [&](const auto& at, const auto& total) REINMAX_LAMBDA {
    const auto through_sample = total * scale;
    if constexpr (!kGradProbs) return through_sample;
    return through_sample + row.probability(at.logit()) * (at.grad_probs() - sums[0]);
  };
  row.template write<0, kGradProbs>([&](const auto& at, auto*)
                                        REINMAX_LAMBDA { return gradient(at, Vector::load(arrays.total + at.slot)); });
  row.set_drawn(gradient(drawn, drawn_total));
}

// Two categories need one variate a sample, u / (1 - u) in place of E_j / E_D, and s_D s_j alone.
template <class Row, class Slope>
REINMAX_INLINE void gumbel_rao_of_two(Row& row, const BackwardArguments& arguments, const Slope& slope) {
  using Real = typename Row::Scalar;
  using Vector = typename Row::Vector;
  constexpr int64_t kTogether = 64;  // summed by themselves, so that rounding does not grow with the samples
  const int64_t samples = arguments.noise.samples;
  const auto drawn = row.drawn(), other = row.other_of_two();
  const auto slope_at = slope(row, other.logit());
  Vector total{};
  for (int64_t first = 0; first < samples; first += kTogether) {
    const int64_t end = first + kTogether < samples ? first + kTogether : samples;
    Vector part{};
    for (int64_t k = first; k < end; k += 4) {
      alignas(kRegisterBytes) Real uniforms[4][Row::kLanes];
      row.uniforms_of_two(k, uniforms);
      for (int64_t i = 0; i < 4 && i < end - k; ++i) part += slope_at(Vector::load(uniforms[i]));
    }
    total += part;
  }
  const Real scale = inverse_of<Real>(arguments.tau) / Real(samples);
  const Vector through_sample = total * (other.grad_one_hot() - drawn.grad_one_hot()) * scale;
  const Vector pi = row.probability(other.logit()), pi_drawn = row.probability(drawn.logit());
  const Vector through_probs = pi * pi_drawn * (other.grad_probs() - drawn.grad_probs());
  const Vector gradient = through_sample + through_probs;
  row.template write<0, true>([&](const auto&, auto*) { return gradient; });
  row.set_drawn(Vector{} - gradient);
}

template <class Real, class Power>
static void gumbel_rao_of_many(const BackwardArguments& arguments, int64_t begin, int64_t end, void* scratch,
                               const Power& power) {
  if (arguments.noise.samples > 1) {
    backward_as<Real>(arguments, begin, end, [&](auto& row) { gumbel_rao(row, arguments, scratch, power); });
  } else {
    backward_as<Real>(arguments, begin, end, [&](auto& row) { gumbel_softmax(row, arguments, scratch, power); });
  }
}

template <class Real>
static void gumbel_rao_as(const BackwardArguments& arguments, int64_t begin, int64_t end, void* scratch) {
  using Lanes = RowLanes<Real, true>;  // zeros, where no gradient of the probabilities arrives: two, not worth asking
  const AnyPower<Real> power{inverse_of<Real>(arguments.tau)};
  if (arguments.logits.categories == 2 && arguments.tau == 1) {
    const auto slope = [](auto& row, const auto& logit) {
      return [pi = row.probability(logit)](const auto& u) { return unit_slope_of_two(pi, u); };
    };
    for_each_vector_of_rows<Lanes>(arguments, begin, end, [&](auto& row) { gumbel_rao_of_two(row, arguments, slope); });
  } else if (arguments.logits.categories == 2) {
    const auto slope = [&](auto& row, const auto& logit) {
      return [&power, pi = power.probability(row, logit), factor = power.factor(row, logit)](const auto& u) {
        return power.slope_of_two(pi, factor, u);
      };
    };
    for_each_vector_of_rows<Lanes>(arguments, begin, end, [&](auto& row) { gumbel_rao_of_two(row, arguments, slope); });
  } else if (arguments.tau == 1) {
    gumbel_rao_of_many<Real>(arguments, begin, end, scratch, UnitPower<Real>{});
  } else {
    gumbel_rao_of_many<Real>(arguments, begin, end, scratch, power);
  }
}

static void gumbel_rao_backward(const BackwardArguments& arguments, int64_t begin, int64_t end, void* scratch) {
  if (arguments.logits.values.dtype == DType::kFloat64) {
    gumbel_rao_as<double>(arguments, begin, end, scratch);
  } else {
    gumbel_rao_as<float>(arguments, begin, end, scratch);
  }
}
