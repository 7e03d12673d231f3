// Gumbel-Rao of rows that no block can hold, in two launches, each of which makes the noise: one sums the weights of
// each sample, the other one holds some categories of a row and goes through the samples.
#pragma once

#include "cuda/gumbel_row.cuh"
#include "cuda/gumbel_samples.cuh"
#include "cuda/launch.cuh"

namespace reinmax_kernels::cuda {

constexpr int kGumbelWarps = 8;  // of a block
constexpr int kGumbelThreads = 32 * kGumbelWarps;

// Some rows at a time, whose sums fit in scratch: for each sample and each part of a row those of w and of w g, and for
// each part that of pi h.
struct GumbelSums {
  int64_t first_row, rows;
  Divisor samples;
  int parts, elements;  // of a part
  void* memory;

  int64_t numbers() const { return rows * parts * (2 * int64_t(samples) + 1); }

  template <class Real>
  __device__ __forceinline__ Real* of_sample(int64_t row, int64_t sample) const {
    return static_cast<Real*>(memory) + (row * samples.value() + sample) * 2 * parts;
  }

  template <class Real>
  __device__ __forceinline__ Real* of_probs(int64_t row) const {
    return of_sample<Real>(rows, 0) + row * parts;
  }
};

// A block has one sample of a part of a row.
template <class T, bool kTempered>
__global__ void __launch_bounds__(kGumbelThreads, kResidentThreads / kGumbelThreads)
    gumbel_rao_sums_kernel(const BackwardArguments arguments, const GumbelSums sums, const bool wide) {
  using Row = GumbelRow<T, kTempered>;
  using Real = typename Row::Real;
  const int64_t number = sums.samples.divide(blockIdx.x), sample = blockIdx.x - number * sums.samples.value();
  const int part = blockIdx.y, first = part * sums.elements;
  const int last = min(first + sums.elements, int(arguments.logits.categories));
  const Row row(arguments, sums.first_row + number, wide);
  const bool with_grad_probs = sample == 0 && arguments.grad_probs.data != nullptr;
  const auto source = row.source();
  const auto upstream = row.upstream();
  const auto softmax = row.softmax();
  const Real of_drawn = source.noise.template exponential<Real>(row.drawn, uint32_t(sample));
  Real of_part[] = {0, 0}, pi_h = 0;
#pragma unroll 1
  for (int j = first + threadIdx.x * Row::kHeld; j < last; j += kGumbelThreads * Row::kHeld) {
    const auto held = row.hold(upstream, softmax, j);
    const auto w = row.weights_of(held, source, row.exponentials(source, j, uint32_t(sample)), of_drawn);
    if (with_grad_probs) pi_h += row.pi_h(j);
    row.add(held, w, of_part);
  }
  const SampleBlock threads{kGumbelWarps};
  sum_each(threads, of_part);
  if (with_grad_probs) pi_h = sum_of(threads, pi_h);
  if (threadIdx.x != 0) return;
  Real* const to = sums.of_sample<Real>(number, sample) + 2 * part;
  to[0] = of_part[0], to[1] = of_part[1];
  if (with_grad_probs) sums.of_probs<Real>(number)[part] = pi_h;
}

// A thread holds categories, and takes its turn at adding up the parts of a sample.
template <class T, bool kTempered>
__global__ void __launch_bounds__(kGumbelThreads, kResidentThreads / kGumbelThreads)
    gumbel_rao_write_kernel(const BackwardArguments arguments, const GumbelSums sums, const bool wide) {
  using Row = GumbelRow<T, kTempered>;
  using Real = typename Row::Real;
  struct Sample {
    Real of_drawn, scale, centre;
  };
  __shared__ Sample ahead[kGumbelThreads];
  const Row row(arguments, sums.first_row + blockIdx.x, wide);
  const auto source = row.source();
  const int j = (blockIdx.y * kGumbelThreads + threadIdx.x) * Row::kHeld;
  auto held = row.hold(j);
#pragma unroll 1
  for (int64_t first = 0; first < sums.samples.value(); first += kGumbelThreads) {
    const int count = int(min(int64_t{kGumbelThreads}, sums.samples.value() - first));
    __syncthreads();  // all have read the last ones
    if (int(threadIdx.x) < count) {
      const int64_t sample = first + threadIdx.x;
      const Real* const from = sums.of_sample<Real>(blockIdx.x, sample);
      Real sum = 0, product = 0;
#pragma unroll 1
      for (int part = 0; part < sums.parts; ++part) sum += from[2 * part], product += from[2 * part + 1];
      const Real scale = quotient(Real(1), sum);
      ahead[threadIdx.x] = {source.noise.template exponential<Real>(row.drawn, uint32_t(sample)), scale,
                            product * scale};
    }
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const Sample sample = ahead[i];
      const auto exponentials = row.exponentials(source, j, uint32_t(first + i));
      row.gather(held, row.weights_of(held, source, exponentials, sample.of_drawn), sample.scale, sample.centre);
    }
  }
  Real pi_h = 0;
  if (arguments.grad_probs.data != nullptr) {
    for (int part = 0; part < sums.parts; ++part) pi_h += sums.of_probs<Real>(blockIdx.x)[part];
  }
  const Row again(arguments, sums.first_row + within_loop(blockIdx.x), wide);
  again.write(held, j, pi_h);
}

}  // namespace reinmax_kernels::cuda
