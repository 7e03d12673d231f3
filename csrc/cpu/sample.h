// The draw by the sampling contract: what rows of few and of many categories share. Included once per level.

constexpr double kLn2 = 0.693147180559945309417;

// The uniforms of a block of rows, a register of them at a time.
struct BlockUniforms {
  alignas(kRegisterBytes) uint64_t chunk[kBlockRows], element[kBlockRows];

  // `number`: of the draw, where a row makes several.
  template <class Arguments>
  void draw(const Arguments& a, int64_t row, int64_t count, uint64_t number = 0) {
    alignas(kRegisterBytes) uint64_t seeds[kBlockRows], numbers[kBlockRows];
    const int64_t group = row / a.rows_per_seed, within = row % a.rows_per_seed;
    const uint64_t first = uint64_t(a.row_offset) + uint64_t(within);
    for (int i = 0; i < kBlockRows; ++i) seeds[i] = uint64_t(a.seeds[group]);
    for (int i = 0; i < kBlockRows; ++i) numbers[i] = first + uint64_t(i);
    for (int64_t i = a.rows_per_seed - within; i < count; ++i) {  // rows of later groups
      seeds[i] = uint64_t(a.seeds[(row + i) / a.rows_per_seed]);
      numbers[i] = uint64_t(a.row_offset) + uint64_t((row + i) % a.rows_per_seed);
    }
    using Lanes = SimdBits::Lanes;
    constexpr int kStep = kRegisterLanes<uint64_t>;
    const Lanes offset = Lanes{} + (uint64_t(a.offset) ^ number << 56);
    for (int i = 0; i < kBlockRows; i += kStep) {
      const auto seed = load_register<Lanes>(seeds + i), number = load_register<Lanes>(numbers + i);
      const auto u = contract::uniforms<SimdBits>(seed, number, offset);
      store_register(chunk + i, u.chunk);
      store_register(element + i, u.element);
    }
  }
};

// Where a uniform points among integer weights of this sum, below 2^62: conversions of signed integers are single
// instructions.
REINMAX_INLINE int64_t scale_uniform(uint64_t uniform, double sum) {
  return int64_t(contract::multiply_high(uniform, uint64_t(int64_t(sum))));
}

// Log-sum-exp from the largest logit and the sum of weights, scaled by 2^39, relative to it.
REINMAX_INLINE void log_sum_exps(const float* max, const double* total, int64_t count, double* result) {
  constexpr int kLanes = kRegisterLanes<double>;
  alignas(kRegisterBytes) double logs[kBlockRows];
  for (int64_t i = 0; i < kBlockRows; i += kLanes)
    store_register(logs + i, log(load_register<Register<double>>(total + i)));
  for (int64_t i = 0; i < count; ++i) result[i] = double(max[i]) + (logs[i] - contract::kWeightBits * kLn2);
}

static void set_one(void* one_hot, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::kFloat64: static_cast<double*>(one_hot)[at] = 1; return;
    case DType::kFloat32: static_cast<float*>(one_hot)[at] = 1; return;
    case DType::kFloat16: static_cast<uint16_t*>(one_hot)[at] = 0x3C00; return;
    default: static_cast<uint16_t*>(one_hot)[at] = 0x3F80;
  }
}

static void write_one_hot(const SampleArguments& a, int64_t row, int64_t count) {
  const int64_t categories = a.logits.categories;
  const DType dtype = a.logits.values.dtype;
  const int64_t row_bytes = categories * size_of(dtype);
  if (!a.one_hot_is_zero) std::memset(static_cast<char*>(a.one_hot) + row * row_bytes, 0, count * row_bytes);
  for (int64_t i = row; i < row + count; ++i) set_one(a.one_hot, dtype, i * categories + a.index[i]);
}

// float64 logits keep float64 probabilities: the softmax of one row, apart from the draw, and its log-sum-exp.
static void softmax_double(const SampleArguments& a, int64_t row) {
  using Vector = Pack<double>;
  const int64_t categories = a.logits.categories;
  double* probs = static_cast<double*>(a.probs) + row * categories;
  const auto for_packs = [&](auto body) {
    alignas(kRegisterBytes) double buffer[kChunk];
    for (int64_t first = 0; first < categories; first += kChunk) {
      const int64_t n = categories - first < kChunk ? categories - first : kChunk;
      const auto x = logits_chunk(a.logits, row, first, n, buffer);
      int64_t i = 0;
      for (; i + Vector::kLanes <= n; i += Vector::kLanes) body(x.load(i), first + i, Vector::kLanes);
      if (i < n) body(x.load_first(i, n - i, kMinusInfinity<double>), first + i, n - i);
    }
  };
  Vector running = Vector::broadcast(kMinusInfinity<double>), total{};
  for_packs([&](const Vector& x, int64_t, int64_t) { running = maximum(x, running); });
  const double max = largest(running);
  for_packs([&](const Vector& x, int64_t, int64_t) { total += Simd<double>::exp(x - max); });
  const double sum_exp = sum(total);
  a.log_sum_exp[row] = max + log(Register<double>{} + sum_exp)[0];
  if (a.probs == nullptr) return;
  for_packs([&](const Vector& x, int64_t at, int64_t n) {
    const Vector p = Simd<double>::exp(x - max) / sum_exp;
    if (n == Vector::kLanes) {
      p.store(probs + at);
    } else {
      p.store_first(probs + at, n);
    }
  });
}
