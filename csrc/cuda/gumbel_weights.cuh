// Gumbel-Rao's weights of categories in a sample, beside that of the drawn one.
#pragma once

#include "cuda/noise.cuh"
#include "cuda/upstream.cuh"

namespace reinmax_kernels::cuda {

// None of those that are divided by here is subnormal.
__device__ __forceinline__ float quotient(float a, float b) { return a * approximate_reciprocal(b); }
__device__ __forceinline__ double quotient(double a, double b) { return a / b; }

// x >= 0 and finite. What the sum lost to rounding is put back, to first order.
__device__ __forceinline__ float log_of_one_and(float x) {
  const float y = x + 1.0f;
  return multiply_add(x - (y - 1.0f), approximate_reciprocal(y), -minus_log(y));
}
static __device__ __noinline__ double log_of_one_and(double x) { return log1p(x); }

// s_D s_j of two categories, from the weight of j beside that of D.
template <class Real>
__device__ __forceinline__ Real slope_of_weight(Real other) {
  const Real whole = other + 1;
  return quotient(other, whole * whole);
}

// The weight of category j in s_k, that of D being 1, is (1 + E_j / (E_D pi_j))^(-1 / tau): at tau = 1 a quotient.
template <class Real, bool kTempered>
struct NoisyWeights {
  struct Category {
    Real pi;  // of D so much that nothing beside it counts

    __device__ __forceinline__ Category within_loop() const { return *this; }

    __device__ __forceinline__ void set_drawn() { pi = Real(0x1p100); }
  };
  static constexpr Real inverse_tau = 1;

  NoisyWeights() = default;
  __device__ __forceinline__ explicit NoisyWeights(const double*) {}

  static __device__ __forceinline__ Category category(const Softmax<Real>& softmax, Real x) { return {softmax(x)}; }

  __device__ __forceinline__ Real operator()(const Category& category, Real exponential, Real of_drawn) const {
    const Real scaled = category.pi * of_drawn;
    return quotient(scaled, scaled + exponential);
  }
};

// No probability may underflow unless the weight does: those below e^-60 count as that, and the rest is a factor of the
// weight, for of so large a sum the 1 has no part.
template <class Real>
struct NoisyWeights<Real, true> {
  struct Category {
    Real exponent;  // of pi, likewise

    // What follows from it would take registers all through a loop.
    __device__ __forceinline__ Category within_loop() const { return {cuda::within_loop(exponent)}; }

    __device__ __forceinline__ void set_drawn() { exponent = infinity<Real>(); }
  };
  Real inverse_tau;

  NoisyWeights() = default;
  __device__ __forceinline__ explicit NoisyWeights(const double* tau) : inverse_tau(Tempered<Real>(*tau).inverse_tau) {}

  static __device__ __forceinline__ Category category(const Softmax<Real>& softmax, Real x) {
    return {softmax.exponent(x)};
  }

  __device__ __forceinline__ Real operator()(const Category& category, Real exponential, Real of_drawn) const {
    constexpr Real kLeast = Real(-60) * kNat<Real>;
    const Real ratio = quotient(exponential, power(larger(category.exponent, kLeast)) * of_drawn);
    const Real below = smaller(category.exponent - kLeast, Real(0));
    return power(multiply_add(log_of_one_and(ratio), -kNat<Real>, below) * inverse_tau);
  }
};

}  // namespace reinmax_kernels::cuda
