// What the C++ kernels take and which there are. No torch here: kernels see pointers, sizes and strides, and work on a
// range of rows, so that a caller can spread them over its own threads and a test can run them alone.
#pragma once

#include <atomic>
#include <cstdint>

#include "dtype.h"
#include "experts.h"

namespace reinmax_kernels::cpu {

// Rows of a strided tensor [..., C]. Leading dimensions that step evenly are merged, innermost first, so that
// contiguous rows have one; a dimension that is broadcast has stride 0. No data: every element is 0.
struct Rows {
  static constexpr int kMaxDims = 64;
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t category_stride = 0;  // in elements, like all strides
  int dims = 0;
  int64_t size[kMaxDims];
  int64_t stride[kMaxDims];

  // Always inlined: a copy left in an object built for a newer processor could be linked in for an older one.
  inline __attribute__((always_inline)) int64_t offset(int64_t row) const {
    if (dims <= 1) return dims == 0 ? 0 : row * stride[0];
    int64_t result = 0;
    for (int d = 0; d < dims; ++d) {
      result += row % size[d] * stride[d];
      row /= size[d];
    }
    return result;
  }
};

struct Logits {
  Rows values;
  Rows mask;  // true = allowed; no data: all allowed
  int64_t categories;
};

// Lowers `first` to `row`; the order of threads does not show.
inline void report_invalid_row(std::atomic<int64_t>& first, int64_t row) {
  int64_t seen = first.load();
  while (row < seen && !first.compare_exchange_weak(seen, row)) {
  }
}

struct SampleArguments {
  Logits logits;
  const int64_t* seeds;
  int64_t rows_per_seed;
  int64_t offset;
  int64_t row_offset;
  int64_t* index;                 // [N]
  void* one_hot = nullptr;        // [N, C] in the logits' dtype; with probs, or both absent
  bool one_hot_is_zero = false;   // already, so that only the ones need be written
  void* probs = nullptr;          // [N, C]
  double* log_sum_exp = nullptr;  // [N], absent only where one_hot and probs are
  std::atomic<int64_t>* first_invalid_row;
};

// The stream that the rows were drawn from, and how many samples of noise a backward makes from it.
struct Noise {
  const int64_t* seeds = nullptr;
  int64_t rows_per_seed = 1;
  int64_t offset = 0;
  int64_t row_offset = 0;
  int64_t samples = 0;
};

struct BackwardArguments {
  Logits logits;
  Rows grad_one_hot;
  Rows grad_probs;
  const int64_t* index;       // [N], each in [0, C)
  const double* log_sum_exp;  // [N]
  double tau;
  double gap = 0;     // of gapped straight-through
  Noise noise;        // of Gumbel-Rao
  void* grad_logits;  // [N, C] in the logits' dtype
};

// Bits, one for each logit: elements in flattened order are rows of one category.
struct BernoulliArguments {
  Rows logits;
  Rows mask;             // true = allowed; no data: all allowed
  Noise stream;          // that the bits are drawn from
  void* bits = nullptr;  // in the logits' dtype, as all below
  void* probs = nullptr;
  std::atomic<int64_t>* first_invalid = nullptr;
  Rows grad_bits;  // of a backward
  Rows grad_probs;
  Rows drawn;  // the bits
  double tau = 1;
  void* grad_logits = nullptr;
};

// Of routers experts are the categories.

struct TopkRouterArguments {
  Logits logits;
  int64_t k;
  bool sigmoid;            // of each logit, in place of the softmax of the row
  bool normalize;          // the weights of a row sum to 1
  int64_t* index;          // [N, k]: written by the forward, read by the backward, each in [0, E)
  void* weight = nullptr;  // [N, k] in the logits' dtype
  std::atomic<int64_t>* first_invalid_row = nullptr;
  Rows grad_weight;             // of the backward
  void* grad_logits = nullptr;  // [N, E] in the logits' dtype
};

struct SparseMixerArguments {
  Logits logits;
  const int64_t* seeds = nullptr;  // none: the best experts are chosen, not drawn
  int64_t rows_per_seed = 1;
  int64_t offset = 0;
  int64_t row_offset = 0;
  int64_t k;  // 1 to kMostDraws
  MixerFactor factor;
  double jitter_eps;
  int64_t* index;          // [N, k]: written by the forward, read by the backward, each in [0, E)
  double* log_sum_exp;     // [N, k], likewise
  void* weight = nullptr;  // [N, k] in the logits' dtype
  std::atomic<int64_t>* first_invalid_row = nullptr;
  Rows grad_weight;  // of the backward
  double scale = 1;
  void* grad_logits = nullptr;  // [N, E] in the logits' dtype
};

// Bytes of scratch, aligned for double, that each thread brings to a draw.
inline int64_t sample_scratch_bytes(int64_t categories) {
  constexpr int64_t kChunk = 1024;
  const int64_t chunks = (categories + kChunk - 1) / kChunk;
  return chunks * int64_t(2 * sizeof(double) + (2 + kChunk) * sizeof(float));
}

// The same for a backward: of one that makes noise, five arrays that are as long as a row of many categories, or as a
// vector of rows of few.
inline int64_t backward_scratch_bytes(const BackwardArguments& arguments) {
  constexpr int64_t kArrays = 5, kMostLanes = 64, kFewCategories = 32;
  if (arguments.noise.samples == 0) return 0;
  const int64_t categories = arguments.logits.categories;
  const int64_t elements = categories <= kFewCategories ? categories * kMostLanes : categories + kMostLanes;
  return kArrays * elements * int64_t(sizeof(double));
}

// The same for a top-k router: a block of rows, and four experts more, which fill the last tile and what aligning
// skips.
inline int64_t topk_router_scratch_bytes(int64_t experts) {
  constexpr int64_t kRows = 64, kMore = 4;
  return (experts + kMore) * kRows * int64_t(sizeof(double));
}

using Sample = void(const SampleArguments&, int64_t begin, int64_t end, void* scratch);
using Backward = void(const BackwardArguments&, int64_t begin, int64_t end, void* scratch);
using Bernoulli = void(const BernoulliArguments&, int64_t begin, int64_t end);
using SparseMixer = void(const SparseMixerArguments&, int64_t begin, int64_t end);
using TopkRouter = void(const TopkRouterArguments&, int64_t begin, int64_t end, void* scratch);

// The kernels of one SIMD level.
struct Kernels {
  const char* level;
  Sample* sample;
  Backward* reinmax_backward;
  Backward* straight_through_backward;
  Backward* gapped_straight_through_backward;
  Backward* gumbel_rao_backward;
  Bernoulli* bernoulli;
  Bernoulli* bernoulli_reinmax_backward;
  Bernoulli* bernoulli_straight_through_backward;
  Bernoulli* bernoulli_gumbel_softmax_backward;
  SparseMixer* sparse_mixer;
  SparseMixer* sparse_mixer_backward;
  TopkRouter* topk_router;
  TopkRouter* topk_router_backward;
};

// The levels this processor can run, the best last; and the one in use: the best, or what the environment variable
// REINMAX_KERNELS_SIMD names. Throws std::invalid_argument where it names no level that can run here.
struct Levels {
  const Kernels* all[3];
  int count = 0;
};
Levels available_levels();
const Kernels& kernels();

}  // namespace reinmax_kernels::cpu
