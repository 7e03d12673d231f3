// Gumbel-Rao of long rows, a block to each: a sample's weights are kept in shared memory until their sum is known, so
// that noise is made once.
#pragma once

#include "cuda/gumbel_row.cuh"
#include "cuda/gumbel_samples.cuh"
#include "cuda/launch.cuh"

namespace reinmax_kernels::cuda {

// How the threads go through a row, kHeldByThread categories of each in a step.
struct KeptRow {
  int warps, steps;

  __host__ __device__ __forceinline__ int threads() const { return 32 * warps; }
  __host__ __device__ __forceinline__ int shares() const { return steps * threads(); }  // of threads in steps

  // Of the weights, and where samples are several of what they gather.
  int64_t bytes(int64_t samples, int64_t of_share) const { return shares() * of_share * (samples > 1 ? 2 : 1); }
};

// Of each thread as many numbers in each step, in accesses of 16 bytes that lie side by side with other threads'.
template <class Real, int kHeld>
class KeptByThread {
 public:
  __device__ __forceinline__ KeptByThread(void* memory, const KeptRow& kept)
      : own_(static_cast<Bits*>(memory) + threadIdx.x), threads_(kept.threads()) {}

  __device__ __forceinline__ void store(int step, const Pack<Real, kHeld>& values) const {
    Bits bits[kAccesses];
    memcpy(bits, &values, sizeof(bits));
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) own_[(step * kAccesses + a) * threads_] = bits[a];
  }

  __device__ __forceinline__ Pack<Real, kHeld> load(int step) const {
    Bits bits[kAccesses];
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) bits[a] = own_[(step * kAccesses + a) * threads_];
    Pack<Real, kHeld> values;
    memcpy(&values, bits, sizeof(bits));
    return values;
  }

 private:
  using Bits = BitsOf<16>::Type;
  static constexpr int kAccesses = kHeld / kWidest<Real>;
  Bits* own_;
  int threads_;
};

template <class T, bool kTempered>
__global__ void __launch_bounds__(kMostThreads)
    gumbel_rao_kept_kernel(const BackwardArguments arguments, const KeptRow kept, const bool wide) {
  using Row = GumbelRow<T, kTempered>;
  using Real = typename Row::Real;
  using Kept = KeptByThread<Real, Row::kHeld>;
  const SampleBlock threads{kept.warps};
  Real* const memory = reinterpret_cast<Real*>(memory_of_launch());
  const Kept weights(memory, kept), totals(memory + kept.shares() * Row::kHeld, kept);
  const Row row(arguments, blockIdx.x, wide);
  const auto& source = threads.made_once([&] { return row.source(); });
  const auto upstream = row.upstream();
  const auto softmax = row.softmax();
  const auto position = [&](int step) { return (step * kept.threads() + int(threadIdx.x)) * Row::kHeld; };
  const bool with_grad_probs = arguments.grad_probs.data != nullptr;
  const uint32_t samples = uint32_t(arguments.noise.samples);
  Real pi_h = 0;
#pragma unroll 1
  for (uint32_t sample = 0; sample < samples; ++sample) {
    // Sums come between this one and the next.
    const Real of_drawn = threads.made_once([&] { return source.noise.template exponential<Real>(row.drawn, sample); });
    Real sums[] = {0, 0};
#pragma unroll 1
    for (int step = 0; step < kept.steps; ++step) {
      const int j = position(step);
      const auto held = row.hold(upstream, softmax, j);
      const auto w = row.weights_of(held, source, row.exponentials(source, j, sample), of_drawn);
      if (with_grad_probs && sample == 0) pi_h += row.pi_h(j);
      row.add(held, w, sums);
      weights.store(step, w);
    }
    sum_each(threads, sums);
    const Real scale = quotient(Real(1), sums[0]), centre = sums[1] * scale;
    const bool is_last = sample + 1 == samples;
    if (with_grad_probs && is_last) pi_h = sum_of(threads, pi_h);
#pragma unroll 1
    for (int step = 0; step < kept.steps; ++step) {
      const int j = position(step);
      auto held = row.hold(upstream, softmax, j);
      if (sample > 0) held.total = totals.load(step);
      row.gather(held, weights.load(step), scale, centre);
      if (is_last) {
        row.write(held, j, pi_h);
      } else {
        totals.store(step, held.total);
      }
    }
  }
}

}  // namespace reinmax_kernels::cuda
