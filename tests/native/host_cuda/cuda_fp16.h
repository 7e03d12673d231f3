// float16, as its bits.
#pragma once

#include "cuda_runtime.h"

struct __half {
  unsigned short bits;
};
struct __half2 {
  __half x, y;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

inline float __half2float(__half h) {
  const int exponent = h.bits >> 10 & 0x1F, fraction = h.bits & 0x3FF;
  const float sign = h.bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 0x1F) return fraction == 0 ? sign * INFINITY : NAN;
  return sign * ldexpf(float(exponent == 0 ? fraction : fraction + 0x400), (exponent == 0 ? 1 : exponent) - 25);
}

// To nearest, ties to even.
inline __half __float2half_rn(float x) {
  if (isnan(x)) return {0x7FFF};
  const unsigned sign = signbit(x) ? 0x8000 : 0;
  if (x == 0) return {static_cast<unsigned short>(sign)};
  if (fabsf(x) >= 65520.0f) return {static_cast<unsigned short>(sign | 0x7C00)};
  int exponent;
  frexpf(x, &exponent);
  const int of_unit = exponent < -13 ? -24 : exponent - 11;  // of the last place
  const unsigned units = unsigned(nearbyintf(ldexpf(fabsf(x), -of_unit)));
  return {static_cast<unsigned short>(sign | ((unsigned(of_unit + 24) << 10) + units))};
}

inline __half __hmax_nan(__half a, __half b) {
  const float x = __half2float(a), y = __half2float(b);
  return isnan(x) || isnan(y) ? __half{0x7FFF} : x < y ? b : a;
}
inline __half2 __hmax2_nan(__half2 a, __half2 b) { return {__hmax_nan(a.x, b.x), __hmax_nan(a.y, b.y)}; }
