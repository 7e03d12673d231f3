// The kernels for AVX2, FMA and F16C: x86-64-v3.
#if defined(__x86_64__)
#include "cpu/level_includes.h"

#define REINMAX_LEVEL avx2
#define REINMAX_LEVEL_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include "cpu/level.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
