// SparseMixer (Liu, Gao, Chen, 2023; version 2: GRIN, 2024), forward: experts far below the best of a row are left out,
// one of the others is drawn, and weighed by its probability or by a part of it; the second expert is had the same way
// without the first. Included once per level.

// -inf where (largest - x) / max(|x|, largest) exceeds the limit. 0 / 0 and what is not finite exceed nothing.
template <class Real>
REINMAX_INLINE Pack<Real> unless_far(const Pack<Real>& x, const Pack<Real>& largest, Real limit) {
  const Pack<Real> size = maximum(maximum(x, Pack<Real>::broadcast(0) - x), largest);
  return select((largest - x) / size > limit, Pack<Real>::broadcast(kMinusInfinity<Real>), x);
}

template <class Real>
REINMAX_INLINE Real jitter_limit(const SparseMixerArguments& a) {
  return Real(2 * a.jitter_eps);
}

// Of a drawn expert's probability.
template <class Real>
REINMAX_INLINE Real factor_of_drawn(const SparseMixerArguments& a, bool is_best, uint64_t auxiliary) {
  return is_best || auxiliary > a.factor.limit ? Real(1) : Real(a.factor.factor);
}

REINMAX_INLINE void store_draw_values(const Pack<float>& v, float* to) { v.store(to); }
REINMAX_INLINE void store_draw_values(const Pack<double>& v, float* to) {
  alignas(kRegisterBytes) double lanes[Pack<double>::kLanes];
  v.store(lanes);
  for (int i = 0; i < Pack<double>::kLanes; ++i) to[i] = draw_value(lanes[i]);
}

// Of a block of rows, what all their draws leave: as it lies in memory, so that it is written at once.
template <class Real>
struct MixerResults {
  static constexpr int kMost = kMostDraws * kBlockRows;
  int64_t index[kMost];
  double log_sum_exp[kMost];
  Real weight[kMost];

  void write(const SparseMixerArguments& a, int64_t row, int64_t count) const {
    const DType dtype = a.logits.values.dtype;
    const int64_t first = row * a.k, n = count * a.k;
    std::memcpy(a.index + first, index, n * sizeof(int64_t));
    std::memcpy(a.log_sum_exp + first, log_sum_exp, n * sizeof(double));
    REINMAX_LEVEL::write(weight, dtype, n, static_cast<char*>(a.weight) + first * size_of(dtype));
  }
};

// The two uniforms of one draw: of the expert, and of its factor.
struct MixerUniforms {
  BlockUniforms expert, factor;
  void draw(const SparseMixerArguments& a, int64_t row, int64_t count, int64_t number) {
    if (a.seeds == nullptr) return;
    expert.draw(a, row, count, uint64_t(number));
    factor.draw(a, row, count, uint64_t(number) + kMostDraws);
  }
};

// Few experts: lanes are rows.
template <class Real>
class MixerFew {
  using Vector = Pack<Real>;

 public:
  explicit MixerFew(const SparseMixerArguments& arguments) : a_(arguments) {
    std::memset(x_, 0, sizeof(x_));
    std::memset(block_.target, 0, sizeof(block_.target));
  }

  void run(int64_t row, int64_t count) {
    read_block(a_.logits.values, &a_.logits.mask, row, count, a_.logits.categories, x_);
    for (int64_t draw = 0; draw < a_.k; ++draw) {
      leave_out();
      weigh_block(near_, a_.logits.categories, block_);
      choose(row, count, draw);
      finish(count, draw);
    }
    results_.write(a_, row, count);
  }

 private:
  void leave_out() {
    const int64_t experts = a_.logits.categories;
    for (int lane = 0; lane < kBlockRows; lane += Vector::kLanes) {
      Vector largest = Vector::broadcast(kMinusInfinity<Real>), best{}, total{};
      for (int64_t j = 0; j < experts; ++j) {
        const Vector v = Vector::load(&x_[j][lane]);
        best = select(v > largest, Vector::broadcast(Real(j)), best);
        largest = maximum(v, largest);
      }
      for (int64_t j = 0; j < experts; ++j) {
        const Vector v = unless_far(Vector::load(&x_[j][lane]), largest, jitter_limit<Real>(a_));
        store_draw_values(v, &near_[j][lane]);
        if constexpr (kDouble) total += Simd<Real>::exp(v - largest);
      }
      largest.store(largest_ + lane);
      best.store(best_ + lane);
      total.store(total_ + lane);
    }
  }

