// The op table as it is, but for CPU tensors: its kernels run on an interpreter, which has the host's memory for its
// own.
#include "cuda/device.h"
#include "cuda/operands.h"
#include "tensors.h"

#define CUDA CPU
#include "cuda/bernoulli_ops.cpp"
#include "cuda/ops.cpp"
