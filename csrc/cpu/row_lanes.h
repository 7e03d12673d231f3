// A backward's rows with few categories. Included once per level.

// As many rows as a vector has lanes, of a block; the same interface, nothing crosses lanes.
template <class Real, bool kWithGradProbs>
class RowLanes {
 public:
  static constexpr bool kGradProbs = kWithGradProbs;
  using Scalar = Real;
  using Vector = Pack<Real>;
  using Quantity = Vector;  // of the rows, one number each
  static constexpr int kLanes = Vector::kLanes;

  explicit RowLanes(const BackwardArguments& arguments)
      : arguments_(arguments), log_sum_exp_is_near_(log_sum_exp_is_near(arguments)) {
    for (Block<Real>* block : {&logits_, &grad_one_hot_, &grad_probs_}) {
      std::memset(*block, 0, arguments.logits.categories * sizeof((*block)[0]));
    }
  }

  void start_block(int64_t row, int64_t count) {
    const Logits& logits = arguments_.logits;
    read_block(logits.values, &logits.mask, row, count, logits.categories, logits_);
    read_gradient(arguments_.grad_one_hot, row, count, grad_one_hot_);
    read_gradient(arguments_.grad_probs, row, count, grad_probs_);
    if (arguments_.noise.samples > 0) noise_.start_block(arguments_.noise, row, count);
    for (int64_t i = 0; i < kBlockRows; ++i) {
      index_[i] = i < count ? arguments_.index[row + i] : 0;
      const double total = i < count ? arguments_.log_sum_exp[row + i] : 0;
      log_sum_exps_[i] = Real(total);
      log_sum_exp_rests_[i] = Simd<Real>::rest_of(total);
    }
  }

  void start(int lane) {
    lane_ = lane;
    log_sum_exp_ = Vector::load(log_sum_exps_ + lane);
    log_sum_exp_rest_ = Vector::load(log_sum_exp_rests_ + lane);
  }

  void finish_block(int64_t row, int64_t count) {
    write_block(gradient_, arguments_.logits.values.dtype, row, count, arguments_.logits.categories,
                arguments_.grad_logits);
  }

  template <int kScaleBits = 0>
  REINMAX_MEMBER Vector probability(const Vector& logit) const {
    return Simd<Real>::template exp_of_difference<kScaleBits>(logit, log_sum_exp_, log_sum_exp_rest_);
  }

  Vector log_probability(const Vector& logit) const { return (logit - log_sum_exp_) + log_sum_exp_rest_ * Real(kLn2); }

  int64_t slots() const { return arguments_.logits.categories * kLanes; }

  Vector drawn_of(const Real* array) const {
    alignas(kRegisterBytes) Real values[kLanes];
    for (int i = 0; i < kLanes; ++i) values[i] = array[index_[lane_ + i] * kLanes + i];
    return Vector::load(values);
  }

  void set_drawn_of(Real* array, Real value) const {
    for (int i = 0; i < kLanes; ++i) array[index_[lane_ + i] * kLanes + i] = value;
  }

  Vector row_sum(const Vector& v) const { return v; }

  void log_uniforms(int64_t sample, Real* to) const {
    for (int64_t j = 0; j < arguments_.logits.categories; j += 4) {
      const int64_t left = arguments_.logits.categories - j;
      for (int lane = 0; lane < kLanes; lane += kRegisterLanes<float>) {
        noise_.words(uint64_t(j / 4), uint64_t(sample), lane_ + lane, [&](int word, UInt32 bits) {
          if (word < left) store_as(to + (j + word) * kLanes + lane, noise_uniform(bits));
        });
      }
    }
    take_logarithms(to, slots());
  }

  // Of two categories: the one that was not drawn, and the uniforms of four Monte-Carlo samples.
  DrawnPosition<Vector> other_of_two() {
    const auto turn = [&] {
      for (int i = 0; i < kLanes; ++i) index_[lane_ + i] = 1 - index_[lane_ + i];
    };
    turn();
    const auto other = drawn();
    turn();
    return other;
  }

