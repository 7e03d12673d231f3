// Probabilities at a position of a row: softmax(x) from the log-sum-exp that was kept, and its relaxation p, which most
// estimators have in the place of the drawn one-hot.
#pragma once

#include <limits>

#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

// Exponentials in float32 are the hardware's, 2^t with a relative error of 2^-22, and 0 where that is subnormal: the
// contract does not reach here. In float64 they are e^t, one copy of which is called, for it takes many registers.
// `kNat` takes a difference of logits to t.
template <class Real>
constexpr Real kNat = std::is_same_v<Real, double> ? Real(1) : Real(1.4426950408889634);

__device__ __forceinline__ float power(float t) { return approximate_exp2(t); }
static __device__ __noinline__ double power(double t) { return exp(t); }

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

// pi = exp(x - log_sum_exp), NaN in a row without a distribution. In float32 the log-sum-exp has two parts, so that
// large logits cost no precision.
template <class Real>
struct Softmax {
  Real high, minus_low;

  Softmax() = default;
  __device__ __forceinline__ explicit Softmax(double log_sum_exp)
      : high(Real(log_sum_exp)), minus_low(Real(double(high) - log_sum_exp) * kNat<Real>) {}

  __device__ __forceinline__ Real operator()(Real x) const { return power(exponent(x)); }
  __device__ __forceinline__ Real exponent(Real x) const { return multiply_add(x - high, kNat<Real>, minus_low); }
  __device__ __forceinline__ Real nan_if_invalid() const { return high - high; }
};

template <>
struct Softmax<double> {
  double log_sum_exp;

  Softmax() = default;
  __device__ __forceinline__ explicit Softmax(double log_sum_exp) : log_sum_exp(log_sum_exp) {}

  __device__ __forceinline__ double operator()(double x) const { return power(exponent(x)); }
  __device__ __forceinline__ double exponent(double x) const { return x - log_sum_exp; }
  __device__ __forceinline__ double nan_if_invalid() const { return log_sum_exp - log_sum_exp; }
};

// How p differs from pi = softmax(x): not, or it is softmax(x / tau), or the same of logits of which the drawn one was
// lifted to the largest and every other one lowered to a gap below it.
enum class Relaxation { kNone, kTempered, kGapped };

// exp((x - origin) / tau), and 1 / tau: both factors inside the range where 0 times them is 0 and -inf times them -inf.
// NaN stays NaN.
template <class Real>
struct Tempered {
  Real inverse_tau = 1, per_nat = kNat<Real>;

  Tempered() = default;
  __device__ __forceinline__ explicit Tempered(double tau) {
    const Real inverse = Real(1) / Real(tau);  // float64 would take long in a processor that has little of it
    inverse_tau = clamped(inverse);
    per_nat = clamped(inverse * kNat<Real>);
  }

  __device__ __forceinline__ Real operator()(Real x, Real origin) const { return power((x - origin) * per_nat); }

 private:
  static __device__ __forceinline__ Real clamped(Real factor) {
    constexpr Real kLeast = std::numeric_limits<Real>::min(), kMost = std::numeric_limits<Real>::max();
    return factor < kLeast ? kLeast : factor > kMost ? kMost : factor;
  }
};

}  // namespace reinmax_kernels::cuda
