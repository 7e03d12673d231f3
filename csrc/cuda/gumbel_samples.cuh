// The threads that share a row and its samples of noise.
#pragma once

#include "cuda/block.cuh"
#include "cuda/launch.cuh"

namespace reinmax_kernels::cuda {

// Of a warp: 2^log2 have the categories of a row for one sample, and 2^log2_samples such groups samples of their own.
struct SampleLanes {
  static constexpr int kMost = 256;  // threads of a block
  int log2, log2_samples;

  __device__ __forceinline__ int threads() const { return 1 << log2; }
  __device__ __forceinline__ int samples() const { return 1 << log2_samples; }
  __device__ __forceinline__ int thread() const { return number() & (threads() - 1); }
  __device__ __forceinline__ int sample() const { return number() >> log2 & (samples() - 1); }
  __device__ __forceinline__ int64_t row() const {
    return (int64_t(blockIdx.x) * kMost + number()) >> (log2 + log2_samples);
  }

  // What is the same for all of a row: each makes it, none waits.
  template <class Make>
  __device__ __forceinline__ auto made_once(Make make) const {
    return make();
  }

  template <class Real, int kCount, class Function>
  __device__ __forceinline__ void reduce_each(Real (&values)[kCount], Function f, Real identity) const {
    Lanes{log2}.reduce_each(values, f, identity);
  }

  // What one of the threads has, for all that have the same sample.
  template <class Real>
  __device__ __forceinline__ Real of_thread(Real x, int thread) const {
    return __shfl_sync(kAllLanes, x, thread, threads());
  }

  // Over the groups.
  template <class Real>
  __device__ __forceinline__ Real sum_over_samples(Real x) const {
    for (int distance = threads(); distance < threads() * samples(); distance *= 2) {
      x += __shfl_xor_sync(kAllLanes, x, distance);
    }
    return x;
  }

 private:
  // What is told of a thread is computed wherever it is asked for: it would take registers all the while.
  static __device__ __forceinline__ int number() { return thread_of_block(); }
};

// All of a block, of more than one warp: one row, one sample after the other.
struct SampleBlock {
  static constexpr int kMost = 32 * kMostWarps;
  int warps;

  __device__ __forceinline__ int threads() const { return 32 * warps; }
  __device__ __forceinline__ int samples() const { return 1; }
  __device__ __forceinline__ int thread() const { return threadIdx.x; }
  __device__ __forceinline__ int sample() const { return 0; }
  __device__ __forceinline__ int64_t row() const { return within_loop(blockIdx.x); }

  template <class Make>
  __device__ __forceinline__ const auto& made_once(Make make) const {
    __shared__ decltype(make()) made;
    if (threadIdx.x == 0) made = make();
    __syncthreads();
    return made;
  }

  template <class Real, int kCount, class Function>
  __device__ __forceinline__ void reduce_each(Real (&values)[kCount], Function f, Real identity) const {
    Warps{warps}.reduce_each(values, f, identity);
  }

  // All have it before they sum, and so before there is another one.
  template <class Real>
  __device__ __forceinline__ Real of_thread(Real x, int thread) const {
    __shared__ Real found;
    if (threadIdx.x == thread) found = x;
    __syncthreads();
    return found;
  }

  template <class Real>
  __device__ __forceinline__ Real sum_over_samples(Real x) const {
    return x;
  }
};

}  // namespace reinmax_kernels::cuda
