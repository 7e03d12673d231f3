// SparseMixer, backward: of each drawn expert D, whose weight received the gradient g, g p_D (e_D - p), p the softmax
// that it was drawn from; times what the version asks for. Included once per level.

// Few experts: lanes are rows.
template <class Real>
class MixerGradientFew {
  using Vector = Pack<Real>;

 public:
  explicit MixerGradientFew(const SparseMixerArguments& arguments) : a_(arguments) {
    std::memset(x_, 0, sizeof(x_));
    std::memset(drawn_, 0, sizeof(drawn_));
    std::memset(arriving_, 0, sizeof(arriving_));
  }

  void run(int64_t row, int64_t count) {
    const int64_t experts = a_.logits.categories;
    read_block(a_.logits.values, &a_.logits.mask, row, count, experts, x_);
    std::memset(gradient_, 0, size_t(experts) * sizeof(gradient_[0]));
    for (int64_t draw = 0; draw < a_.k; ++draw) {
      for (int64_t i = 0; i < kBlockRows; ++i) {
        const int64_t at = (row + i) * a_.k + draw;
        const double total = i < count ? a_.log_sum_exp[at] : 0;
        log_sum_exp_[i] = Real(total);
        rest_[i] = Simd<Real>::rest_of(total);
        if (i >= count) continue;
        drawn_[i] = x_[a_.index[at]][i];
        arriving_[i] = element_as<Real>(a_.grad_weight, row + i, draw) * Real(a_.scale);
      }
      for (int lane = 0; lane < count; lane += Vector::kLanes) add(lane);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t expert = a_.index[(row + i) * a_.k + draw];
        gradient_[expert][i] += arriving_[i];
        x_[expert][i] = kMinusInfinity<Real>;
      }
    }
    write_block(gradient_, a_.logits.values.dtype, row, count, experts, a_.grad_logits);
  }

 private:
  // -g p_D p, and g p_D in place of what arrived.
  void add(int lane) {
    const int64_t experts = a_.logits.categories;
    const auto log_sum_exp = Vector::load(log_sum_exp_ + lane), rest = Vector::load(rest_ + lane);
    const auto probability = [&](const Vector& x) {
      return Simd<Real>::template exp_of_difference<0>(x, log_sum_exp, rest);
    };
    const Vector through = Vector::load(arriving_ + lane) * probability(Vector::load(drawn_ + lane));
    through.store(arriving_ + lane);
    Vector largest = Vector::broadcast(kMinusInfinity<Real>);
    for (int64_t j = 0; j < experts; ++j) largest = maximum(Vector::load(&x_[j][lane]), largest);
    for (int64_t j = 0; j < experts; ++j) {
      Real* to = &gradient_[j][lane];
      const Vector near = unless_far(Vector::load(&x_[j][lane]), largest, jitter_limit<Real>(a_));
      (Vector::load(to) - through * probability(near)).store(to);
    }
  }

  const SparseMixerArguments& a_;
  alignas(kRegisterBytes) Block<Real> x_, gradient_;
  alignas(kRegisterBytes) Real drawn_[kBlockRows], arriving_[kBlockRows], log_sum_exp_[kBlockRows], rest_[kBlockRows];
};

// Many experts: one row after the other, lanes are experts.
template <class Real>
class MixerGradientMany {
  using Vector = Pack<Real>;

 public:
  explicit MixerGradientMany(const SparseMixerArguments& arguments) : a_(arguments) {}

  void run(int64_t row, int64_t count) {
    const int64_t experts = a_.logits.categories, row_bytes = experts * size_of(a_.logits.values.dtype);
    const int64_t padded = (experts + Vector::kLanes - 1) / Vector::kLanes * Vector::kLanes;
    for (int64_t i = row; i < row + count; ++i) {
      read_row(a_.logits.values, i, 0, experts, x_);
      if (a_.logits.mask.data != nullptr) apply_mask(a_.logits.mask, i, 0, experts, x_);
      for (int64_t j = experts; j < padded; ++j) x_[j] = kMinusInfinity<Real>;
      std::memset(gradient_, 0, size_t(padded) * sizeof(Real));
      for (int64_t draw = 0; draw < a_.k; ++draw) add(i, draw, padded);
      write(gradient_, a_.logits.values.dtype, experts, static_cast<char*>(a_.grad_logits) + i * row_bytes);
    }
  }

 private:
  void add(int64_t row, int64_t draw, int64_t padded) {
    const int64_t at = row * a_.k + draw, expert = a_.index[at];
    const auto log_sum_exp = Vector::broadcast(Real(a_.log_sum_exp[at]));
    const auto rest = Vector::broadcast(Simd<Real>::rest_of(a_.log_sum_exp[at]));
    const auto probability = [&](const Vector& x) {
      return Simd<Real>::template exp_of_difference<0>(x, log_sum_exp, rest);
    };
    const Real arriving = element_as<Real>(a_.grad_weight, row, draw) * Real(a_.scale);
    const Vector through = probability(Vector::broadcast(x_[expert])) * arriving;
    Vector running = Vector::broadcast(kMinusInfinity<Real>);
    for (int64_t j = 0; j < padded; j += Vector::kLanes) running = maximum(Vector::load(x_ + j), running);
    const auto largest = Vector::broadcast(REINMAX_LEVEL::largest(running));
    for (int64_t j = 0; j < padded; j += Vector::kLanes) {
      const Vector near = unless_far(Vector::load(x_ + j), largest, jitter_limit<Real>(a_));
      (Vector::load(gradient_ + j) - through * probability(near)).store(gradient_ + j);
    }
    Real lanes[Vector::kLanes];
    through.store(lanes);
    gradient_[expert] += lanes[0];
    x_[expert] = kMinusInfinity<Real>;
  }

  const SparseMixerArguments& a_;
  alignas(kRegisterBytes) Real x_[kChunk], gradient_[kChunk];
};

static void sparse_mixer_backward(const SparseMixerArguments& a, int64_t begin, int64_t end) {
  const bool few = a.logits.categories <= kFewCategories;
  if (a.logits.values.dtype == DType::kFloat64) {
    few ? mix_blocks<MixerGradientFew<double>>(a, begin, end) : mix_blocks<MixerGradientMany<double>>(a, begin, end);
  } else {
    few ? mix_blocks<MixerGradientFew<float>>(a, begin, end) : mix_blocks<MixerGradientMany<float>>(a, begin, end);
  }
}
