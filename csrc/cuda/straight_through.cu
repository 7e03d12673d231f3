// Straight-through, backward: the sampled one-hot as if it were softmax(x / tau) (Bengio et al., 2013).
#include "cuda/backward.cuh"

namespace reinmax_kernels::cuda {

struct StraightThrough {
  static constexpr bool kKnownAwayFromDrawn = false;

  // p (g - <p, g>) / tau + pi (h - <pi, h>).
  template <class Real>
  static __device__ Real gradient(const Point<Real>& at, const Sums<Real>& row, Real inverse_tau) {
    return multiply_add(at.pi, at.h - row.pi_h, at.p * (at.g - row.p_g) * inverse_tau);
  }
};

void straight_through_backward(const BackwardArguments& arguments, void* scratch, Stream stream) {
  backward<StraightThrough>(arguments, scratch, stream);
}

}  // namespace reinmax_kernels::cuda
