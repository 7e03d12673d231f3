// The kernels' logarithm of floats by itself, for tests: every level computes it in the same operations.
#include "cpu/level_includes.h"
#include "contract.h"

namespace reinmax_kernels::cpu::alone {
#define REINMAX_LEVEL alone
#include "cpu/simd.h"
#include "cpu/logarithm.h"
}  // namespace reinmax_kernels::cpu::alone

// `n` is a multiple of the lanes.
void float_logarithms(const float* v, int64_t n, float* result) {
  using namespace reinmax_kernels::cpu::alone;
  constexpr int kLanes = kRegisterLanes<float>;
  for (int64_t i = 0; i < n; i += kLanes) store_register(result + i, log(load_register<Register<float>>(v + i)));
}
