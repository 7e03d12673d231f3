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

// The same as they lie in memory.
template <class T, int kWidth>
struct StoredOperands {
  Pack<T, kWidth> x, g, h;

  __device__ __forceinline__ void forbid_unless(const Pack<unsigned char, kWidth>& allowed) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) x[e] = allowed[e] ? x[e] : minus_infinity<T>();
  }
};

template <class T>
struct Upstream {
  using Real = Computed<T>;

  LogitsRow<T> logits;
  Row<T> grad_one_hot, grad_probs;
  const BackwardArguments& arguments;

  // In place of a gradient that is absent the logits are read, in vain, for that takes no branch.
  __device__ __forceinline__ Upstream(const BackwardArguments& arguments, const RowNumber& row)
      : logits(arguments.logits, row),
        grad_one_hot(arguments.grad_one_hot, row),
        grad_probs(arguments.grad_probs, row),
        arguments(arguments) {
    if (!has_grad_one_hot()) grad_one_hot = logits.values;
  }

  // Without kGradProbs there is no gradient of the probabilities.
  template <int kWidth, bool kGradProbs = true>
  __device__ __forceinline__ Operands<Real, kWidth> load(int j, bool inside) const {
    StoredOperands<T, kWidth> at;
    at.x.fill(minus_infinity<T>());
    at.g.fill(zero<T>());
    at.h.fill(zero<T>());
    if (inside) {
      at = load_stored<kWidth>(j);
      if (kGradProbs && has_grad_probs()) at.h = grad_probs.template load<kWidth>(j);
      if (has_mask()) at.forbid_unless(load_mask<kWidth>(j));
    }
    return operands<kGradProbs>(at);
  }

  // Logits and gradient of the one-hot: loads of which none waits for what another has brought. h is 0.
  template <int kWidth, bool kInPlace = false>
  __device__ __forceinline__ StoredOperands<T, kWidth> load_stored(int j) const {
    StoredOperands<T, kWidth> at;
    at.x = load_adjacent<kWidth, kInPlace>(logits.values.start + j);
    at.g = grad_one_hot.template load<kWidth, kInPlace>(j);
    at.h.fill(zero<T>());
    return at;
  }

  // What lies at some accesses' positions, by a warp: loads of which none waits for what another has brought, and which
  // are all under way when this returns. The mask is yet to be looked at.
  template <bool kGradProbs, int kWidth, int kAccesses, class Position>
  __device__ __forceinline__ void load_side_by_side(StoredOperands<T, kWidth> (&stored)[kAccesses],
                                                    Position position) const {
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) stored[a] = load_stored<kWidth, true>(position(a));
    if (kGradProbs && has_grad_probs()) {
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) stored[a].h = grad_probs.template load<kWidth, true>(position(a));
    }
    __syncwarp();
  }

  template <int kWidth, int kAccesses, class Position>
  __device__ __forceinline__ void apply_mask(StoredOperands<T, kWidth> (&stored)[kAccesses], Position position) const {
    if (has_mask()) {
      Pack<unsigned char, kWidth> allowed[kAccesses];
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) allowed[a] = load_mask<kWidth>(position(a));
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) stored[a].forbid_unless(allowed[a]);
    }
  }

  // From the arguments, for this to take no register.
  __device__ __forceinline__ bool has_grad_one_hot() const { return arguments.grad_one_hot.data != nullptr; }
  __device__ __forceinline__ bool has_grad_probs() const { return grad_probs.start != nullptr; }
  __device__ __forceinline__ bool has_mask() const { return logits.mask.start != nullptr; }

  template <int kWidth>
  __device__ __forceinline__ Pack<unsigned char, kWidth> load_mask(int j) const {
    return load_adjacent<kWidth>(logits.mask.start + j);
  }

  // Where the category can't be drawn gradients are 0, whatever arrived there.
  template <bool kGradProbs, int kWidth>
  __device__ __forceinline__ Operands<Real, kWidth> operands(const StoredOperands<T, kWidth>& stored) const {
    Operands<Real, kWidth> at{all_computed(stored.x), all_computed(stored.g), {}};
    at.h.fill(0);
    if constexpr (kGradProbs) at.h = all_computed(stored.h);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const bool drawable = at.x[e] != -infinity<Real>();
      at.g[e] = drawable && has_grad_one_hot() ? at.g[e] : 0;
      if constexpr (kGradProbs) at.h[e] = drawable ? at.h[e] : 0;
    }
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
