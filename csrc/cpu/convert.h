// Elements of any dtype to the type that is computed in, float or double, and back. Included once per level.

using Float = Register<float>;
using Int32 = Register<int32_t>;
using UInt32 = Register<uint32_t>;
typedef uint16_t UInt16 __attribute__((vector_size(kRegisterBytes / 2)));  // as many lanes as Float

// The smallest lane, in the first one. All in registers: through memory, a load would cover two stores, and to wait for
// that costs almost a third of the draw from a row of 64.
REINMAX_INLINE UInt16 smallest_first(const Register<uint16_t>& v) {
#if defined(REINMAX_LEVEL_AVX512) || defined(REINMAX_LEVEL_AVX2)
  constexpr int kParts = kRegisterBytes / sizeof(__m128i);
  __m128i parts[kParts];
  std::memcpy(parts, &v, sizeof(v));
  __m128i few = parts[0];
  for (int i = 1; i < kParts; ++i) few = _mm_min_epu16(few, parts[i]);
  few = _mm_minpos_epu16(few);
#if defined(REINMAX_LEVEL_AVX512)
  return UInt16(_mm256_zextsi128_si256(few));
#else
  return UInt16(few);
#endif
#else
  return UInt16{} + reduce<uint16_t>(v, [](auto x, auto y) { return x < y ? x : y; });
#endif
}

// `__builtin_convertvector` is right everywhere, but GCC splits it into halves that it joins again.
REINMAX_INLINE UInt32 widen_halves(UInt16 bits) {
#if defined(REINMAX_LEVEL_AVX512)
  return UInt32(_mm512_cvtepu16_epi32(__m256i(bits)));
#elif defined(REINMAX_LEVEL_AVX2)
  return UInt32(_mm256_cvtepu16_epi32(__m128i(bits)));
#else
  return __builtin_convertvector(bits, UInt32);
#endif
}

// One shuffle puts each element above 16 zero bits, where widening and then shifting would be two instructions.
REINMAX_INLINE Float from_bfloat16(UInt16 bits) {
#if defined(REINMAX_LEVEL_AVX2)
  constexpr char kZero = -1;
  const __m256i upper_halves = _mm256_setr_epi8(
      kZero, kZero, 0, 1, kZero, kZero, 2, 3, kZero, kZero, 4, 5, kZero, kZero, 6, 7,  // the first four elements
      kZero, kZero, 8, 9, kZero, kZero, 10, 11, kZero, kZero, 12, 13, kZero, kZero, 14, 15);
  return Float(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(__m128i(bits)), upper_halves));
#else
  return bits_as<Float>(widen_halves(bits) << 16);
#endif
}

// To nearest, ties to even, in the low half of each lane. A NaN stays one: arithmetic leaves a quiet NaN, whose payload
// is the input's or zero, so that its low bits carry nothing over.
REINMAX_INLINE UInt32 round_to_bfloat16(Float v) {
  const UInt32 bits = bits_as<UInt32>(v);
  return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}

REINMAX_INLINE UInt16 to_bfloat16(Float v) {
#if defined(REINMAX_LEVEL_AVX512)
  return UInt16(_mm512_cvtepi32_epi16(__m512i(round_to_bfloat16(v))));
#elif defined(REINMAX_LEVEL_AVX2)
  const __m256i wide = __m256i(round_to_bfloat16(v));
  return UInt16(_mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
#else
  return __builtin_convertvector(round_to_bfloat16(v), UInt16);
#endif
}

REINMAX_INLINE Float from_float16(UInt16 bits) {
#if defined(REINMAX_LEVEL_AVX512)
  return Float(_mm512_cvtph_ps(__m256i(bits)));
#elif defined(REINMAX_LEVEL_AVX2)
  return Float(_mm256_cvtph_ps(__m128i(bits)));
#else
  Float v;
  for (int i = 0; i < kRegisterLanes<float>; ++i) v[i] = c10::detail::fp16_ieee_to_fp32_value(bits[i]);
  return v;
#endif
}

REINMAX_INLINE UInt16 to_float16(Float v) {
#if defined(REINMAX_LEVEL_AVX512)
  return UInt16(_mm512_cvtps_ph(__m512(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(REINMAX_LEVEL_AVX2)
  return UInt16(_mm256_cvtps_ph(__m256(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  UInt16 bits;
  for (int i = 0; i < kRegisterLanes<float>; ++i) bits[i] = c10::detail::fp16_ieee_from_fp32_value(v[i]);
  return bits;
#endif
}

template <class Convert>
REINMAX_INLINE Pack<float> load_halves(const uint16_t* from, Convert convert) {
  return Pack<float>::generate([&](int lane) { return convert(load_register<UInt16>(from + lane)); });
}

template <class Convert>
REINMAX_INLINE void store_halves(const Pack<float>& v, uint16_t* to, Convert convert) {
  v.visit([&](int lane, const Float& lanes) { store_register(to + lane, convert(lanes)); });
}

// `n` elements, a vector at a time; the last, shorter vector passes through a buffer.
template <class From, class To, class Convert>
REINMAX_INLINE void convert_each(const void* from, void* to, int64_t n, Convert convert) {
  constexpr int kLanes = kRegisterLanes<float>;
  const auto* source = static_cast<const char*>(from);
  auto* target = static_cast<char*>(to);
  constexpr int kFrom = sizeof(From) / kLanes, kTo = sizeof(To) / kLanes;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    store_register<To>(target + i * kTo, convert(load_register<From>(source + i * kFrom)));
  if (i < n) {
    From last{};
    __builtin_memcpy(&last, source + i * kFrom, (n - i) * kFrom);
    const To converted = convert(last);
    __builtin_memcpy(target + i * kTo, &converted, (n - i) * kTo);
  }
}

// Draws are made in float32. A finite double that it can't hold becomes NaN: a row that has one is invalid.
REINMAX_INLINE float draw_value(double v) {
  const float narrowed = float(v);
  return std::isinf(narrowed) && !std::isinf(v) ? std::numeric_limits<float>::quiet_NaN() : narrowed;
}

template <class Real>
constexpr DType dtype_of = sizeof(Real) == sizeof(double) ? DType::kFloat64 : DType::kFloat32;

REINMAX_INLINE int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return 8;
    case DType::kFloat32: return 4;
    case DType::kBool: return 1;
    default: return 2;
  }
}

// `n` contiguous elements as Real.
template <class Real>
static void read(const void* from, DType dtype, int64_t n, Real* to) {
  if constexpr (sizeof(Real) == sizeof(double)) {
    std::memcpy(to, from, n * sizeof(double));
  } else {
    switch (dtype) {
      case DType::kFloat16: return convert_each<UInt16, Float>(from, to, n, from_float16);
      case DType::kBFloat16: return convert_each<UInt16, Float>(from, to, n, from_bfloat16);
      case DType::kFloat64:
        for (int64_t i = 0; i < n; ++i) to[i] = draw_value(static_cast<const double*>(from)[i]);
        return;
      default: std::memcpy(to, from, n * sizeof(float));
    }
  }
}

// `n` elements of Real to contiguous elements of the dtype: rounded once, to nearest even.
template <class Real>
static void write(const Real* from, DType dtype, int64_t n, void* to) {
  if constexpr (sizeof(Real) == sizeof(double)) {
    std::memcpy(to, from, n * sizeof(double));
  } else {
    switch (dtype) {
      case DType::kFloat16: return convert_each<Float, UInt16>(from, to, n, to_float16);
      case DType::kBFloat16: return convert_each<Float, UInt16>(from, to, n, to_bfloat16);
      default: std::memcpy(to, from, n * sizeof(float));
    }
  }
}
