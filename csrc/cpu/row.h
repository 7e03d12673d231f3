// How kernels see rows. Many categories: one row at a time, a chunk after the other, the lanes of a vector being
// categories. Few: a block of rows at a time, the lanes being rows, so that nothing is reduced across lanes and no
// lane is idle. An estimator's backward is written once, for both. Included once per level.

constexpr int kChunk = contract::kChunk;
constexpr int kFewCategories = 32;  // up to here, lanes are rows
constexpr int kBlockRows = 64;

template <class Real>
constexpr Real kMinusInfinity = -std::numeric_limits<Real>::infinity();

// 1 / tau, kept inside the range where 0 times it is 0 and -inf times it is -inf.
template <class Real>
REINMAX_INLINE Real inverse_of(double tau) {
  constexpr double kLeast = std::numeric_limits<Real>::min(), kMost = std::numeric_limits<Real>::max();
  const double inverse = 1 / tau;
  return Real(inverse < kLeast ? kLeast : inverse > kMost ? kMost : inverse);
}

// `v` with the last lanes, from n on, padded.
template <class Real>
REINMAX_INLINE typename Simd<Real>::Vector load_first(const Real* from, int64_t n, Real pad) {
  auto v = Simd<Real>::broadcast(pad);
  __builtin_memcpy(&v, from, n * sizeof(Real));
  return v;
}

REINMAX_INLINE const char* element(const Rows& rows, int64_t row, int64_t category) {
  const int64_t offset = rows.offset(row) + category * rows.category_stride;
  return static_cast<const char*>(rows.data) + offset * size_of(rows.dtype);
}

// `n` categories of one row from `first` on, as Real.
template <class Real>
static void read_row(const Rows& rows, int64_t row, int64_t first, int64_t n, Real* to) {
  if (rows.data == nullptr) {
    std::memset(to, 0, n * sizeof(Real));
  } else if (rows.category_stride == 1) {
    read(element(rows, row, first), rows.dtype, n, to);
  } else {
    for (int64_t i = 0; i < n; ++i) read(element(rows, row, first + i), rows.dtype, 1, to + i);
  }
}

// -inf where the mask forbids.
template <class Real>
static void apply_mask(const Rows& mask, int64_t row, int64_t first, int64_t n, Real* values) {
  const char* allowed = element(mask, row, first);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = allowed[i * mask.category_stride] ? values[i] : kMinusInfinity<Real>;
  }
}

template <class Real>
REINMAX_INLINE bool readable_in_place(const Rows& rows) {
  return rows.data != nullptr && rows.category_stride == 1 &&
         rows.dtype == (sizeof(Real) == sizeof(double) ? DType::kFloat64 : DType::kFloat32);
}

// A chunk of masked logits as Real: where it lies if it can be read there, else in the buffer.
template <class Real>
REINMAX_INLINE const Real* logits_chunk(const Logits& logits, int64_t row, int64_t first, int64_t n, Real* buffer) {
  if (logits.mask.data == nullptr && readable_in_place<Real>(logits.values)) {
    return reinterpret_cast<const Real*>(element(logits.values, row, first));
  }
  read_row(logits.values, row, first, n, buffer);
  if (logits.mask.data != nullptr) apply_mask(logits.mask, row, first, n, buffer);
  return buffer;
}

// Up to kBlockRows rows of few categories, turned so that lanes are rows: to[category][row]. Missing rows are 0.
template <class Real>
using Block = Real[kFewCategories][kBlockRows];

template <class Real>
static void read_block(const Rows& rows, const Rows* mask, int64_t row, int64_t count, int64_t categories,
                       Block<Real>& to) {
  Real values[kBlockRows * kFewCategories];
  const bool dense = rows.data != nullptr && rows.category_stride == 1 && rows.dims <= 1 &&
                     (rows.dims == 0 || rows.stride[0] == categories);
  if (dense) {
    read(element(rows, row, 0), rows.dtype, count * categories, values);
  } else {
    for (int64_t i = 0; i < count; ++i) read_row(rows, row + i, 0, categories, values + i * categories);
  }
  if (mask != nullptr && mask->data != nullptr) {
    for (int64_t i = 0; i < count; ++i) apply_mask(*mask, row + i, 0, categories, values + i * categories);
  }
  for (int64_t j = 0; j < categories; ++j) {
    for (int64_t i = 0; i < count; ++i) to[j][i] = values[i * categories + j];
    for (int64_t i = count; i < kBlockRows; ++i) to[j][i] = 0;
  }
}

