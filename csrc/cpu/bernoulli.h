// Bits, one for each logit: the draw by the sampling contract, and probabilities. Included once per level.

// Elements of a tensor in flattened order are its rows, of one category. Runs body(address, elements, stride, elements
// before) over the `n` elements from `first` on, for each run along the innermost dimension.
template <class Body>
REINMAX_INLINE void for_each_run(const Rows& rows, int64_t first, int64_t n, Body body) {
  const int64_t size = rows.dims == 0 ? n : rows.size[0], stride = rows.dims == 0 ? 0 : rows.stride[0];
  for (int64_t done = 0; done < n;) {
    const int64_t left = size - (first + done) % size, run = left < n - done ? left : n - done;
    body(element(rows, first + done, 0), run, stride, done);
    done += run;
  }
}

template <class Real>
static void read_elements(const Rows& rows, int64_t first, int64_t n, Real* to) {
  if (rows.data == nullptr) {
    std::memset(to, 0, n * sizeof(Real));
    return;
  }
  for_each_run(rows, first, n, [&](const char* at, int64_t run, int64_t stride, int64_t done) {
    if (stride == 1) return read(at, rows.dtype, run, to + done);
    const int64_t step = stride * size_of(rows.dtype);
    for (int64_t i = 0; i < run; ++i) read(at + i * step, rows.dtype, 1, to + done + i);
  });
}

// The same of logits: -inf where the mask forbids.
template <class Real>
static void read_bit_logits(const BernoulliArguments& a, int64_t first, int64_t n, Real* to) {
  read_elements(a.logits, first, n, to);
  if (a.mask.data == nullptr) return;
  for_each_run(a.mask, first, n, [&](const char* at, int64_t run, int64_t stride, int64_t done) {
    for (int64_t i = 0; i < run; ++i) to[done + i] = at[i * stride] ? to[done + i] : kMinusInfinity<Real>;
  });
}

template <class Real>
REINMAX_INLINE Pack<Real> magnitude(const Pack<Real>& x) {
  return maximum(x, Pack<Real>{} - x);
}

// The probabilities of the likelier and of the unlikelier bit of a logit.
template <class Real>
struct Odds {
  Pack<Real> likely, unlikely;

  REINMAX_INLINE Odds of(const Pack<Real>& x) {
    const auto w = Simd<Real>::exp(Pack<Real>{} - magnitude(x));
    const auto likely = Real(1) / (w + Real(1));
    return {likely, w * likely};
  }

  // Of the bit whose log-odds are z, which is x or -x.
  REINMAX_MEMBER Pack<Real> probability(const Pack<Real>& z) const {
    return select(z > Pack<Real>{}, likely, unlikely);
  }
};

// The uniforms of a block of bits. One call of Philox makes those of two bits that follow each other.
struct BitUniforms {
  static constexpr int kStep = kRegisterLanes<float>;
  alignas(kRegisterBytes) uint64_t values[kBlockRows + kStep];
  const uint64_t* first;

  void draw(const Noise& stream, int64_t element) {
    using Lanes = SimdBits::Lanes;
    constexpr int kCounters = kRegisterLanes<uint64_t>;
    constexpr uint64_t kPairs = ~uint64_t{0} >> 1;  // their numbers have 63 bits
    const uint64_t number = NoiseStream(stream).number(element);
    const Lanes seed = Lanes{} + uint64_t(stream.seeds[element / stream.rows_per_seed]);
    const Lanes offset = Lanes{} + uint64_t(stream.offset);
    const Lanes order = counters_for_unpacking();
    for (int i = 0; i < kBlockRows + kStep; i += kStep) {
      const Lanes pair = (order + (number / 2 + uint64_t(i / 2))) & kPairs;
      const auto u = contract::uniforms<SimdBits>(seed, pair, offset);
      store_register(values + i, unpack_low(u.chunk, u.element));
      store_register(values + i + kCounters, unpack_high(u.chunk, u.element));
    }
    first = values + number % 2;
  }
};

