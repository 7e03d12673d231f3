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
  const int64_t rows = arguments.logits.rows;
  const Row row(arguments, min(threads.row(), rows - 1), wide);  // those of none with the others, for all sum together
  auto held = row.hold(threads.thread() * Row::kHeld);
  const auto& source = threads.made_once([&] { return row.source(); });
  const uint32_t samples = uint32_t(arguments.noise.samples);
#pragma unroll 1
  for (uint32_t left = samples; left > 0; left -= min(left, uint32_t(threads.samples()))) {
    const uint32_t sample = samples - left + threads.sample();
    const auto exponentials = row.exponentials(source, threads.thread() * Row::kHeld, sample);
    const Real of_drawn = threads.of_thread(row.at_drawn(exponentials), row.thread_of_drawn());
    const auto w = row.weights_of(held, source, exponentials, of_drawn);
    Real sums[] = {0, 0};
    row.add(held, w, sums);
    sum_each(threads, sums);
    const Real scale = unsigned(threads.sample()) < left ? quotient(Real(1), sums[0]) : Real(0);
    row.gather(held, w, scale, sums[1] * scale);
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
