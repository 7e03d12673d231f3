// The kernels for whatever the compiler targets by default: SSE2 on x86-64, NEON on arm64.
#include "cpu/level_includes.h"

#define REINMAX_LEVEL baseline
#define REINMAX_LEVEL_BASELINE
#include "cpu/level.inc"
