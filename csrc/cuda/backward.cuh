// From an estimator's formula to its kernels: which of them a call takes, and with how many threads.
#pragma once

#include <algorithm>

#include "cuda/alignment.h"
#include "cuda/backward_lanes.cuh"
#include "cuda/backward_long.cuh"
#include "cuda/backward_medium.cuh"
#include "cuda/backward_short.cuh"
#include "cuda/parts.h"

namespace reinmax_kernels::cuda {

constexpr int kRowsOfBlock = 2;  // that have a warp each: few, for the next block waits for the last of them

// So many warps to a row, or as many rows to a block.
struct Shape {
  Warps warps;
  int threads;
  unsigned blocks;

  Shape(int64_t rows, int64_t warps_of_row)
      : warps{int(warps_of_row)},
        threads((warps.count == 1 ? kRowsOfBlock : warps.count) * kWarp),
        blocks(unsigned(warps.count == 1 ? ceil_divide(rows, kRowsOfBlock) : rows)) {}
};

// That loop over a row: few, so that their reductions cost little, unless it takes more of them to occupy the device.
inline int64_t looping_warps(const Logits& logits, int elements_of_warp) {
  constexpr int kMostLoops = 8;
  const int64_t most = ceil_divide(logits.categories, elements_of_warp), least = ceil_divide(most, kMostLoops);
  const int64_t occupying = ceil_divide(int64_t{2 * kOccupyingWarps} * processors(), logits.rows);
  return std::min<int64_t>({kLongBackwardWarps, most, std::max(least, occupying)});
}

// Whether two rows are more than a processor's own cache holds: then it has one at a time, to find there what it reads
// again.
inline bool fills_cache(const BackwardArguments& arguments) {
  constexpr int64_t kCacheOfRow = 96 * 1024;  // half of the smallest
  const Logits& logits = arguments.logits;
  const int tensors = 1 + (arguments.grad_one_hot.data != nullptr) + (arguments.grad_probs.data != nullptr);
  return tensors * logits.categories * size_of(logits.dtype) > kCacheOfRow;
}

template <class Estimator, class T, Relaxation kRelaxation>
void backward_short(const BackwardArguments& arguments, Stream stream) {
  const Logits& logits = arguments.logits;
  Lanes group{0};
  while ((kShortBackwardElements<T> << group.log2) < logits.categories) ++group.log2;
  const dim3 grid(unsigned(ceil_divide(logits.rows, kShortThreads >> group.log2)));
  const auto kernel = are_packed(arguments) ? backward_short_kernel<Estimator, T, true, kRelaxation>
                                            : backward_short_kernel<Estimator, T, false, kRelaxation>;
  launch(kernel, grid, kShortThreads, 0, stream, arguments, group);
}

template <class Estimator, class T, Relaxation kRelaxation>
void backward_lanes(const BackwardArguments& arguments, Stream stream) {
  const Logits& logits = arguments.logits;
  Lanes group{0};
  while ((kWidest<T> << group.log2) < logits.categories) ++group.log2;
  const dim3 grid(unsigned(ceil_divide(logits.rows, kLanesThreads >> group.log2)));
  launch(backward_lanes_kernel<Estimator, T, kRelaxation>, grid, kLanesThreads, 0, stream, arguments, group);
}

template <class Estimator, class T, int kWidth, Relaxation kRelaxation, bool kGradProbs,
          int kElements = kHeld<T, kWidth, kGradProbs>>
void backward_medium(const BackwardArguments& arguments, Stream stream) {
  const Logits& logits = arguments.logits;
  const Shape shape(logits.rows, ceil_divide(logits.categories, kElements * kWarp));
  const auto kernel = backward_medium_kernel<Estimator, T, kWidth, kRelaxation, kGradProbs, kElements>;
  launch(kernel, dim3(shape.blocks), shape.threads, 0, stream, arguments, shape.warps);
}

template <class Estimator, class T, int kWidth, Relaxation kRelaxation, bool kAway>
void backward_long(const BackwardArguments& arguments, void* scratch, Stream stream) {
  const Logits& logits = arguments.logits;
  const Parts parts = parts_of(logits, scratch);
  const bool is_alone = !kAway && parts.count == 1 && fills_cache(arguments);
  const Shape shape(logits.rows, is_alone ? kMostWarps : looping_warps(logits, kHeld<T, kWidth, true> * kWarp));
  const auto launch_step = [&](Step step, int parts_that_work) {
    const auto kernel = backward_long_kernel<Estimator, T, kWidth, kRelaxation, kAway>;
    const dim3 grid(shape.blocks, unsigned(parts_that_work));
    launch(kernel, grid, shape.threads, 0, stream, arguments, shape.warps, parts, step);
  };
  if (parts.count == 1) return launch_step(Step::kAll, 1);
  if (kRelaxation == Relaxation::kGapped) launch_step(Step::kLargest, parts.count);
  launch_step(Step::kSum, parts.count);
  launch_step(Step::kWrite, kAway ? 1 : parts.count);
}

template <class Estimator, class T, int kWidth, Relaxation kRelaxation>
void backward_beyond_short(const BackwardArguments& arguments, void* scratch, Stream stream) {
  const int64_t categories = arguments.logits.categories;
  if (arguments.grad_probs.data == nullptr) {
    if constexpr (Estimator::kKnownAwayFromDrawn && kRelaxation == Relaxation::kNone) {
      constexpr int kMostHeld = 1024;  // of what could be in a loop, whose few accesses would come one after the other
      if (categories > kMostHeld || !kHoldsMoreWithoutGradProbs<T, kWidth>) {
        return backward_long<Estimator, T, kWidth, kRelaxation, true>(arguments, scratch, stream);
      }
    }
    if constexpr (kHoldsMoreWithoutGradProbs<T, kWidth>) {
      constexpr int kFew = kHeld<T, kWidth, true>;  // where else a warp would have registers for two rows
      if (categories <= kFew * kWarp) {
        return backward_medium<Estimator, T, kWidth, kRelaxation, false, kFew>(arguments, stream);
      }
      if (categories <= kHeld<T, kWidth, false> * kMostWarps * kWarp) {
        return backward_medium<Estimator, T, kWidth, kRelaxation, false>(arguments, stream);
      }
    }
  }
  if (categories <= kHeld<T, kWidth, true> * kMostWarps * kWarp) {
    return backward_medium<Estimator, T, kWidth, kRelaxation, true>(arguments, stream);
  }
  backward_long<Estimator, T, kWidth, kRelaxation, false>(arguments, scratch, stream);
}

template <class Estimator, class T, Relaxation kRelaxation>
void backward_rows(const BackwardArguments& arguments, void* scratch, Stream stream) {
  if (arguments.logits.categories <= kMostOfLanes<T> && are_wide<T>(arguments)) {
    backward_lanes<Estimator, T, kRelaxation>(arguments, stream);
  } else if (arguments.logits.categories <= kMostShort) {
    backward_short<Estimator, T, kRelaxation>(arguments, stream);
  } else if (are_aligned_alike(arguments)) {
    backward_beyond_short<Estimator, T, kWidest<T>, kRelaxation>(arguments, scratch, stream);
  } else {
    backward_beyond_short<Estimator, T, 1, kRelaxation>(arguments, scratch, stream);
  }
}

template <class Estimator, Relaxation kRelaxation>
void backward_relaxed(const BackwardArguments& arguments, void* scratch, Stream stream) {
  if (arguments.logits.rows == 0) return;
  dispatch(arguments.logits.dtype,
           [&](auto zero) { backward_rows<Estimator, decltype(zero), kRelaxation>(arguments, scratch, stream); });
}

template <class Estimator>
void backward(const BackwardArguments& arguments, void* scratch, Stream stream) {
  if (arguments.tau == nullptr) {
    backward_relaxed<Estimator, Relaxation::kNone>(arguments, scratch, stream);
  } else {
    backward_relaxed<Estimator, Relaxation::kTempered>(arguments, scratch, stream);
  }
}

}  // namespace reinmax_kernels::cuda
