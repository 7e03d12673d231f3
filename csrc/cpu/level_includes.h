// Headers that a level's kernels use. They come before the level's instructions are switched on, so that no inline
// function of a library is compiled for them and then linked in where a processor lacks them.
#pragma once

#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cpu/kernels.h"
