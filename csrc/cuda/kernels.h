// What the CUDA kernels take, and how they are launched. Neither torch nor CUDA here: a caller sees pointers on the
// device, sizes and strides. Launchers return before the kernels have run, and throw where a launch fails.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "experts.h"

namespace reinmax_kernels::cuda {

using Stream = void*;  // a cudaStream_t

// The rows of a tensor [..., C] that is broadcast to the logits' shape: row i begins at
// (i / inner) outer_stride + (i % inner) inner_stride, where `inner` is the same for all tensors of a kernel, and 1
// where rows step evenly. Strides count elements; a dimension that is broadcast has stride 0. No data: there is no such
// tensor.
struct Rows {
  const void* data = nullptr;
  int64_t outer_stride = 0;
  int64_t inner_stride = 0;
  int64_t category_stride = 1;
};

// A number to divide by, which on the device is slow where it is not prepared: Granlund, Montgomery: "Division
// by invariant integers using multiplication", PLDI 1994.
class Divisor {
 public:
  Divisor(int64_t value) : value_(value) {  // an integer, wherever one is given or asked for
    if (value == 0) return;                 // of no rows, where nothing is divided
    while (shift_ < 63 && int64_t(uint64_t{1} << shift_) < value) ++shift_;
    __extension__ typedef unsigned __int128 Wide;
    const uint64_t missing = (uint64_t{1} << shift_) - uint64_t(value);
    factor_ = uint64_t((Wide(missing) << 64) / uint64_t(value)) + 1;
  }

  operator int64_t() const { return value_; }

#if defined(__CUDACC__)
  // n / value, for n >= 0.
  __device__ __forceinline__ int64_t divide(int64_t n) const {
    return int64_t((__umul64hi(uint64_t(n), factor_) + uint64_t(n)) >> shift_);
  }

  __device__ __forceinline__ int64_t value() const { return value_; }
#endif

