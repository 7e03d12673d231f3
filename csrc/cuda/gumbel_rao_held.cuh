// Gumbel-Rao of rows whose categories and totals fit in the registers of a warp or of a block: noise is made once, and
// nothing is kept of a sample when the next one begins.
#pragma once

#include "cuda/gumbel_row.cuh"
#include "cuda/gumbel_samples.cuh"
#include "cuda/launch.cuh"

namespace reinmax_kernels::cuda {

template <class T, bool kTempered, class Threads>
__global__ void __launch_bounds__(Threads::kMost, ceil_divide(kResidentThreads, Threads::kMost))
    gumbel_rao_held_kernel(const BackwardArguments arguments, const Threads threads, const bool wide) {
  using Row = GumbelRow<T, kTempered>;
  using Real = typename Row::Real;
  __shared__ Real of_drawn[Threads::kMost];  // exponential variates of the drawn category, of as many samples
  __shared__ typename Row::Source sources[Threads::kMostRows];  // not in registers, of which there are too few

  const int64_t rows = arguments.logits.rows;
  const Row row(arguments, min(threads.row(), rows - 1), wide);  // those of none with the others, for all sum together
  if (threads.rank() == 0) sources[threads.number_of_row()] = row.source();
  auto held = row.hold(threads.thread() * Row::kHeld);

  const uint32_t samples = uint32_t(arguments.noise.samples);
  const int at_once = threads.samples(), ahead = threads.threads() * at_once;
#pragma unroll 1
  for (uint32_t first = 0;; first += ahead) {
    threads.synchronize();  // all have read the last ones
    of_drawn[threadIdx.x] =
        sources[threads.number_of_row()].noise.template exponential<Real>(row.drawn, first + threads.rank());
    threads.synchronize();
    const int count = int(min(uint32_t(ahead), samples - first));
#pragma unroll 1
    for (int round = 0; round < count; round += at_once) {
      const int i = round + threads.sample();
      const auto w = row.weights_of(held, sources[threads.number_of_row()], threads.thread() * Row::kHeld, first + i,
                                    of_drawn[threads.first() + i]);
      Real sums[] = {0, 0};
      row.add(held, w, sums);
      sum_each(threads, sums);
      const Real scale = i < count ? quotient(Real(1), sums[0]) : Real(0);
      row.gather(held, w, scale, sums[1] * scale);
    }
    if (samples - first <= uint32_t(ahead)) break;
  }
#pragma unroll
  for (Real& total : held.total.at) total = threads.sum_over_samples(total);
  const int64_t number = threads.row();
  const Row again(arguments, min(number, rows - 1), wide);
  const Real pi_h =
      arguments.grad_probs.data != nullptr ? sum_of(threads, again.pi_h(threads.thread() * Row::kHeld)) : Real(0);
  if (number < rows && threads.sample() == 0) again.write(held, threads.thread() * Row::kHeld, pi_h);
}

}  // namespace reinmax_kernels::cuda
