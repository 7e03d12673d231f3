// Comes before the text of csrc/cuda's .cpp files, and makes their op tables ones for CPU tensors: kernels that run on an
// interpreter have the host's memory for their own. Headers first, which may say CUDA and mean it.
#pragma once

#include "cuda/device.h"
#include "cuda/operands.h"
#include "tensors.h"

#define CUDA CPU
