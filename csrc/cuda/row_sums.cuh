// Sums over a row, from its parts; and the gradient at positions of a row whose sums are known.
#pragma once

#include "cuda/block.cuh"
#include "cuda/upstream.cuh"

namespace reinmax_kernels::cuda {

// What a row has beside its elements.
template <Relaxation kRelaxation>
struct RowState {
  int drawn;
  double log_sum_exp, tau = 1;

  RowState() = default;
  __device__ __forceinline__ RowState(const BackwardArguments& arguments, int64_t row) { load(arguments, row); }

  __device__ __forceinline__ void load(const BackwardArguments& arguments, int64_t row) {
    drawn = int(arguments.index[row]);
    log_sum_exp = arguments.log_sum_exp[row];
    if (kRelaxation != Relaxation::kNone && arguments.tau != nullptr) tau = *arguments.tau;
  }
};

// What takes logits of a row to probabilities.
template <class Real, Relaxation kRelaxation>
struct Exponentials {
  Softmax<Real> softmax;
  Tempered<Real> tempered;
  Real lowered;  // what a logit with a gap is below the largest at least, negative

  __device__ __forceinline__ Exponentials(const Softmax<Real>& softmax, double tau, double gap)
      : softmax(softmax), lowered(Real(-gap)) {
    if (kRelaxation != Relaxation::kNone) tempered = Tempered<Real>(tau);
  }

  // Of p, before it is divided by its sum, of a category that was not drawn; that of a drawn one with a gap is 1.
  __device__ __forceinline__ Real relaxed(Real x, Real largest) const {
    if constexpr (kRelaxation != Relaxation::kGapped) return tempered(x, largest);
    return tempered(smaller(x - largest, lowered), Real(0));
  }
};

// Of a part of a row: g at the drawn category, <pi, g>, <pi, h>, and of p its sum and <p, g> before it is divided by
// that sum, relative to exp(largest / tau). Where p is pi, the latter aren't used. With a gap p is relative to the
// largest logit of the row, known before, and the drawn category taken for one that was not drawn, until it is lifted;
// <pi, g> is not used.
template <class Real, Relaxation kRelaxation>
struct Partial {
  static constexpr bool kRelaxed = kRelaxation != Relaxation::kNone;
  Real g_drawn = 0, pi_g = 0, pi_h = 0, p = 0, p_g = 0;
  Real largest = -std::numeric_limits<Real>::max();  // finite, for a difference of infinities is NaN

