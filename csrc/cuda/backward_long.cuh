// Rows in a loop. They are read twice, for the sums and, backwards, to write, unless the estimator knows its gradient
// away from the drawn category without them. Where long rows are few, several blocks share each: sums in one launch,
// writes in another.
#pragma once

#include "cuda/parts.h"
#include "cuda/row_sums.cuh"

namespace reinmax_kernels::cuda {

template <class Real, bool kTempered>
__device__ __forceinline__ void store_part(const Parts& parts, int64_t rows, int64_t row, int part,
                                           const Partial<Real, kTempered>& sums) {
  const int64_t size = rows * parts.count;
  Real* const to = static_cast<Real*>(parts.sums) + row * parts.count + part;
  to[0] = sums.pi_g;
  to[size] = sums.pi_h;
  if constexpr (kTempered) {
    to[2 * size] = sums.p;
    to[3 * size] = sums.p_g;
    to[4 * size] = sums.largest;
  }
}

template <class Real, bool kTempered>
__device__ __forceinline__ Partial<Real, kTempered> load_part(const Parts& parts, int64_t rows, int64_t row, int part) {
  const int64_t size = rows * parts.count;
  const Real* const from = static_cast<const Real*>(parts.sums) + row * parts.count + part;
  Partial<Real, kTempered> sums;
  sums.pi_g = from[0];
  sums.pi_h = from[size];
  if constexpr (kTempered) {
    sums.p = from[2 * size];
    sums.p_g = from[3 * size];
    sums.largest = from[4 * size];
  }
  return sums;
}

// What one thread has of a row, or of a part of it.
template <class T, int kWidth, bool kGradProbs>
struct Share {
  Upstream<T> upstream;
  Accesses<kWidth> accesses;
  int thread, threads, part, elements;

  // Calls body(operands, position of the first). A second pass goes backwards, for what was read last is in the caches.
  template <bool kBackwards, class Body>
  __device__ __forceinline__ void for_each(Body body) const {
    const int first = part * (elements / kWidth), last = min(first + elements / kWidth, accesses.wide);
    const int step = kBackwards ? -threads : threads;
    for (int a = kBackwards ? last - 1 - thread : first + thread; kBackwards ? a >= first : a < last; a += step) {
      const int j = accesses.position(a);
      body(upstream.template load<kWidth, kGradProbs>(j, true), j);
    }
    const int single = accesses.position_of_single(thread);
    if (kWidth > 1 && part == 0 && accesses.has(single)) {
      body(upstream.template load<1, kGradProbs>(single, true), single);
    }
  }
};

enum class Step { kAll, kSum, kWrite };

// kAway: the gradient is known without sums but at the drawn category, which alone is left to write then.
template <class Estimator, class T, int kWidth, bool kTempered, bool kAway>
__global__ void __launch_bounds__(kLongBackwardWarps * 32, 2)
    backward_long_kernel(const BackwardArguments arguments, Warps warps, Parts parts, Step step) {
  using Real = Computed<T>;
  const int categories = int(arguments.logits.categories);
  const int threads = warps.threads(), thread = warps.thread(), part = blockIdx.y;
  const int64_t rows = arguments.logits.rows, row = warps.row();
  if (row >= rows) return;

  const Upstream<T> upstream(arguments, RowNumber(row, arguments.logits.inner));
  const Share<T, kWidth, !kAway> share{
      upstream, Accesses<kWidth>(upstream.logits.values.start, categories), thread, threads, part, parts.elements};
  const Exponentials<Real, kTempered> of(Softmax<Real>(arguments.log_sum_exp[row]), arguments.tau);
  T* const out = static_cast<T*>(arguments.grad_logits) + row * categories;
  const int drawn = int(arguments.index[row]);
  const auto at_drawn = [&] { return upstream.template load<1, !kAway>(drawn, true); };

  Partial<Real, kTempered> sums;
  if (step != Step::kWrite) {
    if constexpr (kAway) {
      const Real g_drawn = at_drawn().g[0];
      share.template for_each<false>([&](const auto& at, int j) {
        store_adjacent(out + j, away_from_drawn<Estimator>(at, g_drawn, of.softmax, sums.pi_g));
      });
    } else {
      share.template for_each<false>([&](const auto& at, int) {
        sums.make_relative_to(largest_in(at.x, sums.largest), of);
        sums.add(at, of);
      });
    }
  } else {
#pragma unroll 1
    for (int k = thread; k < parts.count; k += threads) sums.add(load_part<Real, kTempered>(parts, rows, row, k), of);
  }
  if constexpr (kTempered) sums.make_relative_to(largest_of(warps, sums.largest), of);
  sums.combine(warps, !kAway && arguments.grad_probs.data != nullptr);
  if (step == Step::kSum) {
    if (thread == 0) store_part(parts, rows, row, part, sums);
    return;
  }
  const Gradient<Estimator, Real, kTempered> gradient(of, sums, at_drawn().g[0]);
  if constexpr (kAway) {
    warps.synchronize();  // what another thread wrote there, as if it were not the drawn category, comes first
    if (thread == 0) store_adjacent(out + drawn, gradient(at_drawn(), drawn, drawn));
  } else {
    share.template for_each<true>([&](const auto& at, int j) {
      store_adjacent(out + j, gradient(at, j, drawn), true);  // what is to be read once more stays in the caches
    });
  }
}

}  // namespace reinmax_kernels::cuda
