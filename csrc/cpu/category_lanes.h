// A backward's rows with many categories. Included once per level.

// One row; lanes are categories. kWithGradProbs: a gradient of the probabilities arrives.
template <class Real, bool kWithGradProbs>
class CategoryLanes {
 public:
  static constexpr bool kGradProbs = kWithGradProbs;
  using Scalar = Real;
  using Vector = Pack<Real>;
  using Quantity = Real;  // of the row, one number
  static constexpr int kLanes = Vector::kLanes;

  // Of rows up to `end`.
  CategoryLanes(const BackwardArguments& arguments, int64_t end)
      : arguments_(arguments),
        end_(end),
        ahead_of_short_{in_place() ? rows_ahead(arguments.logits.values) : 0, rows_ahead(arguments.grad_one_hot),
                        rows_ahead(arguments.grad_probs), kChunk},
        log_sum_exp_is_near_(log_sum_exp_is_near(arguments)) {
    if (arguments.grad_one_hot.data == nullptr) std::memset(grad_one_hot_, 0, sizeof(grad_one_hot_));
    if (!kGradProbs) std::memset(grad_probs_, 0, sizeof(grad_probs_));
  }

  void start(int64_t row) {
    row_ = row;
    index_ = arguments_.index[row];
    seen_ = false;
    asked_for_largest_ = false;
    choose_where_to_keep();
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

  template <int kScaleBits = 0>
  REINMAX_MEMBER Real probability(Real logit) const {
    return probability<kScaleBits>(Vector::broadcast(logit)).first();
  }

  REINMAX_MEMBER Vector log_probability(const Vector& logit) const {
    return (logit - log_sum_exp_) + log_sum_exp_rest_ * Real(kLn2);
  }

  // Arrays of the estimator's own: how long they are, what one holds for the drawn category, setting that, and a sum
  // over the row of what vectors of one hold.
  int64_t slots() const { return (arguments_.logits.categories + kLanes - 1) / kLanes * kLanes; }
  Real drawn_of(const Real* array) const { return array[index_]; }
  void set_drawn_of(Real* array, Real value) const { array[index_] = value; }
  Real row_sum(const Vector& v) const { return sum<Real>(v); }

  // The logarithms of one Monte-Carlo sample's uniforms.
  void log_uniforms(int64_t sample, Real* to) const {
    row_uniforms(noise_number_, noise_key_, uint64_t(sample), slots(), to);
    take_logarithms(to, slots());
  }

  // What an estimator makes of each logit and needs again in the pass after: kept where it costs no memory, made anew
  // where it would. To be asked for by that pass or before it: gradients may take its place.
  template <class At>
  REINMAX_MEMBER void keep(const At& at, const Vector& v) {
    if (at.slot < kept_slots_) v.store(kept_ + at.slot);
  }

  template <class At, class Function>
  REINMAX_MEMBER Vector kept(const At& at, const Function& function) const {
    if (__builtin_expect(at.slot < kept_slots_, 1)) return Vector::load(kept_ + at.slot);
    return function(at.logit());
  }

  template <class Function>
  REINMAX_MEMBER Real kept(const DrawnPosition<Real>& drawn, const Function& function) const {
    return index_ < kept_slots_ ? kept_[index_] : function(Vector::broadcast(drawn.logit())).first();
  }

  // Runs the body at every position, and sums what it adds to `sums`.
  template <int kSums, class Body>
  Sums<Real, kSums> reduce(Body body) {
    return pass<kSums, false, true>([&](const auto& at, auto* sums) REINMAX_LAMBDA {
      body(at, sums);
      return Vector{};
    });
  }

  // The same, and the body returns the gradient of the logits there. kLogits: it reads logits even where what was made
  // of them was kept.
  template <int kSums, bool kLogits, class Body>
  Sums<Real, kSums> write(Body body) {
    return pass<kSums, true, kLogits>(body);
  }

  // What exponents of x / tau are relative to: no logit is larger.
  Real reference() { return log_sum_exp_is_near_ ? log_sum_exp_ : largest_logit(); }

  // Found while the row before is worked on, so that nothing waits for memory: a short row's here, a long one's by the
  // pass that writes.
  Real largest_logit() {
    asked_for_largest_ = true;
    const Real result = row_ == row_ahead_ ? largest_ahead_ : largest_of_row(row_);
    if (is_short() && row_ + 1 < end_) {
      row_ahead_ = row_ + 1;
      largest_ahead_ = largest_of_row(row_ahead_);
    }
    return result;
  }

  DrawnPosition<Real> drawn() const {
    const auto gradient = [&](const Rows& rows) {
      return rows.data == nullptr ? Real(0) : element_as<Real>(rows, row_, index_);
    };
    const Logits& logits = arguments_.logits;
    const bool allowed = logits.mask.data == nullptr || *element(logits.mask, row_, index_) != 0;
    const Real logit = allowed ? element_as<Real>(logits.values, row_, index_) : kMinusInfinity<Real>;
    if (!(logit > kMinusInfinity<Real>)) return {logit, 0, 0};
    return {logit, gradient(arguments_.grad_one_hot), gradient(arguments_.grad_probs)};
  }

  void set_drawn(Real gradient) { results(index_).store_one(0, gradient); }

 private:
  Real largest_of_row(int64_t row) {
    Real result = kMinusInfinity<Real>;
    for (int64_t first = 0; first < arguments_.logits.categories; first += kChunk) {
      result = larger_in_chunk(row, first, result);
    }
    return result;
  }

  // The largest of a row's chunk, or the value if that is larger.
  Real larger_in_chunk(int64_t row, int64_t first, Real value) {
    const int64_t n = chunk_length(first);
    const Real largest = largest_of(logits_chunk(arguments_.logits, row, first, n, logits_), n);
    return largest > value ? largest : value;
  }

  int64_t chunk_length(int64_t first) const {
    const int64_t left = arguments_.logits.categories - first;
    return left < kChunk ? left : kChunk;
  }

  // A chunk of the row, from its category `first` on.
  struct Chunk {
    int64_t first, n;
    Elements<Real> x, g, h;
    Results<Real> result;

    bool holds_reals() const {
      return x.holds_reals() && g.holds_reals() && h.holds_reals() && result.dtype == dtype_of<Real>;
    }
  };

  // Of a short row in a buffer that stays in the first cache; of a longer one where its gradient will be, if that has
  // room for it, as whole vectors.
  void choose_where_to_keep() {
    if (is_short()) {
      kept_ = buffer_;
      kept_slots_ = slots();
    } else if (const Results<Real> result = results(0); result.dtype == dtype_of<Real>) {
      kept_ = static_cast<Real*>(result.data);
      kept_slots_ = arguments_.logits.categories / kLanes * kLanes;
    } else {
      kept_slots_ = 0;
    }
  }

  Results<Real> results(int64_t first) const {
    const DType dtype = arguments_.logits.values.dtype;
    const int64_t at = row_ * arguments_.logits.categories + first;
    return {static_cast<char*>(arguments_.grad_logits) + at * size_of(dtype), dtype};
  }

  Elements<Real> gradient_chunk(const Rows& rows, int64_t first, int64_t n, Real* buffer) const {
    if (rows.data == nullptr) return {buffer, dtype_of<Real>};  // zeros since the beginning
    return row_chunk(rows, row_, first, n, buffer);
  }

  // How many elements after the one at hand a pass fetches from memory; 0: none. It uses them up faster than the
  // processor foresees them, which foresees nothing at all where a pass leaves out the end of every row. Of a short row
  // a pass that does not write fetches the results' memory too: the stores of a later one would wait for it.
  struct Ahead {
    int64_t logits, grad_one_hot, grad_probs, result;
    int64_t logits_of_next_row = 0;
  };

  // Of a short row: how far away the rows are that come a chunk later, if there are rows that are read where they lie.
  int64_t rows_ahead(const Rows& rows) const {
    if (rows.dims == 0 || rows.category_stride != 1) return 0;
    const int64_t categories = arguments_.logits.categories;
    return categories > kChunk ? kChunk : kChunk / categories * rows.stride[0];
  }

  // Fetches the vector at i of elements or results, into the first cache or the second.
  template <bool kReals, int kCache = 1, class Memory>
  REINMAX_INLINE void fetch(const Memory& memory, int64_t i) {
    constexpr int64_t kCacheLine = 64, kLines = kLanes * sizeof(Real) / kCacheLine;
    const int64_t element_bytes = kReals ? sizeof(Real) : size_of(memory.dtype);
    const char* at = static_cast<const char*>(memory.data) + i * element_bytes;
    // Of elements of two bytes each line twice: a number of lines that the compiler does not know would be a loop.
    for (int64_t line = 0; line < kLines; ++line) {
      __builtin_prefetch(at + line * (kLanes / kLines) * element_bytes, 0, 4 - kCache);
    }
  }

  template <bool kReals, bool kWrite>
  REINMAX_INLINE void fetch_ahead(const Chunk& chunk, const Ahead& ahead, int64_t i) {
    if (ahead.logits != 0) fetch<kReals>(chunk.x, i + ahead.logits);
    if (ahead.grad_one_hot != 0) fetch<kReals>(chunk.g, i + ahead.grad_one_hot);
    if (kGradProbs && ahead.grad_probs != 0) fetch<kReals>(chunk.h, i + ahead.grad_probs);
    if (!kWrite && ahead.result != 0) fetch<kReals>(chunk.result, i + ahead.result);
    if (kWrite && ahead.logits_of_next_row != 0) fetch<kReals, 2>(chunk.x, i + ahead.logits_of_next_row);
  }

  // kReals: no dtype is asked for at every vector. kLogits: see `write`.
  template <bool kReals, bool kWrite, bool kLogits, class Body, class Sum>
  REINMAX_MEMBER void run(const Chunk& chunk, const Ahead& ahead, Body& body, Sum* sums) {
    const auto& [first, n, x, g, h, result] = chunk;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      fetch_ahead<kReals, kWrite>(chunk, ahead, i);
      const auto vector_of = [i](const Elements<Real>& elements) {
        return [&elements, i]() REINMAX_LAMBDA { return elements.template load_as<kReals>(i); };
      };
      constexpr bool kLogitsAnew = kReals || !kLogits;
      const auto at = position<Real>(reading<kLogitsAnew>(vector_of(x)), reading<kReals>(vector_of(g)),
                                     reading<kReals>(vector_of(h)), first + i);
      const Vector v = body(at, sums);
      if (kWrite) result.template store_as<kReals>(i, v);
    }
    if (i < n) {
      fetch_ahead<kReals, kWrite>(chunk, ahead, i);
      const auto rest_of = [i, left = n - i](const Elements<Real>& elements, Real pad) {
        return [&elements, i, left, pad]() REINMAX_LAMBDA { return elements.load_first(i, left, pad); };
      };
      const auto at = position<Real>(reading<!kLogits>(rest_of(x, kMinusInfinity<Real>)), reading<false>(rest_of(g, 0)),
                                     reading<false>(rest_of(h, 0)), first + i);
      const Vector v = body(at, sums);
      if (kWrite) result.store_first(i, n - i, v);
    }
  }

