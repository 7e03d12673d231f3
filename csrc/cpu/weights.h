// The contract's integer weights of one chunk, and the choice among them. Included once per level.

constexpr int kGroup = 64;  // elements between two running sums that are kept

// 2^39 E((x - largest) log2 e): the weight before it is rounded. NaN and +inf give NaN.
REINMAX_INLINE Pack<float> weight(const Pack<float>& x, const Pack<float>& largest) {
  return contract::exp2<contract::kWeightBits, Simd<float>>((x - largest) * contract::kLog2E);
}

// To the nearest integer, ties to even, for v >= 0.
REINMAX_INLINE Float round(Float v) {
#if defined(REINMAX_LEVEL_AVX512)
  return Float(_mm512_roundscale_ps(__m512(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(REINMAX_LEVEL_AVX2)
  return Float(_mm256_round_ps(__m256(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  constexpr float kAllIntegers = 4194304.0f;  // 2^22: beyond it the sum with the magic number would not be exact
  const Float rounded = (v + contract::kRoundingMagic) - contract::kRoundingMagic;
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
    const Pack<float> shifted = weights + kHighMagic;
    high = bits_of(shifted);
    low = bits_of((weights - (shifted - kHighMagic)) + contract::kRoundingMagic);
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
    exponents = exponents.each(weights.high, [](UInt32 x, UInt32 y) { return x | y; });
  }

  REINMAX_MEMBER void store(int64_t additions, double* to) const {
    const auto store_one = [&](UInt32 high, UInt32 low, UInt32 exponents, double* to) {
      const DoublePair sums = SplitWeights::total(high, low, exponents, additions);
      store_register(to, sums.low);
      store_register(to + kRegisterLanes<double>, sums.high);
    };
    constexpr int kStep = kRegisterLanes<float>;
    store_one(high.a, low.a, exponents.a, to);
    store_one(high.b, low.b, exponents.b, to + kStep);
    store_one(high.c, low.c, exponents.c, to + 2 * kStep);
    store_one(high.d, low.d, exponents.d, to + 3 * kStep);
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

// NaN is dropped. Elements that are not float32 are also written as such, in whole packs.
REINMAX_INLINE float largest_of(const Elements<float>& x, int64_t n, float* converted) {
  constexpr int kLanes = Pack<float>::kLanes;
  Pack<float> result = Pack<float>::broadcast(kMinusInfinity<float>);
  const auto see = [&](const Pack<float>& v, int64_t i) {
    result = maximum(v, result);
    if (x.dtype != DType::kFloat32) v.store(converted + i);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) see(x.load(i), i);
  if (i < n) see(x.load_first(i, n - i, kMinusInfinity<float>), i);
  return largest(result);
}

// Writes the weights, unrounded, in whole groups, and their sums. Fetches the next chunk meanwhile, which the processor
// does not foresee while it computes.
static void weigh(const float* x, int64_t n, float max, ChunkWeights& chunk, float* weights) {
  constexpr int kLanes = Pack<float>::kLanes;
  constexpr int kCacheLine = 64 / sizeof(float);
  const auto largest = Pack<float>::broadcast(max);
  WeightSum sum{};
  int64_t i = 0;
  for (int64_t group = 0; i < n; ++group) {
    for (const int64_t end = i + kGroup; i < end; i += kLanes) {
      if (i >= n) {
        Pack<float>{}.store(weights + i);
        continue;
      }
      for (int j = 0; j < kLanes; j += kCacheLine) __builtin_prefetch(x + i + j + kChunk);
      const auto v = i + kLanes <= n ? Pack<float>::load(x + i) : load_first(x + i, n - i, kMinusInfinity<float>);
      const auto w = weight(v, largest);
      w.store(weights + i);
      sum.add(SplitWeights(w));
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