template <class Real>
static void write_block(const Block<Real>& from, DType dtype, int64_t row, int64_t count, int64_t categories,
                        void* to) {
  Real values[kBlockRows * kFewCategories];
  for (int64_t j = 0; j < categories; ++j) {
    for (int64_t i = 0; i < count; ++i) values[i * categories + j] = from[j][i];
  }
  write(values, dtype, count * categories, static_cast<char*>(to) + row * categories * size_of(dtype));
}

// What a backward sees at one position (a category of a row): the logit, -inf where masked, and the gradients of
// one-hot and probabilities, 0 where the category can't be drawn, whatever arrived there.
template <class Real>
struct Position {
  typename Simd<Real>::Vector logit, grad_one_hot, grad_probs;

  REINMAX_INLINE Position of(typename Simd<Real>::Vector x, typename Simd<Real>::Vector g,
                             typename Simd<Real>::Vector h) {
    const auto drawable = x > kMinusInfinity<Real>;
    const auto zero = Simd<Real>::broadcast(0);
    return {x, drawable ? g : zero, drawable ? h : zero};
  }
};

template <class Real, int kSums>
struct Sums {
  typename Simd<Real>::Vector values[kSums > 0 ? kSums : 1] = {};
  const auto& operator[](int i) const { return values[i]; }
};

// The log-sum-exp is a double; with float lanes it is subtracted in two parts, exact for logits of any magnitude.
template <class Real>
struct LogSumExp {
  typename Simd<Real>::Vector high, low;

  typename Simd<Real>::Vector probability(typename Simd<Real>::Vector logit) const {
    return Simd<Real>::exp((logit - high) - low);
  }
};

// One row; lanes are categories. Vectors of row quantities hold the same value in every lane.
template <class Real>
class CategoryLanes {
 public:
  using Scalar = Real;
  using Vector = typename Simd<Real>::Vector;
  static constexpr int kLanes = Simd<Real>::kLanes;

  explicit CategoryLanes(const BackwardArguments& arguments) : arguments_(arguments) {}

  void start(int64_t row) {
    row_ = row;
    index_ = arguments_.index[row];
    const double total = arguments_.log_sum_exp[row];
    const Real high = Real(total);
    log_sum_exp_ = {Simd<Real>::broadcast(high), Simd<Real>::broadcast(Real(total - high))};
  }

  Vector probability(Vector logit) const { return log_sum_exp_.probability(logit); }

  // Runs the body at every position, and sums what it adds to `sums`.
  template <int kSums, class Body>
  Sums<Real, kSums> reduce(Body body) {
    return pass<kSums, false>([&](const Position<Real>& at, Vector* sums) {
      body(at, sums);
      return Vector{};
    });
  }

  // The same, and the body returns the gradient of the logits there.
  template <int kSums, class Body>
  Sums<Real, kSums> write(Body body) {
    return pass<kSums, true>(body);
  }

  Vector largest_logit() {
    Vector result = Simd<Real>::broadcast(kMinusInfinity<Real>);
    reduce<0>([&](const Position<Real>& at, Vector*) { result = maximum(result, at.logit); });
    return Simd<Real>::broadcast(largest<Real>(result));
  }

  Position<Real> drawn() {
    Real values[3];
    read_row(arguments_.logits.values, row_, index_, 1, values);
    if (arguments_.logits.mask.data) apply_mask(arguments_.logits.mask, row_, index_, 1, values);
    read_row(arguments_.grad_one_hot, row_, index_, 1, values + 1);
    read_row(arguments_.grad_probs, row_, index_, 1, values + 2);
    return Position<Real>::of(Simd<Real>::broadcast(values[0]), Simd<Real>::broadcast(values[1]),
                              Simd<Real>::broadcast(values[2]));
  }

