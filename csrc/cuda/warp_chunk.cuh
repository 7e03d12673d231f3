// One chunk of a row, in the registers of a warp: its largest logit, its integer weights, and the draw of an element.
#pragma once

#include "cuda/weights.cuh"

namespace reinmax_kernels::cuda {

// A chunk is summed in segments, of which the drawn element's is then read once more: each lane has kSegmentLane
// adjacent elements of it.
template <int kWidth>
constexpr int kSegmentLane = kWidth > 4 ? kWidth : 4;
template <int kWidth>
constexpr int kSegment = 32 * kSegmentLane<kWidth>;
template <int kWidth>
constexpr int kSegments = contract::kChunk / kSegment<kWidth>;

// Sums of weights.
template <int kWidth>
struct SegmentSums {
  uint64_t of[kSegments<kWidth>];

  __device__ __forceinline__ uint64_t total() const {
    uint64_t sum = 0;
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) sum += of[s];
    return sum;
  }
};

// The elements from `first` on, to as many as a chunk has or to the end of the row. kShort: where the row is shorter
// than a chunk, the segments beyond it are skipped.
template <class T, int kWidth, bool kShort>
class WarpChunk {
 public:
  __device__ __forceinline__ WarpChunk(const LogitsRow<T>& row, int first, int categories, int lane)
      : count_(categories - first) {
    if (!kShort && count_ >= contract::kChunk) {
      load(row, first, lane, [](int) { return true; });
    } else {
      load(row, first, lane, [=](int j) { return j < categories; });
    }
  }

  __device__ __forceinline__ float largest() const {
    float result = -infinity<float>();
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
      if (is_beyond(s)) break;
#pragma unroll
      for (int i = 0; i < kSegmentLane<kWidth>; ++i) result = larger_or_nan(result, x_[s][i]);
    }
    return largest_or_nan(result);
  }

  __device__ __forceinline__ uint64_t total(float largest) const {
    const float reference = reference_point(largest);
    WeightSum sum;
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
#pragma unroll
      for (int i = 0; i < kSegmentLane<kWidth>; ++i) sum.add(half_weight(x_[s][i], reference));
    }
    return sum.of_warp().total(contract::kChunk);
  }

  // The elements become the halves of their weights.
  __device__ __forceinline__ SegmentSums<kWidth> weigh_segments(float largest) {
    const float reference = reference_point(largest);
    SegmentSums<kWidth> sums;
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) sums.of[s] = 0;
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
      if (is_beyond(s)) break;
      WeightSum sum;
#pragma unroll
      for (int i = 0; i < kSegmentLane<kWidth>; ++i) sum.add(x_[s][i] = half_weight(x_[s][i], reference));
      sums.of[s] = sum.of_warp().total(kSegment<kWidth>);
    }
    return sums;
  }

  // body(the first of kWidth adjacent categories, what is held of them), of those inside the row.
  template <class Body>
  __device__ __forceinline__ void visit(int first, int lane, Body body) const {
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
      if (is_beyond(s)) break;
#pragma unroll
      for (int i = 0; i < kSegmentLane<kWidth>; i += kWidth) {
        const int j = position(s, i, lane);
        Pack<float, kWidth> x;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) x[e] = x_[s][i + e];
        if (j < count_) body(first + j, x);
      }
    }
  }

 private:
  static __device__ __forceinline__ int position(int segment, int i, int lane) {
    return segment * kSegment<kWidth> + i * 32 + lane * kWidth;
  }

  __device__ __forceinline__ bool is_beyond(int segment) const { return kShort && segment * kSegment<kWidth> >= count_; }

  template <class Inside>
  __device__ __forceinline__ void load(const LogitsRow<T>& row, int first, int lane, Inside inside) {
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
      if (is_beyond(s)) break;
#pragma unroll
      for (int i = 0; i < kSegmentLane<kWidth>; i += kWidth) {
        const int j = first + position(s, i, lane);
        const auto x = row.template load<kWidth>(j, inside(j));
#pragma unroll
        for (int e = 0; e < kWidth; ++e) x_[s][i + e] = draw_value(x[e]);
      }
    }
  }

  int count_;
  float x_[kSegments<kWidth>][kSegmentLane<kWidth>];
};

// The element of a group of threads' elements, kElements adjacent ones a thread, at which the prefix sum of weights
// exceeds `target`: told to all of the group. `before` is the prefix sum before this thread's first element, `through`
// that after its last.
template <int kElements>
__device__ __forceinline__ int element_above(const float (&half_weights)[kElements], uint64_t before, uint64_t through,
                                             uint64_t target, int elements_per_thread, int rank, int threads) {
  const int first_lane = (threadIdx.x & 31) - rank;
  const unsigned above = __ballot_sync(kAllLanes, through > target) >> first_lane;
  const int chosen = above == 0 ? 0 : __ffs(int(above)) - 1;
  const int position = rank * elements_per_thread + first_above(half_weights, before, target);
  return __shfl_sync(kAllLanes, position, first_lane + chosen);
}

// The category of a row that is drawn from the chunk from `first` on, whose weights have these sums.
template <class T, int kWidth>
__device__ __forceinline__ int draw_from_chunk(const LogitsRow<T>& row, int first, int categories, float largest,
                                               const SegmentSums<kWidth>& sums, uint64_t target, int lane) {
  constexpr int kElements = kSegmentLane<kWidth>;
  uint64_t before = 0, through = 0;
  int segment = 0;
#pragma unroll
  for (int s = 0; s < kSegments<kWidth> - 1; ++s) {
    through += sums.of[s];
    segment += through <= target;
    before = through <= target ? through : before;
  }
  const float reference = reference_point(largest);
  const int start = first + segment * kSegment<kWidth>;
  float half_weights[kElements];
  WeightSum sum;
#pragma unroll
  for (int i = 0; i < kElements; i += kWidth) {
    const int j = start + lane * kElements + i;
    const auto x = row.template load<kWidth>(j, j < categories);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      half_weights[i + e] = half_weight(draw_value(x[e]), reference);
      sum.add(half_weights[i + e]);
    }
  }
  const uint64_t own = sum.total(kElements);
  const uint64_t to_here = before + inclusive_sum(own, lane, 32);
  return start + element_above(half_weights, to_here - own, to_here, target, kElements, lane, 32);
}

}  // namespace reinmax_kernels::cuda