  void uniforms_of_two(int64_t sample, Real (*to)[kLanes]) const {
    for (int lane = 0; lane < kLanes; lane += kRegisterLanes<float>) {
      noise_.words(0, uint64_t(sample / 4), lane_ + lane,
                   [&](int word, UInt32 bits) { store_as(to[word] + lane, noise_uniform(bits)); });
    }
  }

  // See CategoryLanes; of few categories all are kept.
  template <class At>
  REINMAX_MEMBER void keep(const At& at, const Vector& v) {
    v.store(kept_ + at.slot);
  }

  template <class At, class Function>
  REINMAX_MEMBER Vector kept(const At& at, const Function&) const {
    return Vector::load(kept_ + at.slot);
  }

  template <class Function>
  REINMAX_MEMBER Vector kept(const DrawnPosition<Vector>&, const Function&) const {
    return drawn_of(kept_);
  }

  template <int kSums, class Body>
  Sums<Vector, kSums> reduce(Body body) {
    Sums<Vector, kSums> sums;
    for (int64_t j = 0; j < arguments_.logits.categories; ++j) body(at(j), sums.values);
    return sums;
  }

  // Whether the body asks for logits makes no difference here: they are in the block.
  template <int kSums, bool, class Body>
  Sums<Vector, kSums> write(Body body) {
    Sums<Vector, kSums> sums;
    for (int64_t j = 0; j < arguments_.logits.categories; ++j) {
      body(at(j), sums.values).store(&gradient_[j][lane_]);
    }
    return sums;
  }

  Vector reference() const { return log_sum_exp_is_near_ ? log_sum_exp_ : largest_logit(); }

  Vector largest_logit() const {
    Vector result = Vector::load(&logits_[0][lane_]);
    for (int64_t j = 1; j < arguments_.logits.categories; ++j) {
      result = maximum(result, Vector::load(&logits_[j][lane_]));
    }
    return result;
  }

  DrawnPosition<Vector> drawn() {
    alignas(kRegisterBytes) Real x[kLanes], g[kLanes], h[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t j = index_[lane_ + i];
      x[i] = logits_[j][lane_ + i];
      g[i] = grad_one_hot_[j][lane_ + i];
      h[i] = grad_probs_[j][lane_ + i];
    }
    const auto vector_of = [](const Real* values) { return [values] { return Vector::load(values); }; };
    const auto at = position<Real>(vector_of(x), vector_of(g), vector_of(h), 0);
    return {at.logit(), at.grad_one_hot(), at.grad_probs()};
  }

  void set_drawn(const Vector& gradient) {
    alignas(kRegisterBytes) Real values[kLanes];
    gradient.store(values);
    for (int i = 0; i < kLanes; ++i) gradient_[index_[lane_ + i]][lane_ + i] = values[i];
  }

 private:
  void read_gradient(const Rows& rows, int64_t row, int64_t count, Block<Real>& to) const {
    if (rows.data != nullptr) read_block(rows, nullptr, row, count, arguments_.logits.categories, to);
  }

  auto at(int64_t j) const {
    const auto vector_of = [this, j](const Block<Real>& block) {
      return [this, j, &block]() REINMAX_LAMBDA { return Vector::load(&block[j][lane_]); };
    };
    return position<Real>(vector_of(logits_), vector_of(grad_one_hot_), vector_of(grad_probs_), j * kLanes);
  }

  const BackwardArguments& arguments_;
  const bool log_sum_exp_is_near_;
  int lane_ = 0;
  RowNoise noise_;
  Vector log_sum_exp_, log_sum_exp_rest_;
  int64_t index_[kBlockRows];
  alignas(kRegisterBytes) Real log_sum_exps_[kBlockRows], log_sum_exp_rests_[kBlockRows];
  alignas(kRegisterBytes) Block<Real> logits_, grad_one_hot_, grad_probs_, gradient_;
  alignas(kRegisterBytes) Real kept_[kFewCategories * kLanes];
};
