// Vectors of one SIMD level, over the compilers' vector extensions: arithmetic, comparisons and selection are the
// language's own operators, and only what it lacks is spelled with intrinsics. Included once per level, inside the
// level's namespace; REINMAX_LEVEL_* says which.

#if defined(REINMAX_LEVEL_AVX512)
constexpr int kVectorBytes = 64;
#elif defined(REINMAX_LEVEL_AVX2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;  // SSE2, NEON
#endif

typedef float Float __attribute__((vector_size(kVectorBytes)));
typedef float HalfFloat __attribute__((vector_size(kVectorBytes / 2)));
typedef double Double __attribute__((vector_size(kVectorBytes)));
typedef int32_t Int32 __attribute__((vector_size(kVectorBytes)));
typedef int64_t Int64 __attribute__((vector_size(kVectorBytes)));
typedef uint32_t UInt32 __attribute__((vector_size(kVectorBytes)));
typedef uint64_t UInt64 __attribute__((vector_size(kVectorBytes)));

#define REINMAX_INLINE static inline __attribute__((always_inline))

template <class Vector>
REINMAX_INLINE Vector load(const void* from) {
  Vector v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <class Vector>
REINMAX_INLINE void store(void* to, const Vector& v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

template <class To, class From>
REINMAX_INLINE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// A float vector as two double vectors, exactly: lanes 0 to W/2 - 1 and the rest.
struct DoublePair {
  Double low, high;
};

REINMAX_INLINE DoublePair widen(const Float& v) {
  HalfFloat halves[2];
  __builtin_memcpy(halves, &v, sizeof(v));
  return {__builtin_convertvector(halves[0], Double), __builtin_convertvector(halves[1], Double)};
}

REINMAX_INLINE Float narrow(const DoublePair& v) {
  const HalfFloat halves[2] = {__builtin_convertvector(v.low, HalfFloat), __builtin_convertvector(v.high, HalfFloat)};
  Float both;
  __builtin_memcpy(&both, halves, sizeof(both));
  return both;
}

// What differs between float and double lanes.
template <class Real>
struct Simd;

template <>
struct Simd<float> {
  using Float = reinmax_kernels::cpu::REINMAX_LEVEL::Float;
  using Vector = Float;
  using Mask = Int32;
  static constexpr int kLanes = kVectorBytes / int(sizeof(float));

  REINMAX_INLINE Float broadcast(float v) { return Float{} + v; }

  // One rounding, on every level.
  REINMAX_INLINE Float fma(Float a, Float b, Float c) {
#if defined(REINMAX_LEVEL_AVX512)
    return Float(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(REINMAX_LEVEL_AVX2)
    return Float(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#elif defined(__ARM_FEATURE_FMA)
    return Float(vfmaq_f32(c, a, b));
#else
    // The product is exact in double; over the contract's operands the second rounding never shows.
    const DoublePair x = widen(a), y = widen(b), z = widen(c);
    return narrow({x.low * y.low + z.low, x.high * y.high + z.high});
#endif
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

  // 2^(n + kScaleBits) from n + kRoundingMagic, whose low bits are n.
  template <int kScaleBits>
  REINMAX_INLINE Float power_of_two(Float rounded) {
    return bits_as<Float>((bits_as<UInt32>(rounded) << 23) + (uint32_t{127 + kScaleBits} << 23));
  }

  REINMAX_INLINE Float zero_where_less(Float t, float limit, Float v) {
    return bits_as<Float>(~Int32(t < limit) & bits_as<Int32>(v));  // NaN is not less, and stays
  }

  REINMAX_INLINE Float exp(Float d) { return contract::exp2<0, Simd>(d * contract::kLog2E); }
};

template <>
struct Simd<double> {
  using Vector = Double;
  using Mask = Int64;
  static constexpr int kLanes = kVectorBytes / int(sizeof(double));

  REINMAX_INLINE Double broadcast(double v) { return Double{} + v; }

  // exp(d) for d <= 0 or a little above; 0 below the smallest normal number, NaN for NaN. d = n ln 2 + r with
  // |r| <= ln(2)/2, and Taylor's series of exp(r) to r^13: relative error below 1e-16 before rounding.
  REINMAX_INLINE Double exp(Double d) {
    constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer in the low bits
    constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
    const Double rounded = d * 1.44269504088896340736 + kMagic;
    const Double n = rounded - kMagic;
    const Double r = (d - n * kLn2High) - n * kLn2Low;
    Double series = broadcast(1.0 / 6227020800.0);
    constexpr double kFactorials[] = {479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1};
    for (const double factorial : kFactorials) series = series * r + 1.0 / factorial;
    const Double power = bits_as<Double>((bits_as<UInt64>(rounded) << 52) + (uint64_t{1023} << 52));
    return bits_as<Double>(~Int64(d < -708.0) & bits_as<Int64>(series * power));
  }
};

template <class Vector>
REINMAX_INLINE Vector maximum(const Vector& a, const Vector& b) {
  return a > b ? a : b;
}

// Reductions across the lanes, by halves.
template <class Real, int kLanes>
REINMAX_INLINE Real sum_lanes(const Real* lanes) {
  if constexpr (kLanes == 1)
    return lanes[0];
  else
    return sum_lanes<Real, kLanes / 2>(lanes) + sum_lanes<Real, kLanes / 2>(lanes + kLanes / 2);
}

template <class Real>
REINMAX_INLINE Real sum(const typename Simd<Real>::Vector& v) {
  alignas(kVectorBytes) Real lanes[Simd<Real>::kLanes];
  store(lanes, v);
  return sum_lanes<Real, Simd<Real>::kLanes>(lanes);
}

template <class Real>
REINMAX_INLINE Real largest(const typename Simd<Real>::Vector& v) {
  alignas(kVectorBytes) Real lanes[Simd<Real>::kLanes];
  store(lanes, v);
  Real result = lanes[0];
  for (int i = 1; i < Simd<Real>::kLanes; ++i) result = lanes[i] > result ? lanes[i] : result;
  return result;
}

// Natural logarithm of v > 0, normal: v = 2^e f with f in [sqrt(1/2), sqrt(2)), s = (f - 1) / (f + 1), and
// log f = 2 artanh(s) by its series to s^19: relative error below 1e-16 before rounding.
REINMAX_INLINE Double log(Double v) {
  const Int64 shifted = bits_as<Int64>(v) - 0x3FE6A09E667F3BCD;  // bits of sqrt(1/2)
  const Int64 exponent = shifted >> 52;
  const Double f = bits_as<Double>((shifted & 0x000FFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD);
  const Double s = (f - 1.0) / (f + 1.0), s2 = s * s;
  Double series = Simd<double>::broadcast(1.0 / 19);
  for (int k = 17; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
  return __builtin_convertvector(exponent, Double) * 0.693147180559945309417 + 2.0 * s * series;
}
