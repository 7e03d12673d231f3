// How lists of assignments are cut into parts.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

constexpr int kPlanWarps = 4;     // of a block, each with a part of its own
constexpr int kSumWarps = 16;     // of a block that sums counts
constexpr int kPlanExperts = 4;   // whose counts it sums, side by side in memory: 32 bytes
constexpr int kCountedAhead = 4;  // assignments that a lane loads before it counts the first

// Parts of `size` assignments, the last perhaps of fewer: so many that they occupy the device, but none that has fewer
// assignments than there are experts to count for. Of each part and expert a place [lists, parts, width > E].
struct PlanCut {
  PlanCut(const DispatchPlanArguments& arguments, int64_t* places_of_parts) : places(places_of_parts) {
    const int64_t chunks = arguments.length > 0 ? ceil_divide(arguments.length, kWarp) : 1;
    const int64_t least = ceil_divide(arguments.experts, kWarp);
    const int64_t occupying = blocks_per_part(arguments.lists, chunks, 1);
    size = kWarp * (occupying > least ? occupying : least);
    parts = ceil_divide(chunks * kWarp, size);
    width = ceil_divide(arguments.experts + 1, kPlanExperts) * kPlanExperts;
  }

  int64_t parts, size, width;
  int64_t* places;
};

// That of the calling warp.
struct PlanPart {
  __device__ __forceinline__ PlanPart(const DispatchPlanArguments& arguments, const PlanCut& cut)
      : number(int64_t(blockIdx.x) * kPlanWarps + threadIdx.x / 32), list(number / cut.parts) {
    begin = (number - list * cut.parts) * cut.size;
    end = begin + cut.size < arguments.length ? begin + cut.size : arguments.length;
  }

  // Of a position in the list; E where the index is no expert, and -1 behind the part.
  __device__ __forceinline__ int64_t expert(const DispatchPlanArguments& arguments, int64_t at) const {
    if (at >= end) return -1;
    const int64_t e = arguments.index[list * arguments.length + at];
    return uint64_t(e) < uint64_t(arguments.experts) ? e : arguments.experts;
  }

  int64_t number, list, begin, end;
};

}  // namespace reinmax_kernels::cuda
