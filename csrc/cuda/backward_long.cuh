// Rows in a loop. They are read twice, for the sums and to write, unless the estimator knows its gradient away from the
// drawn category without them; and once before, where the sums need the largest logit. Each pass goes the other way
// than the one before, for what was read last is in the caches. Where long rows are few, several blocks share each, and
// each of these steps is a launch.
#pragma once

#include "cuda/parts.h"
#include "cuda/row_sums.cuh"

namespace reinmax_kernels::cuda {

template <class Real, Relaxation kRelaxation>
__device__ __forceinline__ void store_part(const Parts& parts, int64_t rows, int64_t row, int part,
                                           const Partial<Real, kRelaxation>& sums) {
  const int64_t size = rows * parts.count;
  Real* const to = static_cast<Real*>(parts.sums) + row * parts.count + part;
  to[0] = sums.pi_g;
  to[size] = sums.pi_h;
  if constexpr (kRelaxation == Relaxation::kTempered) to[4 * size] = sums.largest;
  if constexpr (kRelaxation != Relaxation::kNone) {
    to[2 * size] = sums.p;
    to[3 * size] = sums.p_g;
  }
}

template <class Real, Relaxation kRelaxation>
__device__ __forceinline__ Partial<Real, kRelaxation> load_part(const Parts& parts, int64_t rows, int64_t row,
                                                                int part) {
  const int64_t size = rows * parts.count;
  const Real* const from = static_cast<const Real*>(parts.sums) + row * parts.count + part;
  Partial<Real, kRelaxation> sums;
  sums.pi_g = from[0];
  sums.pi_h = from[size];
  if constexpr (kRelaxation != Relaxation::kNone) {
    sums.p = from[2 * size];
    sums.p_g = from[3 * size];
  }
  if constexpr (kRelaxation == Relaxation::kTempered) sums.largest = from[4 * size];
  return sums;
}

// The largest logit of a part, where it has to be known before the sums.
template <class Real>
__device__ __forceinline__ Real& largest_of_part(const Parts& parts, int64_t rows, int64_t row, int part) {
  return static_cast<Real*>(parts.sums)[(4 * rows + row) * parts.count + part];
}

// What one thread has of a row, or of a part of it.
template <class T, int kWidth, bool kGradProbs>
struct Share {
  Upstream<T> upstream;
  Accesses<kWidth> accesses;
  int thread, threads, part, elements;

  // With one access of logits and gradient under way, half of a processor's threads ask for less than its share of the
  // memory can bring. There are not registers for two of more elements than four, or of doubles, but for one pass.
  static constexpr bool kTwoAtOnce = sizeof(T) == 4 || (sizeof(T) == 2 && !kGradProbs);

