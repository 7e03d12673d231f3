// A backward's rows with many categories. Included once per level.

// One row; lanes are categories. Vectors of row quantities hold the same value in every lane.
template <class Real>
class CategoryLanes {
 public:
  using Scalar = Real;
  using Vector = Pack<Real>;
  static constexpr int kLanes = Vector::kLanes;

  explicit CategoryLanes(const BackwardArguments& arguments) : arguments_(arguments) {
    if (arguments.grad_one_hot.data == nullptr) std::memset(grad_one_hot_, 0, sizeof(grad_one_hot_));
    if (arguments.grad_probs.data == nullptr) std::memset(grad_probs_, 0, sizeof(grad_probs_));
  }

  void start(int64_t row) {
    row_ = row;
    index_ = arguments_.index[row];
    if (arguments_.noise.samples > 0) {
      const NoiseStream stream(arguments_.noise);
      noise_number_ = stream.number(row);
      noise_key_ = stream.key(row);
    }
    log_sum_exp_ = Real(arguments_.log_sum_exp[row]);
    log_sum_exp_rest_ = Simd<Real>::rest_of(arguments_.log_sum_exp[row]);
  }

  // 2^kScaleBits times the probability: a power of two costs nothing here.
  template <int kScaleBits = 0>
  REINMAX_MEMBER Vector probability(const Vector& logit) const {
    return Simd<Real>::template exp_of_difference<kScaleBits>(logit, Vector::broadcast(log_sum_exp_),
                                                              Vector::broadcast(log_sum_exp_rest_));
  }

  Vector log_probability(const Vector& logit) const { return (logit - log_sum_exp_) + log_sum_exp_rest_ * Real(kLn2); }

  // Arrays of the estimator's own: how long they are, what one holds for the drawn category, setting that, and a sum
  // over the row of what vectors of one hold.
  int64_t slots() const { return (arguments_.logits.categories + kLanes - 1) / kLanes * kLanes; }
  Vector drawn_of(const Real* array) const { return Vector::broadcast(array[index_]); }
  void set_drawn_of(Real* array, Real value) const { array[index_] = value; }
  Vector row_sum(const Vector& v) const { return Vector::broadcast(sum<Real>(v)); }

  // The exponential variates of one Monte-Carlo sample.
  void exponentials(int64_t sample, Real* to) const {
    row_exponentials(noise_number_, noise_key_, uint64_t(sample), slots(), to);
  }

  // Runs the body at every position, and sums what it adds to `sums`.
  template <int kSums, class Body>
  Sums<Vector, kSums> reduce(Body body) {
    return pass<kSums, false>([&](const Position<Real>& at, auto* sums) {
      body(at, sums);
      return Vector{};
    });
  }

  // The same, and the body returns the gradient of the logits there.
  template <int kSums, class Body>
  Sums<Vector, kSums> write(Body body) {
    return pass<kSums, true>(body);
  }

  Vector largest_logit() {
    Vector result = Vector::broadcast(kMinusInfinity<Real>);
    reduce<0>([&](const Position<Real>& at, auto*) { result = maximum(result, at.logit); });
    return Vector::broadcast(largest<Real>(result));
  }

  Position<Real> drawn() {
    const auto gradient = [&](const Rows& rows) {
      return Vector::broadcast(rows.data == nullptr ? 0 : element_as<Real>(rows, row_, index_));
    };
    const Logits& logits = arguments_.logits;
    const bool allowed = logits.mask.data == nullptr || *element(logits.mask, row_, index_) != 0;
    const Real logit = allowed ? element_as<Real>(logits.values, row_, index_) : kMinusInfinity<Real>;
    return Position<Real>::of(Vector::broadcast(logit), gradient(arguments_.grad_one_hot),
                              gradient(arguments_.grad_probs));
  }

  void set_drawn(const Vector& gradient) { results(index_).store_one(0, gradient.first()); }

 private:
  Results<Real> results(int64_t first) const {
    const DType dtype = arguments_.logits.values.dtype;
    const int64_t at = row_ * arguments_.logits.categories + first;
    return {static_cast<char*>(arguments_.grad_logits) + at * size_of(dtype), dtype};
  }

  Elements<Real> gradient_chunk(const Rows& rows, int64_t first, int64_t n, Real* buffer) const {
    if (rows.data == nullptr) return {buffer, dtype_of<Real>};  // zeros since the beginning
    return row_chunk(rows, row_, first, n, buffer);
  }

  // Rows of this length and longer use up elements faster than the processor foresees them.
  static constexpr int64_t kFetched = 128;

  // Fetches what lies a chunk after the vector at i.
  REINMAX_INLINE void fetch_after(const Elements<Real>& elements, int64_t i) {
    constexpr int64_t kCacheLine = 64;
    const int64_t element_bytes = size_of(elements.dtype);
    const char* after = static_cast<const char*>(elements.data) + (i + kChunk) * element_bytes;
    for (int64_t at = 0; at < kLanes * element_bytes; at += kCacheLine) __builtin_prefetch(after + at);
  }

  template <int kSums, bool kWrite, class Body>
  Sums<Vector, kSums> pass(Body body) {
    const Logits& logits = arguments_.logits;
    Register<Real> total[kSums > 0 ? kSums : 1] = {};
    for (int64_t first = 0; first < logits.categories; first += kChunk) {
      const int64_t n = logits.categories - first < kChunk ? logits.categories - first : kChunk;
      const auto x = logits_chunk(logits, row_, first, n, logits_);
      const auto g = gradient_chunk(arguments_.grad_one_hot, first, n, grad_one_hot_);
      const auto h = gradient_chunk(arguments_.grad_probs, first, n, grad_probs_);
      const auto result = results(first);
      Sums<LaneSum<Real>, kSums> sums;  // chunk by chunk, so that rounding does not grow with the row
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) {
        if (n >= kFetched) fetch_after(x, i);
        if (n >= kFetched) fetch_after(g, i);
        const Vector v = body(Position<Real>::of(x.load(i), g.load(i), h.load(i), first + i), sums.values);
        if (kWrite) result.store(i, v);
      }
      if (i < n) {
        const auto at = Position<Real>::of(x.load_first(i, n - i, kMinusInfinity<Real>),
                                           g.load_first(i, n - i, Real(0)), h.load_first(i, n - i, Real(0)), first + i);
        const Vector v = body(at, sums.values);
        if (kWrite) result.store_first(i, n - i, v);
      }
      for (int k = 0; k < kSums; ++k) total[k] += sums[k].value;
    }
    Sums<Vector, kSums> result;
    for (int k = 0; k < kSums; ++k) result.values[k] = Vector::broadcast(sum<Real>(total[k]));
    return result;
  }

  const BackwardArguments& arguments_;
  int64_t row_ = 0, index_ = 0;
  uint64_t noise_number_ = 0, noise_key_ = 0;
  Real log_sum_exp_ = 0, log_sum_exp_rest_ = 0;
  alignas(kRegisterBytes) Real logits_[kChunk], grad_one_hot_[kChunk], grad_probs_[kChunk];
};
