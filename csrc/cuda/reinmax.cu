// ReinMax (Liu et al., NeurIPS 2023), backward: Heun's method in place of straight-through's Euler step.
#include "cuda/backward.cuh"

namespace reinmax_kernels::cuda {

struct ReinMax {
  static constexpr bool kKnownAwayFromDrawn = true, kTakesGradDrawn = true;

  // (e + p)(g - (g_D + <p, g>) / 2) - pi (g - <pi, g>) / 2 + pi (h - <pi, h>), e the drawn one-hot.
  template <class Real>
  static __device__ Real gradient(const Point<Real>& at, const Sums<Real>& row, Real) {
    const Real e_and_p = at.is_drawn ? Real(1) + at.p : at.p;
    const Real through_sample = e_and_p * (at.g - Real(0.5) * (row.g_drawn + row.p_g));
    const Real through_probs = multiply_add(Real(-0.5), at.g - row.pi_g, at.h - row.pi_h);
    return multiply_add(at.pi, through_probs, through_sample);
  }

  template <class Real>
  static __device__ Real away_from_drawn(Real pi, Real g, Real g_drawn) {
    return pi * multiply_add(Real(0.5), g, Real(-0.5) * g_drawn);  // pi (g - g_D) / 2, one operation less
  }
};

void reinmax_backward(const BackwardArguments& arguments, void* scratch, Stream stream) {
  backward<ReinMax>(arguments, scratch, stream);
}

}  // namespace reinmax_kernels::cuda
