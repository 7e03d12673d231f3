// Gapped straight-through (Fan et al., ICML 2022), backward: straight-through with the softmax of logits that were
// moved until the draw leads them, the drawn one to the largest, and every other one to `gap` below it at least.
#include "cuda/straight_through.cuh"

namespace reinmax_kernels::cuda {

void gapped_straight_through_backward(const BackwardArguments& arguments, void* scratch, Stream stream) {
  backward_relaxed<StraightThrough, Relaxation::kGapped>(arguments, scratch, stream);
}

}  // namespace reinmax_kernels::cuda
