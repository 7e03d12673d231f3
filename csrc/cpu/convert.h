// Elements of any dtype to the type that is computed in, float or double, and back. Included once per level.

typedef uint16_t UInt16 __attribute__((vector_size(kVectorBytes / 2)));  // as many lanes as Float

REINMAX_INLINE Float from_bfloat16(UInt16 bits) { return bits_as<Float>(__builtin_convertvector(bits, UInt32) << 16); }

// To nearest, ties to even; every NaN becomes the quiet one.
REINMAX_INLINE UInt16 to_bfloat16(Float v) {
  const UInt32 bits = bits_as<UInt32>(v);
  const UInt32 rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? rounded : UInt32{} + 0x7FC0, UInt16);
}

REINMAX_INLINE Float from_float16(UInt16 bits) {
#if defined(REINMAX_LEVEL_AVX512)
  return Float(_mm512_cvtph_ps(__m256i(bits)));
#elif defined(REINMAX_LEVEL_AVX2)
  return Float(_mm256_cvtph_ps(__m128i(bits)));
#else
  Float v;
  for (int i = 0; i < Simd<float>::kLanes; ++i) v[i] = c10::detail::fp16_ieee_to_fp32_value(bits[i]);
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
  for (int i = 0; i < Simd<float>::kLanes; ++i) bits[i] = c10::detail::fp16_ieee_from_fp32_value(v[i]);
  return bits;
#endif
}

// `n` elements, a vector at a time; the last, shorter vector passes through a buffer.
template <class From, class To, class Convert>
REINMAX_INLINE void convert_each(const void* from, void* to, int64_t n, Convert convert) {
  constexpr int kLanes = Simd<float>::kLanes;
  const auto* source = static_cast<const char*>(from);
  auto* target = static_cast<char*>(to);
  constexpr int kFrom = sizeof(From) / kLanes, kTo = sizeof(To) / kLanes;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store<To>(target + i * kTo, convert(load<From>(source + i * kFrom)));
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
