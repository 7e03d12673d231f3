// What routers are bound by on every device: how many experts there are, and what SparseMixer's versions differ in.
#pragma once

#include <cstdint>

namespace reinmax_kernels {

constexpr int kMostExperts = 1024;
constexpr int kMostDraws = 2;  // of SparseMixer, for a row

// Of the probability of an expert that is not the best, unless the auxiliary uniform is above the limit.
struct MixerFactor {
  double factor = 1;
  uint64_t limit = 0;
};

constexpr MixerFactor mixer_factor(int64_t version) {
  return version == 1 ? MixerFactor{0.5, uint64_t{1} << 63} : MixerFactor{0.3333, uint64_t{3} << 62};  // 1/2, 3/4
}

}  // namespace reinmax_kernels
