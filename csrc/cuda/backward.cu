// Scratch of a backward, whichever estimator.
#include "cuda/parts.h"

namespace reinmax_kernels::cuda {

int64_t backward_scratch_bytes(const BackwardArguments& arguments) {
  const Logits& logits = arguments.logits;
  const int64_t parts = logits.rows == 0 ? 1 : parts_of(logits, nullptr).count;
  const int64_t bytes = logits.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  return parts == 1 ? 0 : kPartialSums * parts * logits.rows * bytes;
}

}  // namespace reinmax_kernels::cuda
