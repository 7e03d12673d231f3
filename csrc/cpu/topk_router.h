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

// Chooses for a block of rows whose lanes are rows at any number of experts: a search within a row would wait for its
// last comparison each time. A taken expert becomes NaN, which is larger than nothing.
template <class Real>
class TopkBlock {
  using Vector = Pack<Real>;

 public:
  TopkBlock(const TopkRouterArguments& arguments, void* scratch)
      : a_(arguments), experts_(arguments.logits.categories) {
    std::memset(scratch, 0, size_t(topk_router_scratch_bytes(experts_)));
    const auto address = reinterpret_cast<uintptr_t>(scratch);
    x_ = reinterpret_cast<Real*>((address + kRegisterBytes - 1) / kRegisterBytes * kRegisterBytes);
    std::memset(four_, 0, sizeof(four_));
  }

  void choose(int64_t row, int64_t count, ChosenExperts<Real>& chosen) {
    turn(row, count);
    const bool over_row = !a_.sigmoid && !a_.normalize;
    for (int64_t s = 0; s < a_.k; ++s) {
      for (int lane = 0; lane < count; lane += Vector::kLanes) {
        if (s > 0) {
          find<false>(lane);
        } else {
          find<true>(lane);
          if (over_row) sum_over_row(lane, chosen);
        }
      }
      for (int64_t i = 0; i < count; ++i) take(row, i, s, chosen);
    }
    for (int64_t i = 0; i < count; ++i) {
      if (unusable_[i] != 0) report_invalid_row(*a_.first_invalid_row, row + i);
    }
  }

 private:
  Real* expert(int64_t j) const { return x_ + j * kBlockRows; }

  // The rows as [expert][row]. Experts that fill the last tile are written, and never looked at.
  void turn(int64_t row, int64_t count) {
    for (int64_t i = 0; i < count; i += kTile) {
      for (int64_t t = 0; t < kTile && i + t < count; ++t)
        read_row(a_.logits.values, row + i + t, 0, experts_, four_[t]);
      for (int64_t j = 0; j < experts_; j += kTile) transpose_tile(&four_[0][j], kChunk, expert(j) + i, kBlockRows);
    }
  }

  // The largest logit that is left, and its expert; -1 where none is but of logit -inf. The first time, also whether
  // the row can be used: it holds a number above -inf, and neither NaN nor +inf.
  template <bool kFirst>
  void find(int lane) {
    const auto zero = Vector::broadcast(0), one = Vector::broadcast(1);
    Vector largest = Vector::broadcast(kMinusInfinity<Real>), at = Vector::broadcast(-1), bad = zero;
    for (int64_t j = 0; j < experts_; ++j) {
      const Vector v = Vector::load(expert(j) + lane);
      const auto better = v > largest;
      largest = select(better, v, largest);
      at = select(better, Vector::broadcast(Real(j)), at);
      if constexpr (kFirst) bad = select(v <= std::numeric_limits<Real>::max(), bad, one);
    }
    largest.store(best_ + lane);
    at.store(at_ + lane);
    if constexpr (kFirst) select(largest > kMinusInfinity<Real>, bad, one).store(unusable_ + lane);
  }

  void sum_over_row(int lane, ChosenExperts<Real>& chosen) const {
    const Vector largest = Vector::load(best_ + lane);
    Vector total{};
    for (int64_t j = 0; j < experts_; ++j) total += Simd<Real>::exp(Vector::load(expert(j) + lane) - largest);
    total.store(chosen.total + lane);
  }

  void take(int64_t row, int64_t i, int64_t s, ChosenExperts<Real>& chosen) {
    int64_t j = int64_t(at_[i]);
    if (j < 0) {
      for (j = 0; j + 1 < experts_ && !(expert(j)[i] == kMinusInfinity<Real>);) ++j;
    }
    a_.index[(row + i) * a_.k + s] = j;
    chosen.logit[i * a_.k + s] = best_[i];
    expert(j)[i] = std::numeric_limits<Real>::quiet_NaN();
  }

  const TopkRouterArguments& a_;
  const int64_t experts_;
  Real* x_;  // [E, kBlockRows], aligned
  alignas(kRegisterBytes) Real best_[kBlockRows], at_[kBlockRows], unusable_[kBlockRows];
  alignas(kRegisterBytes) Real four_[kTile][kChunk];
};

template <class Real>
static void topk_router_as(const TopkRouterArguments& a, int64_t begin, int64_t end, void* scratch) {
  ChosenExperts<Real> chosen;
  TopkBlock<Real> block(a, scratch);
  for (int64_t row = begin, step = chosen.rows_at_once(a.k); row < end; row += step) {
    const int64_t count = end - row < step ? end - row : step;
    block.choose(row, count, chosen);
    chosen.weigh(a, count);
    const DType dtype = a.logits.values.dtype;
    write(chosen.weight, dtype, count * a.k, static_cast<char*>(a.weight) + row * a.k * size_of(dtype));
  }
}

static void topk_router(const TopkRouterArguments& a, int64_t begin, int64_t end, void* scratch) {
  if (a.logits.values.dtype == DType::kFloat64) {
    topk_router_as<double>(a, begin, end, scratch);
  } else {
    topk_router_as<float>(a, begin, end, scratch);
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

static void topk_router_backward(const TopkRouterArguments& a, int64_t begin, int64_t end, void*) {
  if (a.logits.values.dtype == DType::kFloat64) {
    topk_router_backward_as<double>(a, begin, end);
  } else {
    topk_router_backward_as<float>(a, begin, end);
  }
}