  // `largest` is at least that of these elements.
  template <int kWidth>
  __device__ __forceinline__ void add(const Operands<Real, kWidth>& at, const Exponentials<Real, kRelaxation>& of) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const Real pi = of.softmax(at.x[e]);
      if constexpr (kRelaxation != Relaxation::kGapped) pi_g = multiply_add(pi, at.g[e], pi_g);
      pi_h = multiply_add(pi, at.h[e], pi_h);
      if constexpr (kRelaxed) {
        const Real weight = of.relaxed(at.x[e], largest);
        p += weight;
        p_g = multiply_add(weight, at.g[e], p_g);
      }
    }
  }

  // What the drawn category is by itself, if it is among the positions from `j` on: g there, and its lift. To load it
  // once its index is known would be one more load to wait for.
  template <class Estimator, int kWidth>
  __device__ __forceinline__ void take_drawn(const Operands<Real, kWidth>& at, int j, int drawn,
                                             const Exponentials<Real, kRelaxation>& of) {
    constexpr bool kGapped = kRelaxation == Relaxation::kGapped;
    if constexpr (!kGapped && !Estimator::kTakesGradDrawn) return;
    Operands<Real, 1> found{};
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      if (j + e == drawn) found.x[0] = at.x[e], found.g[0] = at.g[e];
    }
    if (j > drawn || drawn >= j + kWidth) return;
    g_drawn = found.g[0];
    if constexpr (kGapped) lift_drawn(found, of);
  }

  // By one thread of a row.
  __device__ __forceinline__ void lift_drawn(const Operands<Real, 1>& drawn,
                                             const Exponentials<Real, kRelaxation>& of) {
    const Real missing = 1 - of.relaxed(drawn.x[0], largest);
    p += missing;
    p_g = multiply_add(missing, drawn.g[0], p_g);
  }

  __device__ __forceinline__ void add(const Partial& part, const Exponentials<Real, kRelaxation>& of) {
    pi_g += part.pi_g, pi_h += part.pi_h;
    if constexpr (kRelaxation == Relaxation::kTempered) {
      make_relative_to(larger(largest, part.largest), of);
      const Real factor = of.tempered(part.largest, largest);
      p = multiply_add(part.p, factor, p);
      p_g = multiply_add(part.p_g, factor, p_g);
    } else if constexpr (kRelaxed) {
      p += part.p, p_g += part.p_g;
    }
  }

  __device__ __forceinline__ void make_relative_to(Real logit, const Exponentials<Real, kRelaxation>& of) {
    if constexpr (kRelaxation == Relaxation::kTempered) {
      const Real factor = of.tempered(largest, logit);
      p *= factor, p_g *= factor, largest = logit;
    }
  }

  // Over all threads of a row, relative to the same largest logit.
  template <bool kGradDrawn, class Threads>
  __device__ __forceinline__ void combine(const Threads& threads, bool with_grad_probs) {
    constexpr bool kWithPi = kRelaxation != Relaxation::kGapped;
    Real sums[kWithPi + 2 * kRelaxed + kGradDrawn];
    const auto each = [&](auto take) {
      int i = 0;
      if constexpr (kWithPi) take(pi_g, sums[i++]);
      if constexpr (kRelaxed) take(p, sums[i++]), take(p_g, sums[i++]);
      if constexpr (kGradDrawn) take(g_drawn, sums[i++]);
    };
    each([](Real& own, Real& sum) { sum = own; });
    sum_each(threads, sums);
    each([](Real& own, Real& sum) { own = sum; });
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

// Without kGradProbs there is no gradient of the probabilities, and with a gap pi is not computed then.
template <class Estimator, class Real, Relaxation kRelaxation, bool kGradProbs = true>
struct Gradient {
  static constexpr bool kGapped = kRelaxation == Relaxation::kGapped;
  Exponentials<Real, kRelaxation> of;
  Sums<Real> sums;
  Real largest, inverse_sum;

  __device__ __forceinline__ Gradient(const Exponentials<Real, kRelaxation>& of, const Partial<Real, kRelaxation>& row)
      : of(of), sums{row.g_drawn, row.pi_g, row.pi_g, row.pi_h} {
    if constexpr (kRelaxation != Relaxation::kNone) {
      largest = row.largest;
      // A gap leaves a sum even where there is no distribution.
      inverse_sum = 1 / row.p + (kGapped ? of.softmax.nan_if_invalid() : Real(0));
      sums.p_g = row.p_g * inverse_sum;
    }
  }

  // At the positions from `j` on.
  template <int kWidth>
  __device__ __forceinline__ Pack<Real, kWidth> operator()(const Operands<Real, kWidth>& at, int j, int drawn) const {
    Pack<Real, kWidth> gradient;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const Real pi = kGapped && !kGradProbs ? Real(0) : of.softmax(at.x[e]);
      Real p = pi;
      if constexpr (kRelaxation != Relaxation::kNone) p = of.relaxed(at.x[e], largest) * inverse_sum;
      if (kGapped && j + e == drawn) p = inverse_sum;
      const Point<Real> point{pi, p, at.g[e], at.h[e], j + e == drawn};
      gradient[e] = Estimator::gradient(point, sums, of.tempered.inverse_tau);
    }
    return gradient;
  }
};

}  // namespace reinmax_kernels::cuda
