// The threads that share a row, as reductions see them: neighbouring lanes of a warp, or whole warps.
#pragma once

#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

constexpr int kMostWarps = 32;  // of a block
constexpr int kMostThreads = 32 * kMostWarps;

// 2^log2 lanes, at most a warp.
struct Lanes {
  int log2;

  template <class Real, int kCount, class Function>
  __device__ __forceinline__ void reduce_each(Real (&values)[kCount], Function f, Real) const {
    reduce(values, f, 1 << log2);
  }
};

// One warp, of which a block has several, each with a row of its own; or all warps of a block.
struct Warps {
  int count;

  __device__ __forceinline__ int threads() const { return count * 32; }
  __device__ __forceinline__ int thread() const { return count == 1 ? threadIdx.x % 32 : threadIdx.x; }
  __device__ __forceinline__ int64_t row() const {
    return count == 1 ? int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32 : blockIdx.x;
  }

  __device__ __forceinline__ void synchronize() const {
    if (count == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  template <class Real, int kCount, class Function>
  __device__ __forceinline__ void reduce_each(Real (&values)[kCount], Function f, Real identity) const {
    __shared__ Real of_warps[kCount][kMostWarps];
    reduce(values, f);
    if (count == 1) return;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();  // the results of an earlier reduction have been read
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) of_warps[i][warp] = values[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = lane < count ? of_warps[i][lane] : identity;
    reduce(values, f);
  }
};

// Of each of the values, over the threads: all of them get the results.
template <class Threads, class Real, int kCount>
__device__ __forceinline__ void sum_each(const Threads& threads, Real (&values)[kCount]) {
  threads.reduce_each(values, [](Real a, Real b) { return a + b; }, Real(0));
}

template <class Threads, class Real>
__device__ __forceinline__ Real sum_of(const Threads& threads, Real x) {
  Real values[] = {x};
  sum_each(threads, values);
  return values[0];
}

// NaN is dropped.
template <class Threads, class Real>
__device__ __forceinline__ Real largest_of(const Threads& threads, Real x) {
  Real values[] = {x};
  threads.reduce_each(values, [](Real a, Real b) { return larger(a, b); }, -infinity<Real>());
  return values[0];
}

}  // namespace reinmax_kernels::cuda