  // Calls body(operands, position of the first).
  template <bool kBackwards, class Body>
  __device__ __forceinline__ void for_each(Body body) const {
    const int first = part * (elements / kWidth), last = min(first + elements / kWidth, accesses.wide);
    const int step = kBackwards ? -threads : threads;
    int a = kBackwards ? last - 1 - thread : first + thread;
    if (kTwoAtOnce && !(kGradProbs && upstream.has_grad_probs())) {
      // As often as all threads have two.
#pragma unroll 1
      for (int left = last - first; left >= 2 * threads; left -= 2 * threads, a += 2 * step) {
        const auto position = [&](int i) { return accesses.position(a + i * step); };
        StoredOperands<T, kWidth> stored[2];
        upstream.template load_side_by_side<false>(stored, position);
        upstream.apply_mask(stored, position);
#pragma unroll
        for (int i = 0; i < 2; ++i) body(upstream.template operands<false>(stored[i]), position(i));
      }
    }
    for (; kBackwards ? a >= first : a < last; a += step) {
      const int j = accesses.position(a);
      body(upstream.template load<kWidth, kGradProbs>(j, true), j);
    }
    const int single = accesses.position_of_single(thread);
    if (kWidth > 1 && part == 0 && accesses.has(single)) {
      body(upstream.template load<1, kGradProbs>(single, true), single);
    }
  }
};

enum class Step { kAll, kLargest, kSum, kWrite };

// kAway: the gradient is known without sums but at the drawn category, which alone is left to write then.
template <class Estimator, class T, int kWidth, Relaxation kRelaxation, bool kAway>
__global__ void __launch_bounds__(kMostThreads, 1)
    backward_long_kernel(const BackwardArguments arguments, Warps warps, Parts parts, Step step) {
  using Real = Computed<T>;
  constexpr bool kGapped = kRelaxation == Relaxation::kGapped;
  const int categories = int(arguments.logits.categories);
  const int threads = warps.threads(), thread = warps.thread(), part = blockIdx.y;
  const int64_t rows = arguments.logits.rows, row = warps.row();
  if (row >= rows) return;

  const RowState<kRelaxation> state(arguments, row);
  const int drawn = state.drawn;
  const Upstream<T> upstream(arguments, RowNumber(row, arguments.logits.inner));
  const Share<T, kWidth, !kAway> share{
      upstream, Accesses<kWidth>(upstream.logits.values.start, categories), thread, threads, part, parts.elements};
  const Exponentials<Real, kRelaxation> of(Softmax<Real>(state.log_sum_exp), state.tau, arguments.gap);
  T* const out = static_cast<T*>(arguments.grad_logits) + row * categories;
  const auto at_drawn = [&] { return upstream.template load<1, !kAway>(drawn, true); };

  Partial<Real, kRelaxation> sums;
  if constexpr (kGapped) {
    if (step == Step::kAll || step == Step::kLargest) {
      share.template for_each<false>([&](const auto& at, int) { sums.largest = largest_in(at.x, sums.largest); });
    } else {
#pragma unroll 1
      for (int k = thread; k < parts.count; k += threads)
        sums.largest = larger(sums.largest, largest_of_part<Real>(parts, rows, row, k));
    }
    sums.largest = largest_of(warps, sums.largest);
    if (step == Step::kLargest) {
      if (thread == 0) largest_of_part<Real>(parts, rows, row, part) = sums.largest;
      return;
    }
  }
  if (step != Step::kWrite) {
    if constexpr (kAway) {
      const Real g_drawn = at_drawn().g[0];
      share.template for_each<false>([&](const auto& at, int j) {
        store_adjacent(out + j, away_from_drawn<Estimator>(at, g_drawn, of.softmax, sums.pi_g));
      });
    } else {
      share.template for_each<kGapped>([&](const auto& at, int) {
        sums.make_relative_to(largest_in(at.x, sums.largest), of);
        sums.add(at, of);
      });
      if (kGapped && part == 0 && thread == 0) sums.lift_drawn(at_drawn(), of);
    }
  } else {
#pragma unroll 1
    for (int k = thread; k < parts.count; k += threads) sums.add(load_part<Real, kRelaxation>(parts, rows, row, k), of);
  }
  if constexpr (kRelaxation == Relaxation::kTempered) sums.make_relative_to(largest_of(warps, sums.largest), of);
  sums.template combine<false>(warps, !kAway && arguments.grad_probs.data != nullptr);
  if (step == Step::kSum) {
    if (thread == 0) store_part(parts, rows, row, part, sums);
    return;
  }
  if constexpr (Estimator::kTakesGradDrawn) sums.g_drawn = at_drawn().g[0];
  const Gradient<Estimator, Real, kRelaxation> gradient(of, sums);
  if constexpr (kAway) {
    warps.synchronize();  // what another thread wrote there, as if it were not the drawn category, comes first
    if (thread == 0) store_adjacent(out + drawn, gradient(at_drawn(), drawn, drawn));
  } else {
    share.template for_each<!kGapped>([&](const auto& at, int j) {
      store_adjacent(out + j, gradient(at, j, drawn), true);  // what is to be read once more stays in the caches
    });
  }
}

}  // namespace reinmax_kernels::cuda
