// A router that takes the k experts of largest logit and weighs them by softmax or sigmoid: forward and backward. Ties
// go to the lower index. Included once per level.

// The chosen experts of some rows, one row after the other, the best of a row first.
template <class Real>
struct ChosenExperts {
  using Vector = Pack<Real>;
  static constexpr int64_t kMost = kBlockRows * kFewCategories;
  static_assert(kMost >= kMostExperts && kMost % Vector::kLanes == 0);
  alignas(kRegisterBytes) Real logit[kMost], shift[kMost], weight[kMost];
  alignas(kRegisterBytes) Real total[kBlockRows];  // of exp(x - largest) over all experts; unless normalised

  static int64_t rows_at_once(int64_t k) { return kMost / k < kBlockRows ? kMost / k : kBlockRows; }

  // Weights from logits. A sigmoid that is normalised is seen as exp(x) / (1 + exp(x)) relative to the best one's,
  // which no logit is too small for.
  void weigh(const TopkRouterArguments& a, int64_t count) {
    const auto zero = Vector::broadcast(0);
    for (int64_t i = 0; i < count; ++i) {
      const Real best = logit[i * a.k];
      const Real common = !a.sigmoid ? best : a.normalize && best < 0 ? best : 0;
      for (int64_t s = 0; s < a.k; ++s) shift[i * a.k + s] = common;
    }
    for (int64_t i = 0; i < count * a.k; i += Vector::kLanes) {
      const Vector x = Vector::load(logit + i), from = Vector::load(shift + i);
      Vector w = Simd<Real>::exp((a.sigmoid ? minimum(x, zero) : x) - from);
      if (a.sigmoid) w = w / (Simd<Real>::exp(minimum(x, zero - x)) + Real(1));
      w.store(weight + i);
    }
    if (a.sigmoid && !a.normalize) return;
    for (int64_t i = 0; i < count; ++i) {
      Real* w = weight + i * a.k;
      Real sum = a.normalize ? 0 : total[i];
      for (int64_t s = 0; s < a.k && a.normalize; ++s) sum += w[s];
      const Real scale = 1 / sum;
      for (int64_t s = 0; s < a.k; ++s) w[s] *= scale;
    }
  }

  // sigmoid(-x), the factor between a sigmoid's logarithm and its logit.
  void sigmoid_of_opposite(int64_t n, Real* to) const {
    const auto zero = Vector::broadcast(0);
    for (int64_t i = 0; i < n; i += Vector::kLanes) {
      const Vector x = Vector::load(logit + i);
      const Vector numerator = Simd<Real>::exp(minimum(zero - x, zero));
      (numerator / (Simd<Real>::exp(minimum(x, zero - x)) + Real(1))).store(to + i);
    }
  }
};

// What a row has to hold, besides a number above -inf: neither NaN nor +inf.
template <class Real>
REINMAX_INLINE auto usable(const Pack<Real>& x) {
  return x <= std::numeric_limits<Real>::max();
}