  void choose(int64_t row, int64_t count, int64_t draw) {
    uniforms_.draw(a_, row, count, draw);
    for (int64_t i = 0; i < count; ++i) {
      if (block_.total[i] > 0) {
        block_.target[i] = a_.seeds ? double(scale_uniform(uniforms_.expert.element[i], block_.total[i])) : 0;
      } else {
        report_invalid_row(*a_.first_invalid_row, row + i);
        block_.total[i] = 1;
        block_.target[i] = -1;
      }
    }
    if (a_.seeds != nullptr) {
      choose_in_block(block_, a_.logits.categories, index_);
    } else {
      for (int64_t i = 0; i < count; ++i) index_[i] = int64_t(best_[i]);
    }
  }

  // Weighs the experts that were drawn, and takes them away.
  void finish(int64_t count, int64_t draw) {
    if constexpr (kDouble) {
      for (int64_t i = 0; i < count; ++i) log_sum_exp_[i] = largest_[i] + std::log(total_[i]);
    } else {
      log_sum_exps(block_.max, block_.total, count, log_sum_exp_);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t drawn = index_[i], at = i * a_.k + draw;
      Real& x = x_[drawn][i];
      const bool is_best = a_.seeds == nullptr || drawn == int64_t(best_[i]);
      Real probability;
      if constexpr (kDouble) {
        probability = std::exp(x - log_sum_exp_[i]);
      } else {
        probability = block_.weights[drawn][i] / float(block_.total[i]);
      }
      results_.index[at] = drawn;
      results_.log_sum_exp[at] = log_sum_exp_[i];
      results_.weight[at] = probability * factor_of_drawn<Real>(a_, is_best, is_best ? 0 : uniforms_.factor.chunk[i]);
      x = kMinusInfinity<Real>;
    }
  }

  static constexpr bool kDouble = sizeof(Real) == sizeof(double);
  const SparseMixerArguments& a_;
  alignas(kRegisterBytes) Block<Real> x_;
  alignas(kRegisterBytes) Block<float> near_;
  alignas(kRegisterBytes) Real largest_[kBlockRows], best_[kBlockRows], total_[kBlockRows];
  BlockDraw block_;
  MixerUniforms uniforms_;
  alignas(kRegisterBytes) int64_t index_[kBlockRows];
  double log_sum_exp_[kBlockRows];
  MixerResults<Real> results_;
};

// Many experts: one row after the other, lanes are experts.
template <class Real>
class MixerMany {
  using Vector = Pack<Real>;

 public:
  explicit MixerMany(const SparseMixerArguments& arguments)
      : a_(arguments), padded_((arguments.logits.categories + Vector::kLanes - 1) / Vector::kLanes * Vector::kLanes) {}

  void run(int64_t row, int64_t count) {
    const int64_t experts = a_.logits.categories;
    for (int64_t draw = 0; draw < a_.k; ++draw) uniforms_[draw].draw(a_, row, count, draw);
    for (int64_t draw = 0; draw < a_.k; ++draw) {
      for (int64_t i = 0; i < kBlockRows; ++i) sums_[draw][i] = 1, largest_[draw][i] = 0;
    }
    for (int64_t i = 0; i < count; ++i) {
      read_row(a_.logits.values, row + i, 0, experts, x_);
      if (a_.logits.mask.data != nullptr) apply_mask(a_.logits.mask, row + i, 0, experts, x_);
      for (int64_t j = experts; j < padded_; ++j) x_[j] = kMinusInfinity<Real>;
      for (int64_t draw = 0; draw < a_.k; ++draw) choose(row, i, draw);
    }
    for (int64_t draw = 0; draw < a_.k; ++draw) {
      if constexpr (kDouble) break;
      double log_sum_exp[kBlockRows];
      log_sum_exps(largest_[draw], sums_[draw], count, log_sum_exp);
      for (int64_t i = 0; i < count; ++i) results_.log_sum_exp[i * a_.k + draw] = log_sum_exp[i];
    }
    results_.write(a_, row, count);
  }

