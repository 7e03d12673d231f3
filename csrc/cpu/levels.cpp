// Which SIMD level runs: decided once, from the processor and the environment.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace reinmax_kernels::cpu {

namespace baseline {
extern const Kernels kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#endif

Levels available_levels() {
  Levels levels;
  levels.all[levels.count++] = &baseline::kKernels;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2) levels.all[levels.count++] = &avx2::kKernels;
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    levels.all[levels.count++] = &avx512::kKernels;
  }
#endif
  return levels;
}

static const Kernels& choose() {
  const Levels levels = available_levels();
  const char* wanted = std::getenv("REINMAX_KERNELS_SIMD");
  if (wanted == nullptr || *wanted == '\0') return *levels.all[levels.count - 1];
  std::string names;
  for (int i = 0; i < levels.count; ++i) {
    if (std::string(wanted) == levels.all[i]->level) return *levels.all[i];
    names += (i ? ", " : "") + std::string(levels.all[i]->level);
  }
  throw std::invalid_argument("REINMAX_KERNELS_SIMD: expected one of " + names + " on this processor; got '" + wanted +
                              "'");
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace reinmax_kernels::cpu