 private:
  int64_t value_;
  uint64_t factor_ = 0;
  int shift_ = 0;
};

struct Logits {
  Rows values;  // with a category stride of 1, as the mask
  Rows mask;    // bool, true = allowed; no data: all allowed
  int64_t rows = 0;
  int64_t categories = 0;  // 1 to 2^23
  Divisor inner = 1;
  DType dtype = DType::kFloat32;
};

struct SampleArguments {
  Logits logits;
  const int64_t* seeds = nullptr;
  Divisor rows_per_seed = 1;
  uint64_t offset = 0;
  uint64_t row_offset = 0;
  int64_t* index = nullptr;       // [N]
  void* one_hot = nullptr;        // [N, C] in the logits' dtype; with probs and log_sum_exp, or all three absent
  void* probs = nullptr;          // [N, C]
  double* log_sum_exp = nullptr;  // [N]
};

// The stream that the rows were drawn from, and how many samples of noise a backward makes from it.
struct Noise {
  const int64_t* seeds = nullptr;
  Divisor rows_per_seed = 1;
  uint64_t offset = 0;
  uint64_t mixed_offset = 0;  // what the keys of noise have of it
  uint64_t row_offset = 0;
  int64_t samples = 0;  // below 2^32
};

struct BackwardArguments {
  Logits logits;
  Rows grad_one_hot;  // in the logits' dtype, as is grad_probs; no data: all 0
  Rows grad_probs;
  const int64_t* index = nullptr;       // [N], each in [0, C)
  const double* log_sum_exp = nullptr;  // [N]
  const double* tau = nullptr;          // one number on the device; absent: 1
  double gap = 0;                       // of gapped straight-through
  Noise noise;                          // of Gumbel-Rao
  void* grad_logits = nullptr;          // [N, C] in the logits' dtype
};

// Of routers experts are the categories, and what they give for the rows is [N, k].

struct SparseMixerArguments {
  Logits logits;
  const int64_t* seeds = nullptr;  // none: the best experts are chosen, not drawn
  Divisor rows_per_seed = 1;
  uint64_t offset = 0;
  uint64_t row_offset = 0;
  int k = 1;                // 1 to kMostDraws
  double jitter_limit = 0;  // twice epsilon
  MixerFactor factor;
  int64_t* index = nullptr;
  void* weight = nullptr;         // in the logits' dtype
  double* log_sum_exp = nullptr;  // of what each expert was drawn from
};

struct SparseMixerBackwardArguments {
  Logits logits;
  const void* grad_weight = nullptr;  // in the logits' dtype
  const int64_t* index = nullptr;     // each in [0, E)
  const double* log_sum_exp = nullptr;
  int k = 1;
  double jitter_limit = 0;
  double scale = 1;
  void* grad_logits = nullptr;  // [N, E] in the logits' dtype
};

struct TopkRouterArguments {
  Logits logits;
  int k = 1;  // 1 to E
  bool sigmoid = false;
  bool normalize = false;
  int64_t* index = nullptr;
  void* weight = nullptr;  // in the logits' dtype
};

struct TopkRouterBackwardArguments {
  Logits logits;
  const void* grad_weight = nullptr;  // in the logits' dtype
  const int64_t* index = nullptr;     // each in [0, E), those of a row different
  int k = 1;
  bool sigmoid = false;
  bool normalize = false;
  void* grad_logits = nullptr;  // [N, E] in the logits' dtype
};

// The elements of a tensor that is broadcast to the logits' shape, in flattened order: they lie as the rows of `Rows`.
struct Elements {
  const void* data = nullptr;
  int64_t outer_stride = 0;
  int64_t inner_stride = 0;
  bool adjacent = false;  // one after the other, from where on an access may be as wide as one of 16 bytes of logits
};

struct BernoulliArguments {
  Elements logits;
  Elements mask;  // bool
  int64_t count = 0;
  Divisor inner = 1;
  DType dtype = DType::kFloat32;
  Noise noise;           // whose rows are elements: of the draw, and of an estimator that makes one sample
  void* bits = nullptr;  // of the draw, in the logits' dtype, contiguous and aligned to 16 bytes as all that is written
  void* probs = nullptr;  // of the draw
  Elements grad_bits;     // in the logits' dtype, as are all that follow
  Elements grad_probs;
  Elements drawn;
  const double* tau = nullptr;  // as of `BackwardArguments`
  void* grad_logits = nullptr;
};

// Lists of assignments, at least one, and what they get, each in one piece.
struct DispatchPlanArguments {
  const int64_t* index = nullptr;  // [lists, length]
  int64_t lists = 0, length = 0, experts = 0;
  int64_t* counts = nullptr;   // [lists, experts]
  int64_t* order = nullptr;    // [lists, length]; absent: experts are counted, and nothing else
  int64_t* inverse = nullptr;  // [lists, length]
};

struct CodebookGradientArguments {
  Logits vectors;                  // the gradients of the rows' vectors, [N, d]
  const int64_t* index = nullptr;  // [N]
  int64_t codes = 0;
  void* grad_codebook = nullptr;  // [codes, d] in the vectors' dtype
};

// Bytes of scratch on the device, aligned to 16, that a launch needs until the kernels have run; often 0.
int64_t sample_scratch_bytes(const SampleArguments& arguments);
int64_t backward_scratch_bytes(const BackwardArguments& arguments);
int64_t gumbel_rao_scratch_bytes(const BackwardArguments& arguments);  // backward_scratch_bytes is for all others
int64_t dispatch_plan_scratch_bytes(const DispatchPlanArguments& arguments);
int64_t codebook_gradient_scratch_bytes(const CodebookGradientArguments& arguments);

void sample(const SampleArguments& arguments, void* scratch, Stream stream);
void reinmax_backward(const BackwardArguments& arguments, void* scratch, Stream stream);
void straight_through_backward(const BackwardArguments& arguments, void* scratch, Stream stream);
void gapped_straight_through_backward(const BackwardArguments& arguments, void* scratch, Stream stream);
void gumbel_rao_backward(const BackwardArguments& arguments, void* scratch, Stream stream);
void sparse_mixer(const SparseMixerArguments& arguments, Stream stream);
void sparse_mixer_backward(const SparseMixerBackwardArguments& arguments, Stream stream);
void topk_router(const TopkRouterArguments& arguments, Stream stream);
void topk_router_backward(const TopkRouterBackwardArguments& arguments, Stream stream);
void dispatch_plan(const DispatchPlanArguments& arguments, void* scratch, Stream stream);
void codebook_gradient(const CodebookGradientArguments& arguments, void* scratch, Stream stream);

void bernoulli(const BernoulliArguments& arguments, Stream stream);
void bernoulli_reinmax_backward(const BernoulliArguments& arguments, Stream stream);
void bernoulli_straight_through_backward(const BernoulliArguments& arguments, Stream stream);
void bernoulli_gumbel_softmax_backward(const BernoulliArguments& arguments, Stream stream);

}  // namespace reinmax_kernels::cuda
