// How kernels see rows. Many categories: one row at a time, a chunk after the other, the lanes of a vector being
// categories. Few: a block of rows at a time, the lanes being rows, so that nothing is reduced across lanes and no
// lane is idle. An estimator's backward is written once, for both. Included once per level.

constexpr int kChunk = contract::kChunk;
constexpr int kFewCategories = 32;  // up to here, lanes are rows
constexpr int kBlockRows = 64;
constexpr int kTile = 4;

template <class Real>
constexpr Real kMinusInfinity = -std::numeric_limits<Real>::infinity();

// 1 / tau, kept inside the range where 0 times it is 0 and -inf times it is -inf.
template <class Real>
REINMAX_INLINE Real inverse_of(double tau) {
  constexpr double kLeast = std::numeric_limits<Real>::min(), kMost = std::numeric_limits<Real>::max();
  const double inverse = 1 / tau;
  return Real(inverse < kLeast ? kLeast : inverse > kMost ? kMost : inverse);
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
  } else if (rows.category_stride == 0) {
    read(element(rows, row, first), rows.dtype, 1, to);
    for (int64_t i = 1; i < n; ++i) to[i] = to[0];
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

// Adjacent elements of any dtype, seen as Real: converted as they are loaded.
template <class Real>
struct Elements {
  const void* data;
  DType dtype;

  REINMAX_MEMBER Pack<Real> load(int64_t i) const {
    if constexpr (sizeof(Real) == sizeof(float)) {
      if (dtype == DType::kBFloat16) return load_halves(static_cast<const uint16_t*>(data) + i, from_bfloat16);
      if (dtype == DType::kFloat16) return load_halves(static_cast<const uint16_t*>(data) + i, from_float16);
    }
    return Pack<Real>::load(static_cast<const Real*>(data) + i);
  }

  REINMAX_MEMBER Pack<Real> load_first(int64_t i, int64_t n, Real pad) const {
    if (dtype == dtype_of<Real>) {
      return REINMAX_LEVEL::load_first(static_cast<const Real*>(data) + i, n, pad);
    }
    alignas(kRegisterBytes) Real lanes[Pack<Real>::kLanes];
    Pack<Real>::broadcast(pad).store(lanes);
    read(static_cast<const uint16_t*>(data) + i, dtype, n, lanes);
    return Pack<Real>::load(lanes);
  }

  static constexpr bool holds(DType dtype) {
    return sizeof(Real) == sizeof(double) ? dtype == DType::kFloat64 : dtype != DType::kFloat64;
  }
};

// Where results go, rounded to their dtype as they are stored.
template <class Real>
struct Results {
  void* data;
  DType dtype;

  REINMAX_MEMBER void store(int64_t i, const Pack<Real>& v) const {
    if constexpr (sizeof(Real) == sizeof(float)) {
      if (dtype == DType::kBFloat16) return store_halves(v, static_cast<uint16_t*>(data) + i, to_bfloat16);
      if (dtype == DType::kFloat16) return store_halves(v, static_cast<uint16_t*>(data) + i, to_float16);
    }
    v.store(static_cast<Real*>(data) + i);
  }

  REINMAX_MEMBER void store_first(int64_t i, int64_t n, const Pack<Real>& v) const {
    alignas(kRegisterBytes) Real lanes[Pack<Real>::kLanes];
    v.store(lanes);
    write(lanes, dtype, n, static_cast<char*>(data) + i * size_of(dtype));
  }
};

// One element, as Real.
template <class Real>
REINMAX_INLINE Real element_as(const Rows& rows, int64_t row, int64_t category) {
  const char* at = element(rows, row, category);
  if (rows.dtype == dtype_of<Real>) return *reinterpret_cast<const Real*>(at);
  Real value;
  read(at, rows.dtype, 1, &value);
  return value;
}

// A chunk of one row: where it lies if it can be read there, else in the buffer.
template <class Real>
REINMAX_INLINE Elements<Real> row_chunk(const Rows& rows, int64_t row, int64_t first, int64_t n, Real* buffer) {
  if (rows.category_stride == 1 && Elements<Real>::holds(rows.dtype)) return {element(rows, row, first), rows.dtype};
  read_row(rows, row, first, n, buffer);
  return {buffer, dtype_of<Real>};
}

// The same with -inf where the mask forbids.
template <class Real>
REINMAX_INLINE Elements<Real> logits_chunk(const Logits& logits, int64_t row, int64_t first, int64_t n, Real* buffer) {
  if (logits.mask.data == nullptr) return row_chunk(logits.values, row, first, n, buffer);
  read_row(logits.values, row, first, n, buffer);
  apply_mask(logits.mask, row, first, n, buffer);
  return {buffer, dtype_of<Real>};
}

// Up to kBlockRows rows of few categories, turned so that lanes are rows: [category][row].
template <class Real>
using Block = Real[kFewCategories][kBlockRows];

// The same rows as they lie in memory, one after the other; a tile of the last row may reach beyond it.
template <class Real>
using Lying = Real[kBlockRows * kFewCategories + kTile];

// 4 x 4 elements, turned.
template <class Real>
REINMAX_INLINE void transpose_tile(const Real* from, int64_t from_stride, Real* to, int64_t to_stride) {
  typedef Real Four __attribute__((vector_size(4 * sizeof(Real))));
  Four row[4];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&row[i], from + i * from_stride, sizeof(Four));
  const Four low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const Four high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Four low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Four high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Four column[4] = {
      __builtin_shufflevector(low01, low23, 0, 1, 4, 5), __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
      __builtin_shufflevector(high01, high23, 0, 1, 4, 5), __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int j = 0; j < 4; ++j) __builtin_memcpy(to + j * to_stride, &column[j], sizeof(Four));
}

