// The AVX-512 intrinsics that the kernels use, on AVX2: each in two halves, or lane by lane. They replace the
// compiler's own of that name, so that csrc/cpu compiles as it stands. Included after the level's instructions are
// switched on.
#pragma once

#include <cstring>

namespace reinmax_kernels::cpu::in_halves {

#define REINMAX_HALVES static inline __attribute__((always_inline))

template <class Half, class Whole>
REINMAX_HALVES Half half(const Whole& whole, int which) {
  static_assert(sizeof(Whole) == 2 * sizeof(Half));
  Half result;
  std::memcpy(&result, reinterpret_cast<const char*>(&whole) + which * sizeof(Half), sizeof(Half));
  return result;
}

template <class Whole, class Half>
REINMAX_HALVES Whole join(Half low, Half high) {
  const Half halves[2] = {low, high};
  Whole result;
  static_assert(sizeof(result) == sizeof(halves));
  std::memcpy(&result, halves, sizeof(result));
  return result;
}

REINMAX_HALVES __m512i mul_epu32(const __m512i& a, const __m512i& b) {
  return join<__m512i>(_mm256_mul_epu32(half<__m256i>(a, 0), half<__m256i>(b, 0)),
                       _mm256_mul_epu32(half<__m256i>(a, 1), half<__m256i>(b, 1)));
}

REINMAX_HALVES __m512 fmadd_ps(const __m512& a, const __m512& b, const __m512& c) {
  return join<__m512>(_mm256_fmadd_ps(half<__m256>(a, 0), half<__m256>(b, 0), half<__m256>(c, 0)),
                      _mm256_fmadd_ps(half<__m256>(a, 1), half<__m256>(b, 1), half<__m256>(c, 1)));
}

REINMAX_HALVES __m512 max_ps(const __m512& a, const __m512& b) {
  return join<__m512>(_mm256_max_ps(half<__m256>(a, 0), half<__m256>(b, 0)),
                      _mm256_max_ps(half<__m256>(a, 1), half<__m256>(b, 1)));
}

template <int kMode>
REINMAX_HALVES __m512 roundscale_ps(const __m512& v) {
  static_assert(kMode >> 4 == 0, "AVX2 rounds to whole numbers alone");
  return join<__m512>(_mm256_round_ps(half<__m256>(v, 0), kMode), _mm256_round_ps(half<__m256>(v, 1), kMode));
}

REINMAX_HALVES __m512 cvtph_ps(const __m256i& v) {
  return join<__m512>(_mm256_cvtph_ps(half<__m128i>(v, 0)), _mm256_cvtph_ps(half<__m128i>(v, 1)));
}

template <int kMode>
REINMAX_HALVES __m256i cvtps_ph(const __m512& v) {
  return join<__m256i>(_mm256_cvtps_ph(half<__m256>(v, 0), kMode), _mm256_cvtps_ph(half<__m256>(v, 1), kMode));
}

REINMAX_HALVES __m512i cvtepu16_epi32(const __m256i& v) {
  return join<__m512i>(_mm256_cvtepu16_epi32(half<__m128i>(v, 0)), _mm256_cvtepu16_epi32(half<__m128i>(v, 1)));
}

// The low half of each lane; _mm256_packus_epi32 would saturate instead.
REINMAX_HALVES __m256i cvtepi32_epi16(const __m512i& v) {
  uint32_t wide[16];
  uint16_t narrow[16];
  std::memcpy(wide, &v, sizeof(wide));
  for (int i = 0; i < 16; ++i) narrow[i] = uint16_t(wide[i]);
  __m256i result;
  std::memcpy(&result, narrow, sizeof(result));
  return result;
}

// Touches no element that the mask leaves out, as the instruction.
template <class Vector, class Element, class Mask>
REINMAX_HALVES Vector mask_loadu(const Vector& others, Mask mask, const Element* from) {
  Element lanes[sizeof(Vector) / sizeof(Element)];
  std::memcpy(lanes, &others, sizeof(lanes));
  for (int i = 0; i < int(sizeof(Vector) / sizeof(Element)); ++i) {
    if (mask >> i & 1) lanes[i] = from[i];
  }
  Vector result;
  std::memcpy(&result, lanes, sizeof(result));
  return result;
}

template <class Vector, class Element>
REINMAX_HALVES Vector set1(Element value) {
  return Vector{} + value;
}

#undef REINMAX_HALVES

}  // namespace reinmax_kernels::cpu::in_halves

#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_fmadd_ps
#undef _mm512_mask_loadu_pd
#undef _mm512_mask_loadu_ps
#undef _mm512_max_ps
#undef _mm512_mul_epu32
#undef _mm512_roundscale_ps
#undef _mm512_set1_pd
#undef _mm512_set1_ps
#define _mm512_cvtepi32_epi16 in_halves::cvtepi32_epi16
#define _mm512_cvtepu16_epi32 in_halves::cvtepu16_epi32
#define _mm512_cvtph_ps in_halves::cvtph_ps
#define _mm512_cvtps_ph(v, mode) in_halves::cvtps_ph<(mode)>(v)
#define _mm512_fmadd_ps in_halves::fmadd_ps
#define _mm512_mask_loadu_pd in_halves::mask_loadu
#define _mm512_mask_loadu_ps in_halves::mask_loadu
#define _mm512_max_ps in_halves::max_ps
#define _mm512_mul_epu32 in_halves::mul_epu32
#define _mm512_roundscale_ps(v, mode) in_halves::roundscale_ps<(mode)>(v)
#define _mm512_set1_pd in_halves::set1<__m512d>
#define _mm512_set1_ps in_halves::set1<__m512>