// Few experts: lanes are rows. A taken expert becomes NaN, which is larger than nothing.
template <class Real>
static void choose_few(const TopkRouterArguments& a, int64_t row, int64_t count, Block<Real>& x,
                       ChosenExperts<Real>& chosen) {
  using Vector = Pack<Real>;
  const int64_t experts = a.logits.categories;
  alignas(kRegisterBytes) Real best[kBlockRows], at[kBlockRows], unusable[kBlockRows];
  read_block(a.logits.values, nullptr, row, count, experts, x);
  for (int lane = 0; lane < count; lane += Vector::kLanes) {
    const auto zero = Vector::broadcast(0), one = Vector::broadcast(1);
    Vector largest = Vector::broadcast(kMinusInfinity<Real>), bad = zero;
    for (int64_t j = 0; j < experts; ++j) {
      const Vector v = Vector::load(&x[j][lane]);
      largest = maximum(v, largest);
      bad = select(usable(v), bad, one);
    }
    select(largest > kMinusInfinity<Real>, bad, one).store(unusable + lane);
    if (!a.sigmoid && !a.normalize) {
      Vector total = zero;
      for (int64_t j = 0; j < experts; ++j) total += Simd<Real>::exp(Vector::load(&x[j][lane]) - largest);
      total.store(chosen.total + lane);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    if (unusable[i] != 0) report_invalid_row(*a.first_invalid_row, row + i);
  }
  for (int64_t s = 0; s < a.k; ++s) {
    for (int lane = 0; lane < count; lane += Vector::kLanes) {
      Vector largest = Vector::broadcast(kMinusInfinity<Real>), expert = Vector::broadcast(-1);
      for (int64_t j = 0; j < experts; ++j) {
        const Vector v = Vector::load(&x[j][lane]);
        const auto better = v > largest;
        largest = select(better, v, largest);
        expert = select(better, Vector::broadcast(Real(j)), expert);
      }
      largest.store(best + lane);
      expert.store(at + lane);
    }
    for (int64_t i = 0; i < count; ++i) {
      int64_t j = int64_t(at[i]);
      if (j < 0) {  // none is left but those of logit -inf
        for (j = 0; j + 1 < experts && !(x[j][i] == kMinusInfinity<Real>);) ++j;
      }
      a.index[(row + i) * a.k + s] = j;
      chosen.logit[i * a.k + s] = best[i];
      x[j][i] = std::numeric_limits<Real>::quiet_NaN();
    }
  }
}

// Many experts: one row after the other, lanes are experts.
template <class Real>
static void choose_many(const TopkRouterArguments& a, int64_t row, int64_t count, Real* x,
                        ChosenExperts<Real>& chosen) {
  using Vector = Pack<Real>;
  const int64_t experts = a.logits.categories;
  const int64_t padded = (experts + Vector::kLanes - 1) / Vector::kLanes * Vector::kLanes;
  const auto largest_left = [&] {
    Vector largest = Vector::broadcast(kMinusInfinity<Real>);
    for (int64_t j = 0; j < padded; j += Vector::kLanes) largest = maximum(Vector::load(x + j), largest);
    return REINMAX_LEVEL::largest(largest);
  };
  for (int64_t i = 0; i < count; ++i) {
    read_row(a.logits.values, row + i, 0, experts, x);
    for (int64_t j = experts; j < padded; ++j) x[j] = kMinusInfinity<Real>;
    const Real best = largest_left();
    Vector bad{}, total{};
    for (int64_t j = 0; j < padded; j += Vector::kLanes) {
      const Vector v = Vector::load(x + j);
      bad = select(usable(v), bad, Vector::broadcast(1));
      if (!a.sigmoid && !a.normalize) total += Simd<Real>::exp(v - best);
    }
    if (largest(bad) != 0 || !(best > kMinusInfinity<Real>)) report_invalid_row(*a.first_invalid_row, row + i);
    chosen.total[i] = sum(total);
    for (int64_t s = 0; s < a.k; ++s) {
      const Real value = s == 0 ? best : largest_left();
      const int64_t j = first_equal(x, experts, value);
      a.index[(row + i) * a.k + s] = j;
      chosen.logit[i * a.k + s] = value;
      x[j] = std::numeric_limits<Real>::quiet_NaN();
    }
  }
}

template <class Real>
static void topk_router_as(const TopkRouterArguments& a, int64_t begin, int64_t end) {
  const int64_t experts = a.logits.categories;
  ChosenExperts<Real> chosen;
  alignas(kRegisterBytes) Block<Real> x;  // or one row
  static_assert(sizeof(x) >= kMostExperts * sizeof(Real));
  std::memset(x, 0, sizeof(x));
  for (int64_t row = begin, step = chosen.rows_at_once(a.k); row < end; row += step) {
    const int64_t count = end - row < step ? end - row : step;
    if (experts <= kFewCategories) {
      choose_few(a, row, count, x, chosen);
    } else {
      choose_many(a, row, count, &x[0][0], chosen);
    }
    chosen.weigh(a, count);
    const DType dtype = a.logits.values.dtype;
    write(chosen.weight, dtype, count * a.k, static_cast<char*>(a.weight) + row * a.k * size_of(dtype));
  }
}

static void topk_router(const TopkRouterArguments& a, int64_t begin, int64_t end) {
  if (a.logits.values.dtype == DType::kFloat64) {
    topk_router_as<double>(a, begin, end);
  } else {
    topk_router_as<float>(a, begin, end);
  }
}

// With weights w, their gradients g and a sum S = <w, g> over the chosen experts: w (g - S) at them where they are
// normalised, else w g, and -p S at all where p is a softmax over the row; by sigmoid(-x) where it is one of sigmoids.
template <class Real>
static void topk_router_backward_as(const TopkRouterArguments& a, int64_t begin, int64_t end) {
  using Vector = Pack<Real>;
  const int64_t experts = a.logits.categories;
  const bool over_row = !a.sigmoid && !a.normalize;
  ChosenExperts<Real> chosen;
  alignas(kRegisterBytes) Real x[kChunk], grad[kChunk], rest[ChosenExperts<Real>::kMost];
  std::memset(grad, 0, sizeof(grad));
  const int64_t padded = (experts + Vector::kLanes - 1) / Vector::kLanes * Vector::kLanes;
  for (int64_t row = begin, step = chosen.rows_at_once(a.k); row < end; row += step) {
    const int64_t count = end - row < step ? end - row : step;
    for (int64_t i = 0; i < count * a.k; ++i) {
      chosen.logit[i] = element_as<Real>(a.logits.values, row + i / a.k, a.index[row * a.k + i]);
    }
    for (int64_t i = 0; i < count && over_row; ++i) {
      read_row(a.logits.values, row + i, 0, experts, x);
      for (int64_t j = experts; j < padded; ++j) x[j] = kMinusInfinity<Real>;
      Vector total{};
      for (int64_t j = 0; j < padded; j += Vector::kLanes)
        total += Simd<Real>::exp(Vector::load(x + j) - chosen.logit[i * a.k]);
      chosen.total[i] = sum(total);
    }
    chosen.weigh(a, count);
    if (a.sigmoid) chosen.sigmoid_of_opposite(count * a.k, rest);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = i * a.k;
      const int64_t* index = a.index + row * a.k + first;
      Real arriving[kChunk], through = 0;
      read_row(a.grad_weight, row + i, 0, a.k, arriving);
      for (int64_t s = 0; s < a.k; ++s) through += chosen.weight[first + s] * arriving[s];
      if (over_row) {
        read_row(a.logits.values, row + i, 0, experts, x);
        const Real scale = -through / chosen.total[i];
        for (int64_t j = 0; j < padded; j += Vector::kLanes)
          (Simd<Real>::exp(Vector::load(x + j) - chosen.logit[first]) * scale).store(grad + j);
      }
      for (int64_t s = 0; s < a.k; ++s) {
        const Real at_expert = chosen.weight[first + s] * (arriving[s] - (a.normalize ? through : 0));
        grad[index[s]] += a.sigmoid ? at_expert * rest[first + s] : at_expert;
      }
      const DType dtype = a.logits.values.dtype;
      write(grad, dtype, experts, static_cast<char*>(a.grad_logits) + (row + i) * experts * size_of(dtype));
      for (int64_t s = 0; s < a.k && !over_row; ++s) grad[index[s]] = 0;
    }
  }
}

static void topk_router_backward(const TopkRouterArguments& a, int64_t begin, int64_t end) {
  if (a.logits.values.dtype == DType::kFloat64) {
    topk_router_backward_as<double>(a, begin, end);
  } else {
    topk_router_backward_as<float>(a, begin, end);
  }
}
