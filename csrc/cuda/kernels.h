// What the CUDA kernels take, and how they are launched. Neither torch nor CUDA here: a caller sees pointers on the
// device, sizes and strides. Launchers return before the kernels have run, and throw where a launch fails.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace reinmax_kernels::cuda {

using Stream = void*;  // a cudaStream_t

// The rows of a tensor [..., C] that is broadcast to the logits' shape: row i begins at
// (i / inner) outer_stride + (i % inner) inner_stride, where `inner` is the same for all tensors of a kernel, and 1 where
// rows step evenly. Strides count elements; a dimension that is broadcast has stride 0. No data: there is no such tensor.
struct Rows {
  const void* data = nullptr;
  int64_t outer_stride = 0;
  int64_t inner_stride = 0;
  int64_t category_stride = 1;
};

struct Logits {
  Rows values;
  Rows mask;  // bool, true = allowed; no data: all allowed
  int64_t rows = 0;
  int64_t categories = 0;  // 1 to 2^23
  int64_t inner = 1;
  DType dtype = DType::kFloat32;
};

struct SampleArguments {
  Logits logits;
  const int64_t* seeds = nullptr;
  int64_t rows_per_seed = 0;
  uint64_t offset = 0;
  uint64_t row_offset = 0;
  int64_t* index = nullptr;       // [N]
  void* one_hot = nullptr;        // [N, C] in the logits' dtype; with probs and log_sum_exp, or all three absent
  void* probs = nullptr;          // [N, C]
  double* log_sum_exp = nullptr;  // [N]
};

struct BackwardArguments {
  Logits logits;
  Rows grad_one_hot;  // in the logits' dtype, as is grad_probs; no data: all 0
  Rows grad_probs;
  const int64_t* index = nullptr;       // [N], each in [0, C)
  const double* log_sum_exp = nullptr;  // [N]
  const double* tau = nullptr;          // one number on the device; absent: 1
  void* grad_logits = nullptr;          // [N, C] in the logits' dtype
};

// Bytes of scratch on the device, aligned to 16, that a launch needs until the kernels have run; often 0.
int64_t sample_scratch_bytes(const SampleArguments& arguments);
int64_t backward_scratch_bytes(const BackwardArguments& arguments);

void sample(const SampleArguments& arguments, void* scratch, Stream stream);
void reinmax_backward(const BackwardArguments& arguments, void* scratch, Stream stream);
void straight_through_backward(const BackwardArguments& arguments, void* scratch, Stream stream);

}  // namespace reinmax_kernels::cuda
