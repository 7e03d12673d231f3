// Straight-through, backward: the drawn one-hot as if it were softmax(x / tau).
#include "cuda/straight_through.cuh"

namespace reinmax_kernels::cuda {

void straight_through_backward(const BackwardArguments& arguments, void* scratch, Stream stream) {
  backward<StraightThrough>(arguments, scratch, stream);
}

}  // namespace reinmax_kernels::cuda