 private:
  void choose(int64_t row, int64_t i, int64_t draw) {
    const int64_t experts = a_.logits.categories, at = i * a_.k + draw;
    Vector running = Vector::broadcast(kMinusInfinity<Real>), total{};
    for (int64_t j = 0; j < padded_; j += Vector::kLanes) running = maximum(Vector::load(x_ + j), running);
    const Real best = largest(running);
    for (int64_t j = 0; j < padded_; j += Vector::kLanes) {
      const Vector v = unless_far(Vector::load(x_ + j), Vector::broadcast(best), jitter_limit<Real>(a_));
      store_draw_values(v, near_ + j);
      if constexpr (kDouble) total += Simd<Real>::exp(v - best);
    }
    const float max = float(best);
    const Elements<float> near{near_, DType::kFloat32};
    weigh(near, [&](int64_t j) { return Pack<float>::load(near_ + j); }, experts, max, chunk_, weights_);
    int64_t& drawn = results_.index[at];
    drawn = 0;
    if (!(chunk_.sum > 0)) return report_invalid_row(*a_.first_invalid_row, row + i);
    if (a_.seeds == nullptr) {
      drawn = first_equal(x_, experts, best);
    } else {
      const double target = double(scale_uniform(uniforms_[draw].expert.element[i], chunk_.sum));
      drawn = REINMAX_LEVEL::choose(weights_, experts, chunk_, target);
    }
    const bool is_best = a_.seeds == nullptr || (x_[drawn] == best && first_equal(x_, drawn + 1, best) == drawn);
    Real probability;
    if constexpr (kDouble) {
      results_.log_sum_exp[at] = best + std::log(sum(total));
      probability = std::exp(x_[drawn] - results_.log_sum_exp[at]);
    } else {
      largest_[draw][i] = max;
      sums_[draw][i] = chunk_.sum;
      probability = weights_[drawn] / float(chunk_.sum);
    }
    results_.weight[at] =
        probability * factor_of_drawn<Real>(a_, is_best, is_best ? 0 : uniforms_[draw].factor.chunk[i]);
    x_[drawn] = kMinusInfinity<Real>;
  }

  static constexpr bool kDouble = sizeof(Real) == sizeof(double);
  static constexpr int kDraws = kMostDraws;
  const SparseMixerArguments& a_;
  const int64_t padded_;
  alignas(kRegisterBytes) Real x_[kChunk];
  alignas(kRegisterBytes) float near_[kChunk], weights_[kChunk];
  float largest_[kDraws][kBlockRows];
  alignas(kRegisterBytes) double sums_[kDraws][kBlockRows];
  ChunkWeights chunk_;
  MixerUniforms uniforms_[kDraws];
  MixerResults<Real> results_;
};

template <class Mixer>
static void mix_blocks(const SparseMixerArguments& a, int64_t begin, int64_t end) {
  Mixer mixer(a);
  for (int64_t row = begin; row < end; row += kBlockRows)
    mixer.run(row, end - row < kBlockRows ? end - row : kBlockRows);
}

static void sparse_mixer(const SparseMixerArguments& a, int64_t begin, int64_t end) {
  const bool few = a.logits.categories <= kFewCategories;
  if (a.logits.values.dtype == DType::kFloat64) {
    few ? mix_blocks<MixerFew<double>>(a, begin, end) : mix_blocks<MixerMany<double>>(a, begin, end);
  } else {
    few ? mix_blocks<MixerFew<float>>(a, begin, end) : mix_blocks<MixerMany<float>>(a, begin, end);
  }
}
