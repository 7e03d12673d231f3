// Vectors of one SIMD level, over the compilers' vector extensions: arithmetic and comparisons are the language's own
// operators, and only what it lacks is spelled with intrinsics. Included once per level, inside the level's namespace;
// REINMAX_LEVEL_* says which.

#if defined(REINMAX_LEVEL_AVX512)
constexpr int kRegisterBytes = 64;
#elif defined(REINMAX_LEVEL_AVX2)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;  // SSE2, NEON
#endif

#define REINMAX_INLINE static inline __attribute__((always_inline))
#define REINMAX_MEMBER inline __attribute__((always_inline))
// Between a lambda's parameters and its body. A compiler that meets it twice would rather call it, and pass vectors
// through memory.
#define REINMAX_LAMBDA __attribute__((always_inline))

template <class Element>
struct RegisterOf {
  typedef Element Type __attribute__((vector_size(kRegisterBytes)));
};
template <class Element>
using Register = typename RegisterOf<Element>::Type;

template <class Element>
constexpr int kRegisterLanes = kRegisterBytes / int(sizeof(Element));

template <class Vector>
REINMAX_INLINE Vector load_register(const void* from) {
  Vector v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <class Vector>
REINMAX_INLINE void store_register(void* to, const Vector& v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

template <class To, class From>
REINMAX_INLINE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// v in every lane. (0 + v would be an addition: it turns -0 into 0.)
template <class Element>
REINMAX_INLINE Register<Element> in_all_lanes(Element v) {
  return v - Register<Element>{};
}

// What kernels compute with: a number of registers, four if nothing else is said. An exponential is a chain of
// dependent instructions; chains side by side hide each other's latency, where one alone would leave the processor
// waiting.
template <class Element, int kRegisters = 4>
struct Pack {
  using Half = Pack<Element, kRegisters / 2>;
  static constexpr int kLanes = kRegisters * kRegisterLanes<Element>;
  Half low, high;

  // From a function of each register's first lane.
  template <class Function>
  REINMAX_INLINE Pack generate(Function function, int lane = 0) {
    return {Half::generate(function, lane), Half::generate(function, lane + Half::kLanes)};
  }

  // function(first lane, register), for each register.
  template <class Function>
  REINMAX_MEMBER void visit(Function function, int lane = 0) const {
    low.visit(function, lane);
    high.visit(function, lane + Half::kLanes);
  }

  // function(register, other registers of the same lanes...), for each register.
  template <class Function, class... Others>
  REINMAX_MEMBER auto each(Function function, const Others&... others) const {
    return join(low.each(function, others.low...), high.each(function, others.high...));
  }

  template <class Function>  // one register from all
  REINMAX_MEMBER Register<Element> fold(Function function) const {
    return function(low.fold(function), high.fold(function));
  }

  REINMAX_INLINE Pack broadcast(Element v) {
    return generate([&](int) { return in_all_lanes(v); });
  }

  REINMAX_INLINE Pack load(const Element* from) {
    return generate([&](int lane) { return load_register<Register<Element>>(from + lane); });
  }

  REINMAX_MEMBER void store(Element* to) const {
    visit([&](int lane, const Register<Element>& v) { store_register(to + lane, v); });
  }

  REINMAX_MEMBER Element first() const { return low.first(); }

  // The first `n` lanes alone.
  REINMAX_MEMBER void store_first(Element* to, int64_t n) const {
    alignas(kRegisterBytes) Element lanes[kLanes];
    store(lanes);
    std::memcpy(to, lanes, n * sizeof(Element));
  }

 private:
  template <class Other>
  REINMAX_INLINE auto join(const Pack<Other, kRegisters / 2>& low, const Pack<Other, kRegisters / 2>& high) {
    return Pack<Other, kRegisters>{low, high};
  }
};

template <class Element>
struct Pack<Element, 1> {
  static constexpr int kLanes = kRegisterLanes<Element>;
  Register<Element> value;

  REINMAX_MEMBER Element first() const { return value[0]; }

  template <class Function>
  REINMAX_INLINE Pack generate(Function function, int lane = 0) {
    return {function(lane)};
  }

  REINMAX_INLINE Pack broadcast(Element v) { return {in_all_lanes(v)}; }

  template <class Function>
  REINMAX_MEMBER void visit(Function function, int lane = 0) const {
    function(lane, value);
  }

  template <class Function, class... Others>
  REINMAX_MEMBER auto each(Function function, const Others&... others) const {
    const auto result = function(value, others.value...);
    return Pack<std::decay_t<decltype(result[0])>, 1>{result};
  }

  template <class Function>
  REINMAX_MEMBER Register<Element> fold(Function) const {
    return value;
  }
};

#define REINMAX_PACK_OPERATOR(op)                                                                           \
  template <class Element, int kRegisters>                                                                  \
  REINMAX_INLINE auto operator op(const Pack<Element, kRegisters>& x, const Pack<Element, kRegisters>& y) { \
    return x.each([](auto u, auto v) { return u op v; }, y);                                                \
  }                                                                                                         \
  template <class Element, int kRegisters>                                                                  \
  REINMAX_INLINE auto operator op(const Pack<Element, kRegisters>& x, Element y) {                          \
    return x op Pack<Element, kRegisters>::broadcast(y);                                                    \
  }                                                                                                         \
  template <class Element, int kRegisters>                                                                  \
  REINMAX_INLINE auto operator op(Element x, const Pack<Element, kRegisters>& y) {                          \
    return Pack<Element, kRegisters>::broadcast(x) op y;                                                    \
  }
REINMAX_PACK_OPERATOR(+)
REINMAX_PACK_OPERATOR(-)
REINMAX_PACK_OPERATOR(*)
REINMAX_PACK_OPERATOR(/)
REINMAX_PACK_OPERATOR(^)
REINMAX_PACK_OPERATOR(>)  // lanes of all ones or all zeros
REINMAX_PACK_OPERATOR(<=)
#undef REINMAX_PACK_OPERATOR

template <class Element, int kRegisters>
REINMAX_INLINE auto operator>>(const Pack<Element, kRegisters>& x, int bits) {
  return x.each([=](auto u) { return u >> bits; });
}

template <class Element, int kRegisters>
REINMAX_INLINE auto& operator+=(Pack<Element, kRegisters>& x, const Pack<Element, kRegisters>& y) {
  return x = x + y;
}

REINMAX_INLINE Pack<uint32_t> bits_of(const Pack<float>& v) {
  return v.each([](auto u) { return bits_as<Register<uint32_t>>(u); });
}

template <class Mask, class Element>
REINMAX_INLINE Pack<Element> select(const Pack<Mask>& mask, const Pack<Element>& x, const Pack<Element>& y) {
  return mask.each([](auto m, auto u, auto v) { return m ? u : v; }, x, y);
}

// A register of floats or int32 as two of doubles, exactly: lanes 0 to W/2 - 1 and the rest.
struct DoublePair {
  Register<double> low, high;
};

template <class Element>
struct HalfRegisterOf {
  typedef Element Type __attribute__((vector_size(kRegisterBytes / 2)));
};

template <class Element>
REINMAX_INLINE DoublePair widen_as(const Register<Element>& v) {
  typename HalfRegisterOf<Element>::Type halves[2];
  __builtin_memcpy(halves, &v, sizeof(v));
  return {__builtin_convertvector(halves[0], Register<double>), __builtin_convertvector(halves[1], Register<double>)};
}

REINMAX_INLINE DoublePair widen(const Register<float>& v) { return widen_as<float>(v); }
REINMAX_INLINE DoublePair widen(const Register<int32_t>& v) { return widen_as<int32_t>(v); }

REINMAX_INLINE Register<float> narrow(const DoublePair& v) {
  using Half = HalfRegisterOf<float>::Type;
  const Half halves[2] = {__builtin_convertvector(v.low, Half), __builtin_convertvector(v.high, Half)};
  Register<float> both;
  __builtin_memcpy(&both, halves, sizeof(both));
  return both;
}

// 64-bit lanes for Philox.
struct SimdBits {
  using Lanes = Register<uint64_t>;

  REINMAX_INLINE Lanes multiply_low(Lanes a, Lanes b) {
#if defined(REINMAX_LEVEL_AVX512)
    return Lanes(_mm512_mul_epu32(__m512i(a), __m512i(b)));
#elif defined(REINMAX_LEVEL_AVX2)
    return Lanes(_mm256_mul_epu32(__m256i(a), __m256i(b)));
#elif defined(__SSE2__)
    return Lanes(_mm_mul_epu32(__m128i(a), __m128i(b)));
#else
    return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF);
#endif
  }
};

// The same of several registers side by side, as Pack is for floats.
template <int kRegisters>
struct PackBits {
  using Lanes = Pack<uint64_t, kRegisters>;

  REINMAX_INLINE Lanes multiply_low(const Lanes& a, const Lanes& b) {
    return a.each([](auto u, auto v) { return SimdBits::multiply_low(u, v); }, b);
  }
};

// One rounding, on every level.
REINMAX_INLINE Register<float> fma(Register<float> a, Register<float> b, Register<float> c) {
#if defined(REINMAX_LEVEL_AVX512)
  return Register<float>(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(REINMAX_LEVEL_AVX2)
  return Register<float>(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#elif defined(__ARM_FEATURE_FMA)
  return Register<float>(vfmaq_f32(c, a, b));
#else
  // The product is exact in double; over the contract's operands the second rounding never shows.
  const DoublePair x = widen(a), y = widen(b), z = widen(c);
  return narrow({x.low * y.low + z.low, x.high * y.high + z.high});
#endif
}

// The larger; `b` where either is NaN.
REINMAX_INLINE Register<float> maximum(Register<float> a, Register<float> b) {
#if defined(REINMAX_LEVEL_AVX512)
  return Register<float>(_mm512_max_ps(__m512(a), __m512(b)));
#elif defined(REINMAX_LEVEL_AVX2)
  return Register<float>(_mm256_max_ps(__m256(a), __m256(b)));
#elif defined(__SSE2__)
  return Register<float>(_mm_max_ps(__m128(a), __m128(b)));
#else
  return a > b ? a : b;
#endif
}

REINMAX_INLINE Register<double> maximum(Register<double> a, Register<double> b) { return a > b ? a : b; }

template <class Element, int kRegisters>
REINMAX_INLINE auto maximum(const Pack<Element, kRegisters>& a, const Pack<Element, kRegisters>& b) {
  return a.each([](auto u, auto v) { return maximum(u, v); }, b);
}

template <class Element, int kRegisters>
REINMAX_INLINE auto minimum(const Pack<Element, kRegisters>& a, const Pack<Element, kRegisters>& b) {
  return a.each([](auto u, auto v) { return u < v ? u : v; }, b);
}

template <class Element, int kRegisters>
REINMAX_INLINE auto minimum(const Pack<Element, kRegisters>& a, Element b) {
  return minimum(a, Pack<Element, kRegisters>::broadcast(b));
}

// The first `n` elements, which may be none or more than fit, and `pad` in the other lanes. Through memory it would
// cost as much as several packs: the processor waits where a load covers several stores.
REINMAX_INLINE Register<float> load_register_first(const float* from, int64_t n, float pad) {
#if defined(REINMAX_LEVEL_AVX512)
  const __mmask16 first = n >= 16 ? 0xFFFF : n <= 0 ? 0 : __mmask16((1 << n) - 1);
  return Register<float>(_mm512_mask_loadu_ps(_mm512_set1_ps(pad), first, from));
#elif defined(REINMAX_LEVEL_AVX2)
  const Register<int32_t> first = Register<int32_t>{0, 1, 2, 3, 4, 5, 6, 7} < int32_t(n);
  return Register<float>(
      _mm256_blendv_ps(_mm256_set1_ps(pad), _mm256_maskload_ps(from, __m256i(first)), __m256(first)));
#else
  Register<float> v = in_all_lanes(pad);
  for (int i = 0; i < kRegisterLanes<float>; ++i) v[i] = i < n ? from[i] : pad;
  return v;
#endif
}

REINMAX_INLINE Register<double> load_register_first(const double* from, int64_t n, double pad) {
#if defined(REINMAX_LEVEL_AVX512)
  const __mmask8 first = n >= 8 ? 0xFF : n <= 0 ? 0 : __mmask8((1 << n) - 1);
  return Register<double>(_mm512_mask_loadu_pd(_mm512_set1_pd(pad), first, from));
#elif defined(REINMAX_LEVEL_AVX2)
  const Register<int64_t> first = Register<int64_t>{0, 1, 2, 3} < n;
  return Register<double>(
      _mm256_blendv_pd(_mm256_set1_pd(pad), _mm256_maskload_pd(from, __m256i(first)), __m256d(first)));
#else
  Register<double> v = in_all_lanes(pad);
  for (int i = 0; i < kRegisterLanes<double>; ++i) v[i] = i < n ? from[i] : pad;
  return v;
#endif
}

template <class Element>
REINMAX_INLINE Pack<Element> load_first(const Element* from, int64_t n, Element pad) {
  return Pack<Element>::generate([&](int lane) { return load_register_first(from + lane, n - lane, pad); });
}

// What differs between float and double lanes.
template <class Real>
struct Simd;

template <>
struct Simd<float> {
  using Float = Pack<float>;

  // Of a constant: loaded into one register, which the whole pack shares. Left to itself, the compiler reads constants
  // from memory as operands, once for each register of the pack, and the processor's loads become what a loop waits
  // for. Volatile: else it is taken out of the loop, where there are no registers for so many constants.
  REINMAX_INLINE Float broadcast(float v) {
    Register<float> shared = in_all_lanes(v);
#if defined(REINMAX_LEVEL_AVX2) || defined(__AVX512F__)  // where the processor has registers of this size
    asm volatile("" : "+x"(shared));
#endif
    return Float::generate([&](int) { return shared; });
  }

  REINMAX_INLINE Float fma(const Float& x, const Float& y, const Float& z) {
    return x.each([](auto u, auto v, auto w) { return REINMAX_LEVEL::fma(u, v, w); }, y, z);
  }

  REINMAX_INLINE Float at_least(float limit, const Float& v) { return maximum(broadcast(limit), v); }

  // 2^(n + kMore - 127), where n is what the low bits of `rounded` hold.
  template <int kMore>
  REINMAX_INLINE Float power_of_two(const Float& rounded) {
    return rounded.each([](auto v) {
      return bits_as<Register<float>>((bits_as<Register<uint32_t>>(v) << 23) + (uint32_t{kMore} << 23));
    });
  }

  REINMAX_INLINE Float exp(const Float& d) { return contract::exp2<0, Simd>(d * broadcast(contract::kLog2E)); }

  // 2^kScaleBits exp(x - total): `high` is the total as a float, `rest` what is missing, in powers of two.
  template <int kScaleBits>
  REINMAX_INLINE Float exp_of_difference(const Float& x, const Float& high, const Float& rest) {
    return contract::exp2<kScaleBits, Simd>(fma(x - high, broadcast(contract::kLog2E), rest));
  }

  REINMAX_INLINE float rest_of(double total) { return float((double(float(total)) - total) * 1.44269504088896340736); }
};

template <>
struct Simd<double> {
  using Vector = Pack<double>;

  // exp(d) for d <= 0 or a little above; 0 below the smallest normal number, NaN for NaN. d = n ln 2 + r with
  // |r| <= ln(2)/2, and Taylor's series of exp(r) to r^13: relative error below 1e-16 before rounding.
  REINMAX_INLINE Vector exp(const Vector& d) {
    constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer in the low bits
    constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
    const Vector rounded = d * 1.44269504088896340736 + kMagic;
    const Vector n = rounded - kMagic;
    const Vector r = (d - n * kLn2High) - n * kLn2Low;
    Vector series = Vector::broadcast(1.0 / 6227020800.0);
    constexpr double kFactorials[] = {479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1};
    for (const double factorial : kFactorials) series = series * r + 1.0 / factorial;
    const Vector power = rounded.each([](auto v) {
      return bits_as<Register<double>>((bits_as<Register<uint64_t>>(v) << 52) + (uint64_t{1023} << 52));
    });
    return select(d <= -708.0, Vector::broadcast(0), series * power);
  }

  template <int kScaleBits>
  REINMAX_INLINE Vector exp_of_difference(const Vector& x, const Vector& high, const Vector&) {
    static_assert(-1 <= kScaleBits && kScaleBits <= 0);
    return exp(x - high) * (kScaleBits == 0 ? 1.0 : 0.5);
  }

  REINMAX_INLINE double rest_of(double) { return 0; }
};

// Reductions across lanes: of the two halves of a vector, then of the halves of what that gives.
template <class Element, class Vector, class Function>
REINMAX_INLINE Element reduce(const Vector& v, Function function) {
  if constexpr (sizeof(Vector) == sizeof(Element)) {
    return bits_as<Element>(v);
  } else {
    typedef Element Half __attribute__((vector_size(sizeof(Vector) / 2)));
    Half halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    return reduce<Element>(function(halves[0], halves[1]), function);
  }
}

template <class Element>
REINMAX_INLINE Element sum(const Register<Element>& v) {
  return reduce<Element>(v, [](auto x, auto y) { return x + y; });
}

template <class Element>
REINMAX_INLINE Element sum(const Pack<Element>& v) {
  return sum<Element>(v.fold([](auto x, auto y) { return x + y; }));
}

template <class Element>
REINMAX_INLINE Element largest(const Register<Element>& v) {
  return reduce<Element>(v, [](auto x, auto y) { return x > y ? x : y; });
}

template <class Element>
REINMAX_INLINE Element largest(const Pack<Element>& v) {
  return largest<Element>(v.fold([](auto x, auto y) { return maximum(x, y); }));
}
