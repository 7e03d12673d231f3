// Sums over a row, from its parts; and the gradient at positions of a row whose sums are known.
#pragma once

#include "cuda/block.cuh"
#include "cuda/upstream.cuh"

namespace reinmax_kernels::cuda {

// What takes logits of a row to probabilities.
template <class Real, bool kTempered>
struct Exponentials {
  Softmax<Real> softmax;
  Tempered<Real> tempered;

  __device__ __forceinline__ Exponentials(const Softmax<Real>& softmax, const double* tau) : softmax(softmax) {
    if constexpr (kTempered) tempered = Tempered<Real>(*tau);
  }
};

// Of a part of a row: <pi, g>, <pi, h>, and of p = softmax(x / tau) its sum and <p, g> before it is divided by that
// sum, relative to exp(largest / tau). At tau = 1 p is pi, and the latter aren't used.
template <class Real, bool kTempered>
struct Partial {
  Real pi_g = 0, pi_h = 0, p = 0, p_g = 0;
  Real largest = -std::numeric_limits<Real>::max();  // finite, for a difference of infinities is NaN

  // `largest` is at least that of these elements.
  template <int kWidth>
  __device__ __forceinline__ void add(const Operands<Real, kWidth>& at, const Exponentials<Real, kTempered>& of) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const Real pi = of.softmax(at.x[e]);
      pi_g = multiply_add(pi, at.g[e], pi_g);
      pi_h = multiply_add(pi, at.h[e], pi_h);
      if constexpr (kTempered) {
        const Real weight = of.tempered(at.x[e], largest);
        p += weight;
        p_g = multiply_add(weight, at.g[e], p_g);
      }
    }
  }

  __device__ __forceinline__ void add(const Partial& part, const Exponentials<Real, kTempered>& of) {
    pi_g += part.pi_g, pi_h += part.pi_h;
    if constexpr (kTempered) {
      make_relative_to(larger(largest, part.largest), of);
      const Real factor = of.tempered(part.largest, largest);
      p = multiply_add(part.p, factor, p);
      p_g = multiply_add(part.p_g, factor, p_g);
    }
  }

  __device__ __forceinline__ void make_relative_to(Real logit, const Exponentials<Real, kTempered>& of) {
    if constexpr (kTempered) {
      const Real factor = of.tempered(largest, logit);
      p *= factor, p_g *= factor, largest = logit;
    }
  }

  // Over all threads of a row, relative to the same largest logit.
  template <class Threads>
  __device__ __forceinline__ void combine(const Threads& threads, bool with_grad_probs) {
    if constexpr (kTempered) {
      Real sums[] = {pi_g, p, p_g};
      sum_each(threads, sums);
      pi_g = sums[0], p = sums[1], p_g = sums[2];
    } else {
      pi_g = sum_of(threads, pi_g);
    }
    if (with_grad_probs) pi_h = sum_of(threads, pi_h);
  }
};

template <class Real, int kWidth>
__device__ __forceinline__ Real largest_in(const Pack<Real, kWidth>& x, Real so_far) {
#pragma unroll
  for (int e = 0; e < kWidth; ++e) so_far = larger(so_far, x[e]);
  return so_far;
}

// Where the estimator knows it without sums; adds up the one that the drawn category needs.
template <class Estimator, class Real, int kWidth>
__device__ __forceinline__ Pack<Real, kWidth> away_from_drawn(const Operands<Real, kWidth>& at, Real g_drawn,
                                                              const Softmax<Real>& softmax, Real& pi_g) {
  Pack<Real, kWidth> gradient;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    const Real pi = softmax(at.x[e]);
    pi_g = multiply_add(pi, at.g[e], pi_g);
    gradient[e] = Estimator::away_from_drawn(pi, at.g[e], g_drawn);
  }
  return gradient;
}

template <class Estimator, class Real, bool kTempered>
struct Gradient {
  Exponentials<Real, kTempered> of;
  Sums<Real> sums;
  Real largest, inverse_sum;

  __device__ __forceinline__ Gradient(const Exponentials<Real, kTempered>& of, const Partial<Real, kTempered>& row,
                                      Real g_drawn)
      : of(of), sums{g_drawn, row.pi_g, row.pi_g, row.pi_h} {
    if constexpr (kTempered) {
      largest = row.largest;
      inverse_sum = 1 / row.p;
      sums.p_g = row.p_g * inverse_sum;
    }
  }

  // At the positions from `j` on.
  template <int kWidth>
  __device__ __forceinline__ Pack<Real, kWidth> operator()(const Operands<Real, kWidth>& at, int j, int drawn) const {
    Pack<Real, kWidth> gradient;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const Real pi = of.softmax(at.x[e]);
      Real p = pi;
      if constexpr (kTempered) p = of.tempered(at.x[e], largest) * inverse_sum;
      const Point<Real> point{pi, p, at.g[e], at.h[e], j + e == drawn};
      gradient[e] = Estimator::gradient(point, sums, of.tempered.inverse_tau);
    }
    return gradient;
  }
};

}  // namespace reinmax_kernels::cuda
