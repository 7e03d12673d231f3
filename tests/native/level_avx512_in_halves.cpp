// The AVX-512 level's text on a processor that has AVX2 alone, for tests: packs of 64 lanes, one pack a group of
// weights, 16-lane tails and their masks. The compiler splits each 64-byte vector in two. What this can't show is what
// the instructions themselves do: theirs is the level `avx512`, on a processor that has them.
#if defined(__x86_64__)
#include "cpu/level_includes.h"

#define REINMAX_LEVEL avx512_in_halves
#define REINMAX_LEVEL_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include "avx512_in_halves.h"
#include "cpu/level.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