// Lanes beyond the rows keep what they held, or become 0.
template <class Real>
static void read_block(const Rows& rows, const Rows* mask, int64_t row, int64_t count, int64_t categories,
                       Block<Real>& to) {
  Lying<Real> values;
  const bool dense = rows.category_stride == 1 && rows.dims <= 1 && (rows.dims == 0 || rows.stride[0] == categories);
  if (dense) {
    read(element(rows, row, 0), rows.dtype, count * categories, values);
  } else {
    for (int64_t i = 0; i < count; ++i) read_row(rows, row + i, 0, categories, values + i * categories);
  }
  if (mask != nullptr && mask->data != nullptr) {
    for (int64_t i = 0; i < count; ++i) apply_mask(*mask, row + i, 0, categories, values + i * categories);
  }
  const int64_t missing = (kTile - count % kTile) % kTile;
  std::memset(values + count * categories, 0, (missing * categories + kTile) * sizeof(Real));
  for (int64_t i = 0; i < count; i += kTile) {
    for (int64_t j = 0; j < categories; j += kTile) {
      transpose_tile(values + i * categories + j, categories, &to[j][i], kBlockRows);
    }
  }
}

// A tile's rows that reach beyond the last category are written over by the next row's first tile, which comes later.
template <class Real>
static void write_block(const Block<Real>& from, DType dtype, int64_t row, int64_t count, int64_t categories,
                        void* to) {
  Lying<Real> values;
  for (int64_t i = 0; i < count; i += kTile) {
    for (int64_t j = (categories - 1) / kTile * kTile; j >= 0; j -= kTile) {
      transpose_tile(&from[j][i], kBlockRows, values + i * categories + j, categories);
    }
  }
  write(values, dtype, count * categories, static_cast<char*>(to) + row * categories * size_of(dtype));
}

// What a backward sees at one position (a category of a row): the logit, -inf where masked, and the gradients of
// one-hot and probabilities, 0 where the category can't be drawn, whatever arrived there.
template <class Real>
struct Position {
  Pack<Real> logit, grad_one_hot, grad_probs;

  REINMAX_INLINE Position of(const Pack<Real>& x, const Pack<Real>& g, const Pack<Real>& h) {
    const auto drawable = x > kMinusInfinity<Real>;
    const auto zero = Pack<Real>::broadcast(0);
    return {x, select(drawable, g, zero), select(drawable, h, zero)};
  }
};

template <class Sum, int kSums>
struct Sums {
  Sum values[kSums > 0 ? kSums : 1] = {};
  const auto& operator[](int i) const { return values[i]; }
};

