// Assignments of tokens to experts, sorted by expert: a stable counting sort. A list is cut into parts, a warp's each.
// Launches, one after the other: every part counts its assignments to each expert; of each expert, the parts' counts
// become how many lie in the parts before; every part places its assignments. An index that is no expert counts as the
// one behind the last, so that nothing is ever written out of bounds.
#include "cuda/dispatch_plan.cuh"

namespace reinmax_kernels::cuda {

// How many of a part's assignments each expert has. Sums of integers, whose order does not matter.
__global__ void __launch_bounds__(32 * kPlanWarps)
    count_experts_kernel(const DispatchPlanArguments arguments, const PlanCut cut) {
  const PlanPart part(arguments, cut);
  if (part.list >= arguments.lists) return;
  const int lane = threadIdx.x % 32;
  int64_t* const counts = cut.places + part.number * cut.width;
  for (int64_t e = lane; e < cut.width; e += 32) counts[e] = 0;
  __syncwarp();
  for (int64_t start = part.begin; start < part.end; start += 32 * kCountedAhead) {
    int64_t experts[kCountedAhead];
#pragma unroll
    for (int a = 0; a < kCountedAhead; ++a) experts[a] = part.expert(arguments, start + 32 * a + lane);
#pragma unroll
    for (int a = 0; a < kCountedAhead; ++a) {
      const unsigned same = __match_any_sync(kAllLanes, experts[a]);
      if (experts[a] >= 0 && same >> lane == 1) {
        atomicAdd(reinterpret_cast<unsigned long long*>(counts + experts[a]), __popc(same));
      }
    }
  }
}

// Of a list and kPlanExperts experts, whose counts lie side by side: the sums over the parts before, and over all
// parts. Each warp has a run of parts, of which it takes several at a time.
__global__ void __launch_bounds__(32 * kSumWarps)
    sum_parts_kernel(const DispatchPlanArguments arguments, const PlanCut cut) {
  constexpr int kAtATime = 32 / kPlanExperts;
  __shared__ int64_t of_warps[kSumWarps][kPlanExperts];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = lane % kPlanExperts, line = lane / kPlanExperts;
  const int64_t groups = cut.width / kPlanExperts, list = blockIdx.x / groups;
  const int64_t e = blockIdx.x % groups * kPlanExperts + column;
  const int64_t run = ceil_divide(cut.parts, kSumWarps), first = warp * run;
  const int64_t last = first + run < cut.parts ? first + run : cut.parts;
  int64_t* const counts = cut.places + list * cut.parts * cut.width + e;

  int64_t total = 0;
  for (int64_t p = first + line; p < last; p += kAtATime) total += counts[p * cut.width];
#pragma unroll
  for (int distance = kPlanExperts; distance < 32; distance *= 2) total += __shfl_xor_sync(kAllLanes, total, distance);
  if (line == 0) of_warps[warp][column] = total;
  __syncthreads();
  int64_t before = 0;
  for (int w = 0; w < warp; ++w) before += of_warps[w][column];
  if (warp == kSumWarps - 1 && line == 0 && e < arguments.experts) {
    arguments.counts[list * arguments.experts + e] = before + total;
  }

  for (int64_t start = first; start < last; start += kAtATime) {
    const int64_t p = start + line, count = p < last ? counts[p * cut.width] : 0;
    int64_t sum = count;
#pragma unroll
    for (int distance = kPlanExperts; distance < 32; distance *= 2) {
      const int64_t other = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += other;
    }
    if (p < last) counts[p * cut.width] = before + sum - count;
    before += __shfl_sync(kAllLanes, sum, 32 - kPlanExperts + column);
  }
}

// Places a part's assignments, 32 after 32. The part's places are, for each expert, that of its next assignment.
__global__ void __launch_bounds__(32 * kPlanWarps)
    place_assignments_kernel(const DispatchPlanArguments arguments, const PlanCut cut) {
  const PlanPart part(arguments, cut);
  if (part.list >= arguments.lists) return;
  const int lane = threadIdx.x % 32;
  const unsigned lanes_below = (1u << lane) - 1;
  int64_t* const places = cut.places + part.number * cut.width;
  const int64_t* const counts = arguments.counts + part.list * arguments.experts;
  int64_t first = 0;  // place of an expert
  for (int64_t start = 0; start < cut.width; start += 32) {
    const int64_t e = start + lane, count = e < arguments.experts ? counts[e] : 0;
    int64_t sum = count;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int64_t other = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += other;
    }
    if (e < cut.width) places[e] += first + sum - count;
    first += __shfl_sync(kAllLanes, sum, 31);
  }

  int64_t* const order = arguments.order + part.list * arguments.length;
  int64_t* const inverse = arguments.inverse + part.list * arguments.length;
  int64_t following = part.expert(arguments, part.begin + lane);
  for (int64_t i = part.begin + lane; i - lane < part.end; i += 32) {
    const int64_t expert = following;
    following = part.expert(arguments, i + 32);  // in time for the next round
    const unsigned same = __match_any_sync(kAllLanes, expert);
    __syncwarp();  // lanes go on from places that others have stored
    int64_t place = 0;
    if (expert >= 0) {
      place = places[expert] + __popc(same & lanes_below);
      order[place] = i;
      inverse[i] = place;
    }
    __syncwarp();  // and store them when all have read

    const bool is_last = same >> lane == 1;  // of the expert's lanes
    if (expert >= 0 && is_last) places[expert] = place + 1;
  }
}

int64_t dispatch_plan_scratch_bytes(const DispatchPlanArguments& arguments) {
  const PlanCut cut(arguments, nullptr);
  return arguments.lists * cut.parts * cut.width * int64_t(sizeof(int64_t));
}

void dispatch_plan(const DispatchPlanArguments& arguments, void* scratch, Stream stream) {
  const PlanCut cut(arguments, static_cast<int64_t*>(scratch));
  const dim3 parts(unsigned(ceil_divide(arguments.lists * cut.parts, kPlanWarps)));
  launch(count_experts_kernel, parts, 32 * kPlanWarps, 0, stream, arguments, cut);
  const dim3 groups(unsigned(arguments.lists * (cut.width / kPlanExperts)));
  launch(sum_parts_kernel, groups, 32 * kSumWarps, 0, stream, arguments, cut);
  if (arguments.order == nullptr || arguments.length == 0) return;
  launch(place_assignments_kernel, parts, 32 * kPlanWarps, 0, stream, arguments, cut);
}

}  // namespace reinmax_kernels::cuda
