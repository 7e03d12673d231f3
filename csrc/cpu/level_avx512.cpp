// The kernels for AVX-512 F, BW, DQ and VL: x86-64-v4.
#if defined(__x86_64__)
#include "cpu/level_includes.h"

#define REINMAX_LEVEL avx512
#define REINMAX_LEVEL_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#include "cpu/level.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
