// One chunk of a row, in the registers of a warp: its largest logit, its integer weights, and the draw of an element.
#pragma once

#include "cuda/weights.cuh"

namespace reinmax_kernels::cuda {

// A chunk is weighed in segments, of which the drawn element's is then read once more: each lane has kSegmentLane
// adjacent elements of it.
template <int kWidth>
constexpr int kSegmentLane = kWidth > 4 ? kWidth : 4;
template <int kWidth>
constexpr int kSegment = 32 * kSegmentLane<kWidth>;
template <int kWidth>
constexpr int kSegments = contract::kChunk / kSegment<kWidth>;

// Which chunks: those without a mask that end before the row does; any; or any, one segment after the other, of which
// those beyond the row are skipped.
enum class ChunkKind { kWhole, kAny, kBySegment };

// Pairs of two-byte elements stay packed while the largest is looked for, which so takes half the instructions.
template <class T, int kWidth>
constexpr bool kPairs = sizeof(T) == 2 && kWidth > 1;

__device__ __forceinline__ __half2 larger_or_nan(__half2 a, __half2 b) { return __hmax2_nan(a, b); }
__device__ __forceinline__ __nv_bfloat162 larger_or_nan(__nv_bfloat162 a, __nv_bfloat162 b) {
  return __hmax2_nan(a, b);
}

template <class T>
using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;

// The warps among which the segments of a chunk are shared out, and which of them this is.
struct Sharers {
  int warp = 0, warps = 1;

  __device__ __forceinline__ bool has(int segment) const { return segment % warps == warp; }
};

// The elements from `first` on, to as many as a chunk has or to the end of the row; by segment, those that this warp
// has.
template <class T, int kWidth, ChunkKind kKind>
class WarpChunk {
  using Held = std::conditional_t<kPairs<T, kWidth>, T, float>;

 public:
  __device__ __forceinline__ WarpChunk(const LogitsRow<T>& row, int first, int categories, int lane,
                                       const Sharers& sharers = {})
      : count_(categories - first), sharers_(sharers) {
    const bool unmasked = row.mask.start == nullptr;
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
      if (is_beyond(s)) break;
      if (kKind == ChunkKind::kBySegment && !sharers_.has(s)) continue;
      if (kKind == ChunkKind::kWhole ||
          (kKind == ChunkKind::kBySegment && unmasked && (s + 1) * kSegment<kWidth> <= count_)) {
        load(row, first, s, lane, true);
      } else {
        load(row, first, s, lane, false);
      }
    }
  }