// A sum over lanes too, on its way: one register, so that an estimator may keep several.
template <class Real>
struct LaneSum {
  Register<Real> value;
  REINMAX_MEMBER void operator+=(const Pack<Real>& v) {
    value += v.fold([](auto x, auto y) { return x + y; });
  }
};

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
    log_sum_exp_ = Real(arguments_.log_sum_exp[row]);
    log_sum_exp_rest_ = Simd<Real>::rest_of(arguments_.log_sum_exp[row]);
  }

  // 2^kScaleBits times the probability: a power of two costs nothing here.
  template <int kScaleBits = 0>
  REINMAX_MEMBER Vector probability(const Vector& logit) const {
    return Simd<Real>::template exp_of_difference<kScaleBits>(logit, Vector::broadcast(log_sum_exp_),
                                                              Vector::broadcast(log_sum_exp_rest_));
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

  void set_drawn(const Vector& gradient) {
    const Results<Real> result = results(index_);
    const Real value = gradient.a[0];
    ::reinmax_kernels::cpu::REINMAX_LEVEL::write(&value, result.dtype, 1, result.data);
  }

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
        const Vector v = body(Position<Real>::of(x.load(i), g.load(i), h.load(i)), sums.values);
        if (kWrite) result.store(i, v);
      }
      if (i < n) {
        const auto at = Position<Real>::of(x.load_first(i, n - i, kMinusInfinity<Real>),
                                           g.load_first(i, n - i, Real(0)), h.load_first(i, n - i, Real(0)));
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
  Real log_sum_exp_ = 0, log_sum_exp_rest_ = 0;
  alignas(kRegisterBytes) Real logits_[kChunk], grad_one_hot_[kChunk], grad_probs_[kChunk];
};

// As many rows as a vector has lanes, of a block; the same interface, nothing crosses lanes.
template <class Real>
class RowLanes {
 public:
  using Scalar = Real;
  using Vector = Pack<Real>;
  static constexpr int kLanes = Vector::kLanes;

  explicit RowLanes(const BackwardArguments& arguments) : arguments_(arguments) {
    for (Block<Real>* block : {&logits_, &grad_one_hot_, &grad_probs_}) {
      std::memset(*block, 0, arguments.logits.categories * sizeof((*block)[0]));
    }
  }

  void start_block(int64_t row, int64_t count) {
    const Logits& logits = arguments_.logits;
    read_block(logits.values, &logits.mask, row, count, logits.categories, logits_);
    read_gradient(arguments_.grad_one_hot, row, count, grad_one_hot_);
    read_gradient(arguments_.grad_probs, row, count, grad_probs_);
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

  template <int kSums, class Body>
  Sums<Vector, kSums> reduce(Body body) {
    Sums<Vector, kSums> sums;
    for (int64_t j = 0; j < arguments_.logits.categories; ++j) body(at(j), sums.values);
    return sums;
  }

  template <int kSums, class Body>
  Sums<Vector, kSums> write(Body body) {
    Sums<Vector, kSums> sums;
    for (int64_t j = 0; j < arguments_.logits.categories; ++j) {
      body(at(j), sums.values).store(&gradient_[j][lane_]);
    }
    return sums;
  }

  Vector largest_logit() {
    Vector result = Vector::load(&logits_[0][lane_]);
    for (int64_t j = 1; j < arguments_.logits.categories; ++j) {
      result = maximum(result, Vector::load(&logits_[j][lane_]));
    }
    return result;
  }

  Position<Real> drawn() {
    alignas(kRegisterBytes) Real x[kLanes], g[kLanes], h[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t j = index_[lane_ + i];
      x[i] = logits_[j][lane_ + i];
      g[i] = grad_one_hot_[j][lane_ + i];
      h[i] = grad_probs_[j][lane_ + i];
    }
    return Position<Real>::of(Vector::load(x), Vector::load(g), Vector::load(h));
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

  Position<Real> at(int64_t j) const {
    return Position<Real>::of(Vector::load(&logits_[j][lane_]), Vector::load(&grad_one_hot_[j][lane_]),
                              Vector::load(&grad_probs_[j][lane_]));
  }

  const BackwardArguments& arguments_;
  int lane_ = 0;
  Vector log_sum_exp_, log_sum_exp_rest_;
  int64_t index_[kBlockRows];
  alignas(kRegisterBytes) Real log_sum_exps_[kBlockRows], log_sum_exp_rests_[kBlockRows];
  alignas(kRegisterBytes) Block<Real> logits_, grad_one_hot_, grad_probs_, gradient_;
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