  void set_drawn(Vector gradient) {
    const Real value = gradient[0];
    ::reinmax_kernels::cpu::REINMAX_LEVEL::write(&value, arguments_.logits.values.dtype, 1, output(index_));
  }

 private:
  char* output(int64_t category) const {
    const int64_t at = row_ * arguments_.logits.categories + category;
    return static_cast<char*>(arguments_.grad_logits) + at * size_of(arguments_.logits.values.dtype);
  }

  const Real* gradient_chunk(const Rows& rows, int64_t first, int64_t n, Real* buffer) const {
    if (readable_in_place<Real>(rows)) return reinterpret_cast<const Real*>(element(rows, row_, first));
    read_row(rows, row_, first, n, buffer);
    return buffer;
  }

  template <int kSums, bool kWrite, class Body>
  Sums<Real, kSums> pass(Body body) {
    const Logits& logits = arguments_.logits;
    const DType dtype = logits.values.dtype;
    const bool in_place = dtype == DType::kFloat32 || dtype == DType::kFloat64;
    Sums<Real, kSums> total;
    for (int64_t first = 0; first < logits.categories; first += kChunk) {
      const int64_t n = logits.categories - first < kChunk ? logits.categories - first : kChunk;
      const Real* x = logits_chunk(logits, row_, first, n, logits_);
      const Real* g = gradient_chunk(arguments_.grad_one_hot, first, n, grad_one_hot_);
      const Real* h = gradient_chunk(arguments_.grad_probs, first, n, grad_probs_);
      Real* result = kWrite && in_place ? reinterpret_cast<Real*>(output(first)) : gradient_;
      Sums<Real, kSums> sums;  // chunk by chunk, so that rounding does not grow with the row
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) {
        const auto at = Position<Real>::of(load<Vector>(x + i), load<Vector>(g + i), load<Vector>(h + i));
        const Vector v = body(at, sums.values);
        if (kWrite) store(result + i, v);
      }
      if (i < n) {
        const auto at = Position<Real>::of(load_first(x + i, n - i, kMinusInfinity<Real>),
                                           load_first(g + i, n - i, Real(0)), load_first(h + i, n - i, Real(0)));
        const Vector v = body(at, sums.values);
        if (kWrite) std::memcpy(result + i, &v, (n - i) * sizeof(Real));
      }
      if (kWrite && !in_place) ::reinmax_kernels::cpu::REINMAX_LEVEL::write(gradient_, dtype, n, output(first));
      for (int k = 0; k < kSums; ++k) total.values[k] += sums.values[k];
    }
    for (int k = 0; k < kSums; ++k) total.values[k] = Simd<Real>::broadcast(sum<Real>(total.values[k]));
    return total;
  }

  const BackwardArguments& arguments_;
  int64_t row_ = 0, index_ = 0;
  LogSumExp<Real> log_sum_exp_;
  alignas(kVectorBytes) Real logits_[kChunk], grad_one_hot_[kChunk], grad_probs_[kChunk], gradient_[kChunk];
};

// As many rows as a vector has lanes, of a block; the same interface, nothing crosses lanes.
template <class Real>
class RowLanes {
 public:
  using Scalar = Real;
  using Vector = typename Simd<Real>::Vector;
  static constexpr int kLanes = Simd<Real>::kLanes;

  explicit RowLanes(const BackwardArguments& arguments) : arguments_(arguments) {}

  void start_block(int64_t row, int64_t count) {
    const Logits& logits = arguments_.logits;
    read_block(logits.values, &logits.mask, row, count, logits.categories, logits_);
    read_block(arguments_.grad_one_hot, nullptr, row, count, logits.categories, grad_one_hot_);
    read_block(arguments_.grad_probs, nullptr, row, count, logits.categories, grad_probs_);
    for (int64_t i = 0; i < kBlockRows; ++i) {
      index_[i] = i < count ? arguments_.index[row + i] : 0;
      const double total = i < count ? arguments_.log_sum_exp[row + i] : 0;
      log_sum_exp_high_[i] = Real(total);
      log_sum_exp_low_[i] = Real(total - log_sum_exp_high_[i]);
    }
  }

