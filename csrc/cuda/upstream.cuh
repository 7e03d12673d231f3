// What a backward starts from, row by row.
#pragma once

#include "cuda/estimator.cuh"
#include "cuda/softmax.cuh"

namespace reinmax_kernels::cuda {

// Logits and both gradients at adjacent positions of a row.
template <class Real, int kWidth>
struct Operands {
  Pack<Real, kWidth> x, g, h;
};

template <class T>
struct Upstream {
  using Real = Computed<T>;

  LogitsRow<T> logits;
  Row<T> grad_one_hot, grad_probs;

  __device__ __forceinline__ Upstream(const BackwardArguments& arguments, const RowNumber& row)
      : logits(arguments.logits, row),
        grad_one_hot(arguments.grad_one_hot, row),
        grad_probs(arguments.grad_probs, row) {}

  // Without kGradProbs there is no gradient of the probabilities.
  template <int kWidth, bool kGradProbs = true>
  __device__ __forceinline__ Operands<Real, kWidth> load(int j, bool inside) const {
    Operands<Real, kWidth> at;
    at.x = logits.template load<kWidth>(j, inside);
    at.g = load_gradient<kWidth, T>(grad_one_hot, at.x, j, inside);
    at.h.fill(0);
    if constexpr (kGradProbs) at.h = load_gradient<kWidth, T>(grad_probs, at.x, j, inside);
    return at;
  }
};

// How a row of so many categories is accessed: kWidth elements at a time from the first on whose address is a multiple
// of 16 bytes, and those before and behind, fewer than 2 kWidth, one by one. So rows of any length have wide accesses.
template <int kWidth>
struct Accesses {
  int head = 0, wide, categories;

  template <class T>
  __device__ __forceinline__ Accesses(const T* start, int categories) : categories(categories) {
    if constexpr (kWidth > 1) {
      const int behind = int(reinterpret_cast<uintptr_t>(start) / sizeof(T) % kWidth);
      head = min((kWidth - behind) % kWidth, categories);
    }
    wide = (categories - head) / kWidth;
  }

  __device__ __forceinline__ int position(int access) const { return head + access * kWidth; }

  // Of the one element that a thread takes by itself; outside the row for most threads.
  __device__ __forceinline__ int position_of_single(int thread) const {
    return thread < head ? thread : thread + wide * kWidth;
  }

  __device__ __forceinline__ bool has(int j) const { return j < categories; }
};

}  // namespace reinmax_kernels::cuda
