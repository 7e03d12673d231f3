// The contract's integer weights of one chunk, and the choice among them. Included once per level.

constexpr int kGroup = 64;  // elements between two running sums that are kept

// 2^39 E((x - largest) log2 e): the weight before it is rounded. NaN and +inf give NaN.
REINMAX_INLINE Pack<float> weight(const Pack<float>& x, const Pack<float>& largest) {
  return contract::exp2<contract::kWeightBits, Simd<float>>((x - largest) * Simd<float>::broadcast(contract::kLog2E));
}

// To the nearest integer, ties to even, for v >= 0.
REINMAX_INLINE Float round(Float v) {
#if defined(REINMAX_LEVEL_AVX512)
  return Float(_mm512_roundscale_ps(__m512(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(REINMAX_LEVEL_AVX2)
  return Float(_mm256_round_ps(__m256(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  constexpr float kAllIntegers = 0x1p23f;  // from here on every float is an integer
  const Float rounded = (v + kAllIntegers) - kAllIntegers;
  return v < kAllIntegers ? rounded : v;
#endif
}

REINMAX_INLINE DoublePair integers(Float weight) { return widen(round(weight)); }

// Rounded weights, ready to be summed exactly without a conversion: each is split into a multiple of 2^22 and the rest,
// as what they leave in the low bits of a float to which a magic number was added. 256 of them add up to less than 2^26
// and 2^30. A NaN sets every exponent bit of `high`.
struct SplitWeights {
  static constexpr float kHighMagic = 0x1.8p45f;  // its last place is 2^22
  Pack<uint32_t> high, low;

  REINMAX_MEMBER explicit SplitWeights(const Pack<float>& weights) {
    const auto magic = Simd<float>::broadcast(kHighMagic);
    const Pack<float> shifted = weights + magic;
    high = bits_of(shifted);
    low = bits_of((weights - (shifted - magic)) + Simd<float>::broadcast(contract::kRoundingMagic));
  }

  // The sum of a lane, as a double, after so many additions; NaN where a weight was NaN.
  REINMAX_INLINE DoublePair total(UInt32 high, UInt32 low, UInt32 exponents, int64_t additions) {
    const DoublePair highs = widen(bits_as<Int32>(high - uint32_t(additions) * bits_as<uint32_t>(kHighMagic)));
    const DoublePair lows =
        widen(bits_as<Int32>(low - uint32_t(additions) * bits_as<uint32_t>(contract::kRoundingMagic)));
    const DoublePair nan_or_zero = widen(bits_as<Float>(exponents) * 0.0f);
    return {highs.low * 0x1p22 + lows.low + nan_or_zero.low, highs.high * 0x1p22 + lows.high + nan_or_zero.high};
  }
};

// A sum of weights lane by lane.
struct SplitSum {
  Pack<uint32_t> high, low, exponents;

  REINMAX_MEMBER void add(const SplitWeights& weights) {
    high += weights.high;
    low += weights.low;
    exponents = exponents.each([](UInt32 x, UInt32 y) { return x | y; }, weights.high);
  }

  REINMAX_MEMBER void store(int64_t additions, double* to) const {
    alignas(kRegisterBytes) uint32_t lows[Pack<uint32_t>::kLanes], all_exponents[Pack<uint32_t>::kLanes];
    low.store(lows);
    exponents.store(all_exponents);
    high.visit([&](int lane, const UInt32& highs) {
      const DoublePair sums = SplitWeights::total(highs, load_register<UInt32>(lows + lane),
                                                  load_register<UInt32>(all_exponents + lane), additions);
      store_register(to + lane, sums.low);
      store_register(to + lane + kRegisterLanes<double>, sums.high);
    });
  }
};

// The same over all lanes.
struct WeightSum {
  UInt32 high, low, exponents;

  REINMAX_MEMBER void add(const SplitWeights& weights) {
    const auto plus = [](UInt32 x, UInt32 y) { return x + y; };
    high += weights.high.fold(plus);
    low += weights.low.fold(plus);
    exponents |= weights.high.fold([](UInt32 x, UInt32 y) { return x | y; });
  }

  REINMAX_MEMBER double total(int64_t packs) const {
    const DoublePair sums = SplitWeights::total(high, low, exponents, 4 * packs);
    return sum<double>(sums.low + sums.high);
  }
};

// The weights of one chunk, of n <= 1024 elements: their sum, and the running sum after each group of elements.
struct ChunkWeights {
  static constexpr int kPacksPerGroup = kGroup / Pack<float>::kLanes;
  double sum;
  WeightSum running[kChunk / kGroup];

  double through(int64_t group) const { return running[group].total((group + 1) * kPacksPerGroup); }
};

// NaN is dropped.
template <class Real>
REINMAX_INLINE Real largest_real(const Real* x, int64_t n) {
  constexpr int kLanes = Pack<Real>::kLanes;
  Pack<Real> result = Pack<Real>::broadcast(kMinusInfinity<Real>);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) result = maximum(Pack<Real>::load(x + i), result);
  if (i < n) result = maximum(load_first(x + i, n - i, kMinusInfinity<Real>), result);
  return largest(result);
}

// One register from `n` elements of two bytes: `better` chooses of any two.
template <class Element, class Better>
REINMAX_INLINE Register<Element> fold_halves(const uint16_t* x, int64_t n, Better better) {
  using Lanes = Register<Element>;
  constexpr int kLanes = kRegisterLanes<Element>;
  if (n < kLanes) {
    Lanes few = Lanes{} + Element(x[0]);
    std::memcpy(&few, x, n * sizeof(Element));
    return few;
  }
  auto best = load_register<Lanes>(x);
  for (int64_t i = kLanes; i + kLanes < n; i += kLanes) best = better(load_register<Lanes>(x + i), best);
  return better(load_register<Lanes>(x + n - kLanes), best);  // the rest, and some again
}

// The same of bfloat16 or float16, converted only at the end: their bits, as signed integers, are in the order of the
// numbers where one is positive; where all are negative, in the opposite order. A NaN is dropped or is the result.
template <class Convert>
REINMAX_INLINE float largest_half(const uint16_t* x, int64_t n, Convert convert) {
  constexpr uint16_t kReverse = 0x7FFF;  // the order of signed integers to the opposite one of unsigned integers
  const auto largest = fold_halves<int16_t>(x, n, [](auto u, auto v) { return u > v ? u : v; });
  UInt16 bits = smallest_first(bits_as<Register<uint16_t>>(largest) ^ kReverse) ^ kReverse;
  if (int16_t(bits[0]) < 0)
    bits = smallest_first(fold_halves<uint16_t>(x, n, [](auto u, auto v) { return u < v ? u : v; }));
  return convert(bits)[0];
}

REINMAX_INLINE float largest_of(const Elements<float>& x, int64_t n) {
  const auto* halves = static_cast<const uint16_t*>(x.data);
  switch (x.dtype) {
    case DType::kBFloat16: return largest_half(halves, n, from_bfloat16);
    case DType::kFloat16: return largest_half(halves, n, from_float16);
    default: return largest_real(static_cast<const float*>(x.data), n);
  }
}

REINMAX_INLINE double largest_of(const Elements<double>& x, int64_t n) {
  return largest_real(static_cast<const double*>(x.data), n);
}

// Writes the weights, unrounded, in whole groups, and their sums. Fetches the next chunk meanwhile, which the processor
// does not foresee while it computes.
template <class Load>
static void weigh(const Elements<float>& x, Load load, int64_t n, float max, ChunkWeights& chunk, float* weights) {
  constexpr int kLanes = Pack<float>::kLanes;
  constexpr int kCacheLine = 64;
  const auto largest = Pack<float>::broadcast(max);
  const auto* bytes = static_cast<const char*>(x.data);
  const int64_t element_bytes = size_of(x.dtype);
  WeightSum sum{};
  int64_t i = 0;
  for (int64_t group = 0; i < n; ++group) {
    for (int64_t at = i * element_bytes; at < (i + kGroup) * element_bytes; at += kCacheLine)
      __builtin_prefetch(bytes + at + kChunk * element_bytes);
    for (const int64_t end = i + kGroup; i < end; i += kLanes) {
      if (i >= n) {
        Pack<float>{}.store(weights + i);
      } else {
        const auto w = weight(i + kLanes <= n ? load(i) : x.load_first(i, n - i, kMinusInfinity<float>), largest);
        w.store(weights + i);
        sum.add(SplitWeights(w));
      }
    }
    chunk.running[group] = sum;
  }
  chunk.sum = sum.total((n + kLanes - 1) / kLanes);
}

// The first element of a chunk whose inclusive prefix sum exceeds the target. Within its group it is found by counting
// the sums that do not, first register by register, then lane by lane: a search would guess wrong at every row.
static int64_t choose(const float* weights, int64_t n, const ChunkWeights& chunk, double target) {
  constexpr int kLanes = kRegisterLanes<float>, kRegisters = kGroup / kLanes;
  double before = 0;
  int64_t group = 0;
  for (; (group + 1) * kGroup < n; ++group) {
    const double after = chunk.through(group);
    if (after > target) break;
    before = after;
  }
  const float* first = weights + group * kGroup;
  const auto count = [&](const double* sums, int size) {
    int passed = 0;
    double prefix = before;
    for (int i = 0; i + 1 < size; ++i) {
      prefix += sums[i];
      passed += prefix <= target;
      before = prefix <= target ? prefix : before;
    }
    return passed;
  };
  double sums[kRegisters > kLanes ? kRegisters : kLanes];
  for (int i = 0; i < kRegisters; ++i) {
    const DoublePair q = integers(load_register<Float>(first + i * kLanes));
    sums[i] = sum<double>(q.low + q.high);
  }
  const int chosen = count(sums, kRegisters);
  const DoublePair q = integers(load_register<Float>(first + chosen * kLanes));
  store_register(sums, q.low);
  store_register(sums + kLanes / 2, q.high);
  return group * kGroup + chosen * kLanes + count(sums, kLanes);
}
