// Elements of rows, as kernels read and write them: any dtype and stride, and a mask. Included once per level.

constexpr int kChunk = contract::kChunk;

template <class Real>
constexpr Real kMinusInfinity = -std::numeric_limits<Real>::infinity();

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
  const auto apply = [=](int64_t stride) REINMAX_LAMBDA {
    for (int64_t i = 0; i < n; ++i) values[i] = allowed[i * stride] ? values[i] : kMinusInfinity<Real>;
  };
  if (mask.category_stride == 1) {  // known, it becomes vectors
    apply(1);
  } else {
    apply(mask.category_stride);
  }
}

// Adjacent elements of any dtype, seen as Real: converted as they are loaded.
template <class Real>
struct Elements {
  const void* data;
  DType dtype;

  REINMAX_MEMBER Pack<Real> load(int64_t i) const {
    return visit([&](auto load) { return load(i); });
  }

  bool holds_reals() const { return dtype == dtype_of<Real>; }

  // The same; kReals: where it is known that they are.
  template <bool kReals>
  REINMAX_MEMBER Pack<Real> load_as(int64_t i) const {
    if constexpr (kReals) return Pack<Real>::load(static_cast<const Real*>(data) + i);
    return load(i);
  }

  // Runs the body with the function that loads this dtype: once for a loop, that need not ask at every element.
  template <class Body>
  REINMAX_MEMBER auto visit(Body body) const {
    if constexpr (sizeof(Real) == sizeof(float)) {
      const auto* halves = static_cast<const uint16_t*>(data);
      if (dtype == DType::kBFloat16) return body([=](int64_t i) { return load_halves(halves + i, from_bfloat16); });
      if (dtype == DType::kFloat16) return body([=](int64_t i) { return load_halves(halves + i, from_float16); });
    }
    const auto* reals = static_cast<const Real*>(data);
    return body([=](int64_t i) { return Pack<Real>::load(reals + i); });
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

  template <bool kReals>
  REINMAX_MEMBER void store_as(int64_t i, const Pack<Real>& v) const {
    if constexpr (kReals) return v.store(static_cast<Real*>(data) + i);
    store(i, v);
  }

  REINMAX_MEMBER void store_one(int64_t i, Real v) const {
    if constexpr (sizeof(Real) == sizeof(float)) {
      uint16_t* half = static_cast<uint16_t*>(data) + i;
      if (dtype == DType::kBFloat16) return void(*half = to_bfloat16(Float{} + v)[0]);
      if (dtype == DType::kFloat16) return void(*half = to_float16(Float{} + v)[0]);
    }
    static_cast<Real*>(data)[i] = v;
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
  if constexpr (sizeof(Real) == sizeof(float)) {
    const auto half = [at] { return UInt16{} + *reinterpret_cast<const uint16_t*>(at); };
    if (rows.dtype == DType::kBFloat16) return from_bfloat16(half())[0];
    if (rows.dtype == DType::kFloat16) return from_float16(half())[0];
  }
  return *reinterpret_cast<const Real*>(at);
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

// The first of `n` elements that equals the value; the last where none before it does.
template <class Real>
REINMAX_INLINE int64_t first_equal(const Real* x, int64_t n, Real value) {
  int64_t i = 0;
  while (i + 1 < n && !(x[i] == value)) ++i;
  return i;
}
