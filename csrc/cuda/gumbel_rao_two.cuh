// Gumbel-Rao of two categories: one variate a sample, rho = u / (1 - u) in the place of E_j / E_D, and s_D s_j alone.
#pragma once

#include "cuda/gumbel_samples.cuh"
#include "cuda/gumbel_weights.cuh"
#include "cuda/launch.cuh"

namespace reinmax_kernels::cuda {

// A thread has a row, and where rows are few some of its samples, four at a time.
template <class T, bool kTempered>
__global__ void __launch_bounds__(SampleLanes::kMost, kResidentThreads / SampleLanes::kMost)
    gumbel_rao_two_kernel(const BackwardArguments arguments, const SampleLanes threads) {
  using Real = Computed<T>;
  constexpr int kTogether = 16;  // fours, summed by themselves, so that rounding does not grow with the samples
  const int64_t rows = arguments.logits.rows;
  const auto drawn_in = [&](int64_t row) { return int(__ldg(arguments.index + row)); };
  const auto softmax_of = [&](int64_t row) { return Softmax<Real>(__ldg(arguments.log_sum_exp + row)); };
  const auto load = [&](int64_t row, int j) {
    return Upstream<T>(arguments, RowNumber(row, arguments.logits.inner)).template load<1>(j, true);
  };
  const int64_t row = min(threads.row(), rows - 1);  // those of none go with the others, for all sum together
  const NoisyWeights<Real, kTempered> weights(arguments.tau);
  const NoiseOfRow noise(arguments.noise, row);
  const auto category = weights.category(softmax_of(row), load(row, 1 - drawn_in(row)).x[0]);

  const int64_t samples = arguments.noise.samples, fours = ceil_divide(samples, 4);
  Real total = 0;
#pragma unroll 1
  for (int64_t first = threads.sample(); first < fours;) {
    Real part = 0;
#pragma unroll 1
    for (int i = 0; i < kTogether && first < fours; ++i, first += threads.samples()) {
      const uint4 w = noise.words(0, uint32_t(first));
      const uint32_t words[] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        const Real u = noise_uniform(words[s]), slope = slope_of_weight(weights(category, u, 1 - u));
        if (4 * first + s < samples) part += slope;
      }
    }
    total += part;
  }
  total = threads.sum_over_samples(total);
  const int64_t again = threads.row();  // what was read of the row before would take registers all the while
  if (again >= rows || threads.sample() != 0) return;

  const int drawn = drawn_in(again);
  const auto softmax = softmax_of(again);
  const auto of_drawn = load(again, drawn), of_other = load(again, 1 - drawn);
  const Real scale = weights.inverse_tau / Real(samples), pi = softmax(of_other.x[0]) * softmax(of_drawn.x[0]);
  const Real through_sample = total * (of_other.g[0] - of_drawn.g[0]) * scale;
  const Real gradient = multiply_add(pi, of_other.h[0] - of_drawn.h[0], through_sample);
  Pack<Real, 2> both;
  both[0] = drawn == 0 ? -gradient : gradient;
  both[1] = -both[0];
  store_adjacent(static_cast<T*>(arguments.grad_logits) + 2 * again, both);
}

}  // namespace reinmax_kernels::cuda
