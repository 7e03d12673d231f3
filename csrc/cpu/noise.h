// Noise for estimators that need it element by element: Philox under a key of its own, by the contract. Included once
// per level.

// Where the noise of rows comes from: their numbers and keys.
struct NoiseStream {
  explicit NoiseStream(const Noise& noise) : noise_(noise) {}
  uint64_t number(int64_t row) const { return uint64_t(noise_.row_offset) + uint64_t(row % noise_.rows_per_seed); }
  uint64_t key(int64_t row) const {
    return contract::noise_key(uint64_t(noise_.seeds[row / noise_.rows_per_seed]), uint64_t(noise_.offset));
  }

 private:
  const Noise& noise_;
};

// Two registers of words, each in the low half of a 64-bit lane, as one of twice the lanes: even lanes, odd lanes.
REINMAX_INLINE UInt32 interleave(SimdBits::Lanes even, SimdBits::Lanes odd) {
  const auto e = UInt32(even), o = UInt32(odd);
#if defined(REINMAX_LEVEL_AVX512)
  return __builtin_shufflevector(e, o, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
#elif defined(REINMAX_LEVEL_AVX2)
  return __builtin_shufflevector(e, o, 0, 8, 2, 10, 4, 12, 6, 14);
#else
  return __builtin_shufflevector(e, o, 0, 4, 2, 6);
#endif
}

// u = (word / 2^9 + 1/2) / 2^23, exactly: never 0 or 1.
REINMAX_INLINE Float noise_uniform(UInt32 word) {
  return bits_as<Float>((word >> 9) | bits_as<uint32_t>(1.0f)) - (1.0f - 0x1p-24f);
}

REINMAX_INLINE void store_as(float* to, Float v) { store_register(to, v); }
REINMAX_INLINE void store_as(double* to, Float v) {
  const DoublePair wide = widen(v);
  store_register(to, wide.low);
  store_register(to + kRegisterLanes<double>, wide.high);
}

// In place. By itself, for beside an exponential there are not registers enough.
template <class Real>
REINMAX_INLINE void take_logarithms(Real* values, int64_t count) {
  using Vector = Pack<Real>;
  for (int64_t i = 0; i < count; i += Vector::kLanes) log(Vector::load(values + i)).store(values + i);
}

// Of rows as lanes.
class RowNoise {
 public:
  void start_block(const Noise& noise, int64_t row, int64_t count) {
    const NoiseStream stream(noise);
    int64_t of_seed = noise.rows_per_seed - row % noise.rows_per_seed;  // rows before the next seed's
    uint64_t number = stream.number(row), key = stream.key(row);
    for (int64_t i = 0; i < kBlockRows; ++i) {
      number_[i % 2][i / 2] = number++;
      key_[i % 2][i / 2] = key;
      if (--of_seed == 0 && i + 1 < count) {
        of_seed = noise.rows_per_seed;
        number = stream.number(row + i + 1);
        key = stream.key(row + i + 1);
      }
    }
  }

  // The four words of the counter (c0, c1) for a register of rows, of which `lane` is the first.
  template <class Use>
  REINMAX_MEMBER void words(uint64_t c0, uint64_t c1, int lane, Use use) const {
    const auto even = philox(c0, c1, 0, lane), odd = philox(c0, c1, 1, lane);
    use(0, interleave(even.w0, odd.w0));
    use(1, interleave(even.w1, odd.w1));
    use(2, interleave(even.w2, odd.w2));
    use(3, interleave(even.w3, odd.w3));
  }

 private:
  REINMAX_MEMBER contract::Words<SimdBits> philox(uint64_t c0, uint64_t c1, int parity, int lane) const {
    using Lanes = SimdBits::Lanes;
    const auto number = load_register<Lanes>(&number_[parity][lane / 2]);
    return contract::philox<SimdBits>({Lanes{} + c0, Lanes{} + c1, number, number >> 32},
                                      load_register<Lanes>(&key_[parity][lane / 2]));
  }

  alignas(kRegisterBytes) uint64_t number_[2][kBlockRows / 2], key_[2][kBlockRows / 2];  // of even rows, of odd rows
};

// Of each 128 bits: the low (or high) 64 of `a`, then those of `b`.
REINMAX_INLINE UInt32 unpack_low(SimdBits::Lanes a, SimdBits::Lanes b) {
#if defined(REINMAX_LEVEL_AVX512)
  return UInt32(__builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14));
#elif defined(REINMAX_LEVEL_AVX2)
  return UInt32(__builtin_shufflevector(a, b, 0, 4, 2, 6));
#else
  return UInt32(__builtin_shufflevector(a, b, 0, 2));
#endif
}