  __device__ __forceinline__ float largest() const {
    using Compared = std::conditional_t<kPairs<T, kWidth>, Pair<T>, float>;
    constexpr int kCompared = int(sizeof(Compared) / sizeof(Held));
    Pack<Held, kCompared> result;
    result.fill(minus_infinity<Held>());
    Compared so_far;
    memcpy(&so_far, &result, sizeof(so_far));
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
      if (is_beyond(s)) break;
#pragma unroll
      for (int i = 0; i < kSegmentLane<kWidth>; i += kCompared) {
        Compared x;
        memcpy(&x, &x_[s][i], sizeof(x));
        so_far = larger_or_nan(so_far, x);
      }
    }
    memcpy(&result, &so_far, sizeof(so_far));
    return largest_or_nan(larger_or_nan(computed(result[0]), computed(result[kCompared - 1])));
  }

  __device__ __forceinline__ uint64_t total(float largest) const {
    const float reference = reference_point(largest);
    WeightSum sum;
    int additions = 0;
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
      if (is_beyond(s)) break;
      add(s, reference, sum);
      additions += kSegment<kWidth>;
    }
    return sum.of_warp().total(additions);
  }

  // Of segment number `lane`, if this warp has it.
  __device__ __forceinline__ uint64_t segment_total(float largest, int lane) const {
    const float reference = reference_point(largest);
    uint64_t own = 0;
#pragma unroll
    for (int s = 0; s < kSegments<kWidth>; ++s) {
      if (is_beyond(s)) break;
      if (!sharers_.has(s)) continue;
      WeightSum sum;
      add(s, reference, sum);
      const uint64_t total = sum.of_warp().total(kSegment<kWidth>);
      if (lane == s) own = total;
    }
    return own;
  }

 private:
  static __device__ __forceinline__ int position(int segment, int i, int lane) {
    return segment * kSegment<kWidth> + i * 32 + lane * kWidth;
  }

  __device__ __forceinline__ bool is_beyond(int segment) const {
    return kKind == ChunkKind::kBySegment && segment * kSegment<kWidth> >= count_;
  }

  __device__ __forceinline__ void load(const LogitsRow<T>& row, int first, int segment, int lane, bool all_inside) {
#pragma unroll
    for (int i = 0; i < kSegmentLane<kWidth>; i += kWidth) {
      const int j = position(segment, i, lane);
      const auto x = all_inside ? load_adjacent<kWidth>(row.values.start + first + j)
                                : row.template load_stored<kWidth>(first + j, j < count_);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) x_[segment][i + e] = held(x[e]);
    }
  }

  static __device__ __forceinline__ Held held(T x) {
    if constexpr (kPairs<T, kWidth>) {
      return x;
    } else {
      return draw_value(computed(x));
    }
  }

  __device__ __forceinline__ void add(int segment, float reference, WeightSum& sum) const {
    Pack<Held, kSegmentLane<kWidth>> stored;
    memcpy(&stored, x_[segment], sizeof(stored));
    const auto x = all_computed(stored);
#pragma unroll
    for (int i = 0; i < kSegmentLane<kWidth>; ++i) sum.add(half_weight(x[i], reference));
  }

  int count_;
  Sharers sharers_;
  Held x_[kSegments<kWidth>][kSegmentLane<kWidth>];
};

// The element of a group of threads' elements, so many adjacent ones a thread, at which the prefix sum of weights
// exceeds `target`: told to all of the group. `before` is the prefix sum before this thread's first element, `through`
// that after its last.
template <int kMost>
__device__ __forceinline__ int element_above(const float (&half_weights)[kMost], int elements, uint64_t before,
                                             uint64_t through, uint64_t target, int rank) {
  const int first_lane = (threadIdx.x & 31) - rank;
  const unsigned above = __ballot_sync(kAllLanes, through > target) >> first_lane;
  const int chosen = above == 0 ? 0 : __ffs(int(above)) - 1;
  const int position = rank * elements + first_above(half_weights, elements, before, target);
  return __shfl_sync(kAllLanes, position, first_lane + chosen);
}

// What a warp draws from the chunk from `first` on of a row.
struct DrawnElement {
  int category;
  uint64_t total;  // of the chunk's weights; where it is 0, the category means nothing
};

// `own` is the sum of weights of segment number `lane` of the chunk. A row is what has logits to load.
template <class T, int kWidth, template <class> class Row>
__device__ __forceinline__ DrawnElement draw_element(const Row<T>& row, int first, int categories, float largest,
                                                     uint64_t own, uint64_t uniform, int lane) {
  constexpr int kElements = kSegmentLane<kWidth>, kLast = kSegments<kWidth> - 1;
  const uint64_t through = inclusive_sum(own, lane, kLast + 1);
  const uint64_t total = shuffle(through, kLast), target = contract::multiply_high(uniform, total);
  const int segment = __popc(__ballot_sync(kAllLanes, lane < kLast && through <= target));
  const uint64_t before = shuffle(through - own, segment);

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
  const uint64_t of_lane = sum.total(kElements), to_here = before + inclusive_sum(of_lane, lane, 32);
  const int element = element_above(half_weights, kElements, to_here - of_lane, to_here, target, lane);
  return {start + element, total};
}

}  // namespace reinmax_kernels::cuda
