// Straight-through's formula: the drawn one-hot as if it were its relaxation p (Bengio et al., 2013).
#pragma once

#include "cuda/backward.cuh"

namespace reinmax_kernels::cuda {

struct StraightThrough {
  static constexpr bool kKnownAwayFromDrawn = false, kTakesGradDrawn = false;

  // p (g - <p, g>) / tau + pi (h - <pi, h>).
  template <class Real>
  static __device__ Real gradient(const Point<Real>& at, const Sums<Real>& row, Real inverse_tau) {
    return multiply_add(at.pi, at.h - row.pi_h, at.p * (at.g - row.p_g) * inverse_tau);
  }
};

}  // namespace reinmax_kernels::cuda