REINMAX_INLINE UInt32 unpack_high(SimdBits::Lanes a, SimdBits::Lanes b) {
#if defined(REINMAX_LEVEL_AVX512)
  return UInt32(__builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15));
#elif defined(REINMAX_LEVEL_AVX2)
  return UInt32(__builtin_shufflevector(a, b, 1, 5, 3, 7));
#else
  return UInt32(__builtin_shufflevector(a, b, 1, 3));
#endif
}

// Numbers of counters, in an order that unpacking undoes.
REINMAX_INLINE SimdBits::Lanes counters_for_unpacking() {
  constexpr int kCounters = kRegisterLanes<uint64_t>;
  SimdBits::Lanes order{};
  for (int i = 0; i < kCounters; ++i) order[i] = i / 2 + i % 2 * (kCounters / 2);
  return order;
}

// Of one row, categories as lanes: uniforms for the categories of so many calls from j on. Ten rounds are a long chain
// of instructions, so that calls go side by side.
template <int kCalls, class Real>
REINMAX_INLINE void uniforms_from(int64_t j, uint64_t number, uint64_t key, uint64_t sample, Real* to) {
  using Lanes = Pack<uint64_t, kCalls>;
  const auto counters = Lanes::generate([](int lane) { return counters_for_unpacking() + uint64_t(lane); });
  const auto row = Lanes::broadcast(number), keys = Lanes::broadcast(key), samples = Lanes::broadcast(sample);
  const auto w = contract::philox<PackBits<kCalls>>({counters + uint64_t(j / 4), samples, row, row >> 32}, keys);
  const auto pairs = [](auto even, auto odd) { return SimdBits::Lanes(interleave(even, odd)); };
  const auto first = w.w0.each(pairs, w.w1), second = w.w2.each(pairs, w.w3);
  // The words of each counter are adjacent in memory: of a call, two registers.
  const auto low = first.each([](auto a, auto b) { return noise_uniform(unpack_low(a, b)); }, second);
  const auto high = first.each([](auto a, auto b) { return noise_uniform(unpack_high(a, b)); }, second);
  low.visit([&](int lane, Float u) { store_as(to + j + 2 * lane, u); });
  high.visit([&](int lane, Float u) { store_as(to + j + 2 * lane + kRegisterLanes<float>, u); });
}

// For categories [0, slots), whole packs: as many calls at once as there are registers for.
template <class Real>
REINMAX_INLINE void row_uniforms(uint64_t number, uint64_t key, uint64_t sample, int64_t slots, Real* to) {
  constexpr int kOfCall = 4 * kRegisterLanes<uint64_t>, kOfPack = Pack<Real>::kLanes / kOfCall;
  constexpr int kMost = kRegisterBytes == 64 ? 4 : 2;
  static_assert(Pack<Real>::kLanes == kOfCall * kOfPack);
  int64_t j = 0;
  for (; j + kMost * kOfCall <= slots; j += kMost * kOfCall) uniforms_from<kMost>(j, number, key, sample, to);
  for (; j < slots; j += kOfPack * kOfCall) uniforms_from<kOfPack>(j, number, key, sample, to);
}
