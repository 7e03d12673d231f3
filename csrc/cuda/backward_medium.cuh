// Rows that fit in the registers of a warp or of a block: read once.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row_sums.cuh"

namespace reinmax_kernels::cuda {

// Of a row, to a thread: as many as half of a processor's threads can hold without a spill, the more the fewer
// gradients there are. Fewer where each element is an access, whose address takes registers too.
template <class T, int kWidth, bool kGradProbs>
constexpr int kHeld = std::is_same_v<T, double> ? 2 : (kWidth == 1 ? 4 : (kGradProbs ? 8 : 16));

// Whether the registers of a block hold more of a row where there is no gradient of the probabilities.
template <class T, int kWidth>
constexpr bool kHoldsMoreWithoutGradProbs = kHeld<T, kWidth, false> > kHeld<T, kWidth, true>;

// Makes the compiler compute again what it would keep of x, its exponentials: there are not registers for all of them.
template <class Real, int kWidth>
__device__ __forceinline__ void forget_exponentials(Pack<Real, kWidth>& x) {
#pragma unroll
  for (Real& each : x.at) {
    if constexpr (std::is_same_v<Real, float>) each = opaque(each);
  }
}

// A warp to a row, or a whole block. kWidth elements at a time, and fewer than 2 kWidth at a row's ends one by one.
// A thread has kElements at most. Without kGradProbs there is no gradient of the probabilities.
template <class Estimator, class T, int kWidth, Relaxation kRelaxation, bool kGradProbs, int kElements>
__global__ void __launch_bounds__(kMostThreads, 1)
    backward_medium_kernel(const BackwardArguments arguments, Warps warps) {
  using Real = Computed<T>;
  constexpr int kAccesses = kElements / kWidth;
  constexpr bool kGapped = kRelaxation == Relaxation::kGapped;
  constexpr bool kTwoExponentials = kRelaxation == Relaxation::kTempered || (kGapped && kGradProbs);  // of a logit
  const int threads = warps.threads(), thread = warps.thread();
  const int64_t row = warps.row();
  if (row >= arguments.logits.rows) return;

  const Upstream<T> upstream(arguments, RowNumber(row, arguments.logits.inner));
  const Accesses<kWidth> accesses(upstream.logits.values.start, int(arguments.logits.categories));
  // What is read beyond the row's last access is that access, in vain, for that takes no branch.
  const auto position = [&](int a) { return accesses.position(min(a * threads + thread, accesses.wide - 1)); };
  StoredOperands<T, kWidth> stored[kAccesses];
  upstream.template load_side_by_side<kGradProbs>(stored, position);
  const RowState<kRelaxation> state(arguments, row);  // behind the loads, which else would wait for what is made of it
  upstream.apply_mask(stored, position);
  Operands<Real, kWidth> held[kAccesses];
#pragma unroll
  for (int a = 0; a < kAccesses; ++a) {
    if (a * threads + thread >= accesses.wide) stored[a].x.fill(minus_infinity<T>());
    held[a] = upstream.template operands<kGradProbs>(stored[a]);
  }
  const int j_single = accesses.position_of_single(thread);
  Operands<Real, 1> single;
  if constexpr (kWidth > 1) single = upstream.template load<1, kGradProbs>(j_single, accesses.has(j_single));

  const Exponentials<Real, kRelaxation> of(Softmax<Real>(state.log_sum_exp), state.tau, arguments.gap);
  Partial<Real, kRelaxation> sums;
  if constexpr (kRelaxation != Relaxation::kNone) {
    if constexpr (kWidth > 1) sums.largest = largest_in(single.x, sums.largest);
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) sums.largest = largest_in(held[a].x, sums.largest);
    sums.largest = largest_of(warps, sums.largest);
  }
  if constexpr (kWidth > 1) {
    sums.template take_drawn<Estimator>(single, accesses.has(j_single) ? j_single : -1, state.drawn, of);
    sums.add(single, of);
  }
#pragma unroll
  for (int a = 0; a < kAccesses; ++a) {
    const int access = a * threads + thread, j = access < accesses.wide ? accesses.position(access) : -kWidth;
    sums.template take_drawn<Estimator>(held[a], j, state.drawn, of);
    sums.add(held[a], of);
  }
  sums.template combine<Estimator::kTakesGradDrawn>(warps, kGradProbs && arguments.grad_probs.data != nullptr);
  if constexpr (!kGradProbs) sums.pi_h = 0;  // is known to the compiler so

  const Gradient<Estimator, Real, kRelaxation, kGradProbs> gradient(of, sums);
  T* const out = static_cast<T*>(arguments.grad_logits) + row * arguments.logits.categories;
  if constexpr (kWidth > 1) {
    if (accesses.has(j_single)) store_adjacent(out + j_single, gradient(single, j_single, state.drawn));
  }
#pragma unroll
  for (int a = 0; a < kAccesses; ++a) {
    const int access = a * threads + within_loop(thread), j = accesses.position(access);
    if constexpr (kTwoExponentials) forget_exponentials(held[a].x);
    if (access < accesses.wide) store_adjacent(out + j, gradient(held[a], j, state.drawn));
  }
}

}  // namespace reinmax_kernels::cuda
