// Rows of one access to each of a warp's lanes at most, all of them aligned to 16 bytes: neighbouring lanes share a
// row, and a warp has one or more.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row_sums.cuh"

namespace reinmax_kernels::cuda {

constexpr int kLanesThreads = 128;  // of a block: few, for the next block waits for the last of them

template <class T>
constexpr int kLanesBlocks = sizeof(T) == 4 ? 12 : 8;  // to be resident at least, of what registers allow

template <class T>
constexpr int kMostOfLanes = 32 * kWidest<T>;  // categories

// As many threads to a row as `group` has.
template <class Estimator, class T, Relaxation kRelaxation>
__global__ void __launch_bounds__(kLanesThreads, kLanesBlocks<T>)
    backward_lanes_kernel(const BackwardArguments arguments, Lanes group) {
  using Real = Computed<T>;
  constexpr int kWidth = kWidest<T>;
  const int categories = int(arguments.logits.categories);
  const int64_t rows = arguments.logits.rows;
  const int64_t own = int64_t(blockIdx.x) * (kLanesThreads >> group.log2) + (threadIdx.x >> group.log2);
  const int j = (threadIdx.x & ((1 << group.log2) - 1)) * kWidth;
  const bool inside = own < rows && j < categories;
  const int64_t row = min(own, rows - 1);  // what is read elsewhere is read in vain, for that takes no branch

  const Upstream<T> upstream(arguments, RowNumber(row, arguments.logits.inner));
  const auto position = [&](int) { return min(j, categories - kWidth); };
  StoredOperands<T, kWidth> stored[1];
  upstream.template load_side_by_side<true>(stored, position);
  const RowState<kRelaxation> state(arguments, row);  // behind the loads, which else would wait for what is made of it
  upstream.apply_mask(stored, position);
  if (!inside) stored[0].x.fill(minus_infinity<T>());
  const Operands<Real, kWidth> held = upstream.template operands<true>(stored[0]);

  const Exponentials<Real, kRelaxation> of(Softmax<Real>(state.log_sum_exp), state.tau, arguments.gap);
  Partial<Real, kRelaxation> sums;
  if constexpr (kRelaxation != Relaxation::kNone) sums.largest = largest_of(group, largest_in(held.x, sums.largest));
  sums.add(held, of);
  sums.template take_drawn<Estimator>(held, j, state.drawn, of);
  sums.template combine<Estimator::kTakesGradDrawn>(group, arguments.grad_probs.data != nullptr);
  const Gradient<Estimator, Real, kRelaxation> gradient(of, sums);
  T* const out = static_cast<T*>(arguments.grad_logits) + row * categories;
  if (inside) store_adjacent(out + j, gradient(held, j, state.drawn));
}

}  // namespace reinmax_kernels::cuda