  void start(int lane) {
    lane_ = lane;
    log_sum_exp_ = {load<Vector>(log_sum_exp_high_ + lane), load<Vector>(log_sum_exp_low_ + lane)};
  }

  void finish_block(int64_t row, int64_t count) {
    write_block(gradient_, arguments_.logits.values.dtype, row, count, arguments_.logits.categories,
                arguments_.grad_logits);
  }

  Vector probability(Vector logit) const { return log_sum_exp_.probability(logit); }

  template <int kSums, class Body>
  Sums<Real, kSums> reduce(Body body) {
    Sums<Real, kSums> sums;
    for (int64_t j = 0; j < arguments_.logits.categories; ++j) body(at(j), sums.values);
    return sums;
  }

  template <int kSums, class Body>
  Sums<Real, kSums> write(Body body) {
    Sums<Real, kSums> sums;
    for (int64_t j = 0; j < arguments_.logits.categories; ++j) {
      store(&gradient_[j][lane_], body(at(j), sums.values));
    }
    return sums;
  }

  Vector largest_logit() {
    Vector result = load<Vector>(&logits_[0][lane_]);
    for (int64_t j = 1; j < arguments_.logits.categories; ++j) {
      result = maximum(result, load<Vector>(&logits_[j][lane_]));
    }
    return result;
  }

  Position<Real> drawn() {
    Vector x, g, h;
    for (int i = 0; i < kLanes; ++i) {
      const int64_t j = index_[lane_ + i];
      x[i] = logits_[j][lane_ + i];
      g[i] = grad_one_hot_[j][lane_ + i];
      h[i] = grad_probs_[j][lane_ + i];
    }
    return Position<Real>::of(x, g, h);
  }

  void set_drawn(Vector gradient) {
    for (int i = 0; i < kLanes; ++i) gradient_[index_[lane_ + i]][lane_ + i] = gradient[i];
  }

 private:
  Position<Real> at(int64_t j) const {
    return Position<Real>::of(load<Vector>(&logits_[j][lane_]), load<Vector>(&grad_one_hot_[j][lane_]),
                              load<Vector>(&grad_probs_[j][lane_]));
  }

  const BackwardArguments& arguments_;
  int lane_ = 0;
  LogSumExp<Real> log_sum_exp_;
  int64_t index_[kBlockRows];
  alignas(kVectorBytes) Real log_sum_exp_high_[kBlockRows], log_sum_exp_low_[kBlockRows];
  alignas(kVectorBytes) Block<Real> logits_, grad_one_hot_, grad_probs_, gradient_;
};

// Runs an estimator's backward over rows [begin, end): `estimator(row)` for each row or vector of rows.
template <class Real, class Estimator>
static void backward_as(const BackwardArguments& arguments, int64_t begin, int64_t end, Estimator estimator) {
  if (arguments.logits.categories <= kFewCategories) {
    RowLanes<Real> rows(arguments);
    for (int64_t row = begin; row < end; row += kBlockRows) {
      const int64_t count = end - row < kBlockRows ? end - row : kBlockRows;
      rows.start_block(row, count);
      for (int lane = 0; lane < count; lane += RowLanes<Real>::kLanes) {
        rows.start(lane);
        estimator(rows);
      }
      rows.finish_block(row, count);
    }
  } else {
    CategoryLanes<Real> lanes(arguments);
    for (int64_t row = begin; row < end; ++row) {
      lanes.start(row);
      estimator(lanes);
    }
  }
}

template <class Estimator>
static void for_each_row(const BackwardArguments& arguments, int64_t begin, int64_t end, Estimator estimator) {
  if (arguments.logits.values.dtype == DType::kFloat64) {
    backward_as<double>(arguments, begin, end, estimator);
  } else {
    backward_as<float>(arguments, begin, end, estimator);
  }
}