// The high half of the product of a 64-bit uniform and a total of at most 40 bits.
REINMAX_INLINE SimdBits::Lanes scale_uniforms(SimdBits::Lanes uniform, SimdBits::Lanes total) {
  constexpr uint64_t kLow32 = 0xFFFFFFFFu;
  const auto uniform_high = uniform >> 32, total_high = total >> 32;
  const auto high_low = SimdBits::multiply_low(uniform_high, total);
  const auto middle = (SimdBits::multiply_low(uniform, total) >> 32) + (high_low & kLow32) +
                      SimdBits::multiply_low(uniform, total_high);
  return SimdBits::multiply_low(uniform_high, total_high) + (high_low >> 32) + (middle >> 32);
}

// 1 where the bit is 1, else 0: for lanes of logits and of the unlikelier bits' weights.
REINMAX_INLINE Register<double> choose_bits(Register<double> x, Register<double> weight, const uint64_t* uniforms) {
  using Lanes = SimdBits::Lanes;
  constexpr double kIntegers = 0x1p52;  // adding it leaves an integer in the low bits
  const Lanes unlikely = bits_as<Lanes>(weight + kIntegers) ^ bits_as<Lanes>(Register<double>{} + kIntegers);
  const Lanes likely = Lanes{} + (uint64_t{1} << contract::kWeightBits);
  const Lanes target = scale_uniforms(load_register<Lanes>(uniforms), unlikely + likely);
  const Lanes one = x >= 0.0 ? likely : unlikely;
  return Register<int64_t>(target) < Register<int64_t>(one) ? Register<double>{} + 1.0 : Register<double>{};
}

template <class Real>
static void bernoulli_as(const BernoulliArguments& a, int64_t begin, int64_t end) {
  using Vector = Pack<float>;
  alignas(kRegisterBytes) float x[kBlockRows] = {};
  alignas(kRegisterBytes) Real exact[kBlockRows] = {}, bits[kBlockRows], probs[kBlockRows];
  BitUniforms uniforms;
  int64_t count;
  for (int64_t first = begin; first < end; first += count) {
    const int64_t of_seed = a.stream.rows_per_seed - first % a.stream.rows_per_seed;
    count = end - first < kBlockRows ? end - first : kBlockRows;
    count = of_seed < count ? of_seed : count;
    read_bit_logits(a, first, count, x);
    uniforms.draw(a.stream, first);
    Vector sum{};
    for (int lane = 0; lane < kBlockRows; lane += Vector::kLanes) {
      const Vector logit = Vector::load(x + lane);
      const Vector w = weight(Vector{} - magnitude(logit), Vector{});
      sum += w;
      w.visit([&](int at, Float weights) {
        constexpr int kHalf = kRegisterLanes<double>;
        const DoublePair q = integers(weights), values = widen(load_register<Float>(x + lane + at));
        const uint64_t* const u = uniforms.first + lane + at;
        store_as(bits + lane + at,
                 narrow({choose_bits(values.low, q.low, u), choose_bits(values.high, q.high, u + kHalf)}));
      });
      if constexpr (sizeof(Real) == sizeof(float)) {
        constexpr float kOne = 0x1p39f;
        const Vector scale = 1.0f / (w + kOne);
        select(logit > Vector{}, scale * kOne, w * scale).store(probs + lane);
      }
    }
    if (!(REINMAX_LEVEL::sum(sum) >= 0)) {
      for (int64_t i = count; i-- > 0;) {
        if (x[i] != x[i]) report_invalid_row(*a.first_invalid, first + i);
      }
      std::memset(x, 0, sizeof(x));
    }
    if constexpr (sizeof(Real) == sizeof(double)) {
      read_bit_logits(a, first, count, exact);
      for (int lane = 0; lane < kBlockRows; lane += Pack<double>::kLanes) {
        const auto logit = Pack<double>::load(exact + lane);
        Odds<double>::of(logit).probability(logit).store(probs + lane);
      }
    }
    const int64_t at = first * size_of(a.logits.dtype);
    write(bits, a.logits.dtype, count, static_cast<char*>(a.bits) + at);
    write(probs, a.logits.dtype, count, static_cast<char*>(a.probs) + at);
  }
}

static void bernoulli(const BernoulliArguments& arguments, int64_t begin, int64_t end) {
  if (arguments.logits.dtype == DType::kFloat64) {
    bernoulli_as<double>(arguments, begin, end);
  } else {
    bernoulli_as<float>(arguments, begin, end);
  }
}