  // Of a long row, a pass that reads no logits fetches none; and one that looks for the largest of the next row fetches
  // that row's, which come from memory where its own are in a cache. Into the second: into the first, it took twice as
  // long.
  Ahead ahead_of_pass(bool reads_logits, bool looks) const {
    if (is_short()) return seen_ ? Ahead{0, 0, 0, 0} : ahead_of_short_;
    const Rows& logits = arguments_.logits.values;
    if (looks && in_place()) return {0, kChunk, kChunk, 0, kChunk + logits.offset(row_ + 1) - logits.offset(row_)};
    return {reads_logits || kept_slots_ == 0 ? kChunk : 0, kChunk, kChunk, 0};
  }

  // Logits that are read where they lie.
  bool in_place() const {
    return arguments_.logits.mask.data == nullptr && arguments_.logits.values.category_stride == 1;
  }

  // Others are put together in a buffer, unless the pass reads none.
  template <bool kLogits>
  Elements<Real> logits_chunk_of_pass(int64_t first, int64_t n) {
    if (!kLogits && !in_place() && first + n <= kept_slots_) return {logits_, dtype_of<Real>};
    return logits_chunk(arguments_.logits, row_, first, n, logits_);
  }

  template <int kSums, bool kWrite, bool kLogits, class Body>
  Sums<Real, kSums> pass(Body body) {
    const Logits& logits = arguments_.logits;
    Register<Real> total[kSums > 0 ? kSums : 1] = {};
    const bool looks = kWrite && asked_for_largest_ && !is_short() && row_ + 1 < end_;
    const Ahead ahead = ahead_of_pass(kLogits, looks);
    if (looks) {
      row_ahead_ = row_ + 1;
      largest_ahead_ = kMinusInfinity<Real>;
    }
    for (int64_t first = 0; first < logits.categories; first += kChunk) {
      const int64_t n = chunk_length(first);
      const Chunk chunk{first,
                        n,
                        logits_chunk_of_pass<kLogits>(first, n),
                        gradient_chunk(arguments_.grad_one_hot, first, n, grad_one_hot_),
                        gradient_chunk(arguments_.grad_probs, first, n, grad_probs_),
                        results(first)};
      Sums<LaneSum<Real>, kSums> sums;  // chunk by chunk, so that rounding does not grow with the row
      if (sizeof(Real) == sizeof(double) || chunk.holds_reals()) {
        run<true, kWrite, kLogits>(chunk, ahead, body, sums.values);
      } else {
        run<false, kWrite, kLogits>(chunk, ahead, body, sums.values);
      }
      for (int k = 0; k < kSums; ++k) total[k] += sums[k].value;
      if (looks) largest_ahead_ = larger_in_chunk(row_ahead_, first, largest_ahead_);
    }
    seen_ = true;
    Sums<Real, kSums> result;
    for (int k = 0; k < kSums; ++k) result.values[k] = sum<Real>(total[k]);
    return result;
  }

  // Longer rows would drive each other out of the first cache.
  static constexpr int64_t kShort = 4096;
  bool is_short() const { return arguments_.logits.categories <= kShort; }

  const BackwardArguments& arguments_;
  const int64_t end_;
  const Ahead ahead_of_short_;
  const bool log_sum_exp_is_near_;
  int64_t row_ = 0, index_ = 0, row_ahead_ = -1;
  Real largest_ahead_ = 0;
  bool asked_for_largest_ = false, seen_ = false;  // of the row; seen: a pass was made over it
  Real* kept_ = nullptr;
  int64_t kept_slots_ = 0;
  uint64_t noise_number_ = 0, noise_key_ = 0;
  Real log_sum_exp_ = 0, log_sum_exp_rest_ = 0;
  alignas(kRegisterBytes) Real logits_[kChunk], grad_one_hot_[kChunk], grad_probs_[kChunk], buffer_[kShort];
};
