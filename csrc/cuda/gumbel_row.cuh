// Gumbel-Rao by Monte Carlo (Paulus et al., ICLR 2021): the mean over samples k of J(s_k) g / tau, and J(pi) h. s_k =
// softmax(G_k / tau), where G_k are Gumbel-perturbed logits given the draw D: with exponential variates E, G_D - G_j =
// log(1 + E_j / (E_D pi_j)). One row of it, as its kernels share it.
#pragma once

#include "cuda/noise.cuh"
#include "cuda/upstream.cuh"

namespace reinmax_kernels::cuda {

__device__ __forceinline__ float quotient(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ double quotient(double a, double b) { return a / b; }
__device__ __forceinline__ float log_of_one_and(float x) { return log1pf(x); }
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

// Categories of a thread: one access, of half types of 8 bytes, for this is no work that memory could hold up, and
// there are not registers for more.
template <class T>
constexpr int kHeldByThread = sizeof(T) == 8 ? 2 : 4;

template <class T, bool kTempered>
struct GumbelRow {
  using Real = Computed<T>;
  using Weights = NoisyWeights<Real, kTempered>;
  static constexpr int kHeld = kHeldByThread<T>;

  // Of what its samples are made, beside the categories.
  struct Source {
    NoiseOfRow noise;
    Weights weights;
  };

  // Categories that a thread has for all samples, and what they gather.
  struct Held {
    Pack<Real, kHeld> g, total;
    typename Weights::Category category[kHeld];
  };

  const BackwardArguments& arguments;
  int64_t row;
  int drawn;
  bool wide;  // whether accesses are

  __device__ __forceinline__ GumbelRow(const BackwardArguments& arguments, int64_t row, bool wide)
      : arguments(arguments), row(row), drawn(int(__ldg(arguments.index + row))), wide(wide) {}

  __device__ __forceinline__ Source source() const {
    return {NoiseOfRow(arguments.noise, row), Weights(arguments.tau)};
  }

  __device__ __forceinline__ Softmax<Real> softmax() const { return Softmax<Real>(__ldg(arguments.log_sum_exp + row)); }

  // Those from category `j` on, a multiple of their number, as everywhere here.
  __device__ __forceinline__ Held hold(int j) const {
    const auto at = load<false>(upstream(), j);
    const Softmax<Real> softmax = this->softmax();
    Held held;
    held.g = at.g;
    held.total.fill(0);
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      held.category[e] = Weights::category(softmax, at.x[e]);
      if (j + e == drawn) held.category[e].set_drawn();
    }
    return held;
  }

  // Of the same categories. They are read once more than for the samples, and again to write: there are not registers
  // to keep them.
  __device__ __forceinline__ Real pi_h(int j) const {
    const auto at = load<true>(upstream(), within_loop(j));
    const Softmax<Real> softmax = this->softmax();
    Real sum = 0;
#pragma unroll
    for (int e = 0; e < kHeld; ++e) sum = multiply_add(softmax(at.x[e]), at.h[e], sum);
    return sum;
  }

  // Their weights in a sample.
  __device__ __forceinline__ Pack<Real, kHeld> weights_of(const Held& held, const Source& source, int j,
                                                          uint32_t sample, Real of_drawn) const {
    auto w = source.noise.template exponentials<Real, kHeld>(j, sample);
#pragma unroll
    for (int e = 0; e < kHeld; ++e) w[e] = source.weights(held.category[e].within_loop(), w[e], of_drawn);
    return w;
  }

  // Adds a sample's w and <w, g> to two sums.
  __device__ __forceinline__ void add(const Held& held, const Pack<Real, kHeld>& w, Real (&sums)[2]) const {
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      sums[0] += w[e];
      sums[1] = multiply_add(w[e], held.g[e], sums[1]);
    }
  }

  // One sample, of the weights w; `scale` is one over the sum of all, 0 for no sample, and `centre` <s, g>.
  __device__ __forceinline__ void gather(Held& held, const Pack<Real, kHeld>& w, Real scale, Real centre) const {
#pragma unroll
    for (int e = 0; e < kHeld; ++e) held.total[e] = multiply_add(w[e] * scale, held.g[e] - centre, held.total[e]);
  }

  __device__ __forceinline__ void write(const Held& held, int j, Real pi_h) const {
    const Real scale = Weights(arguments.tau).inverse_tau / Real(arguments.noise.samples);
    const double log_sum_exp = __ldg(arguments.log_sum_exp + row);
    const Real nan_if_invalid = Real(log_sum_exp - log_sum_exp);
    Pack<Real, kHeld> gradient;
#pragma unroll
    for (int e = 0; e < kHeld; ++e) gradient[e] = multiply_add(held.total[e], scale, nan_if_invalid);
    if (arguments.grad_probs.data != nullptr) {
      const Softmax<Real> softmax = this->softmax();
      const auto at = load<true>(upstream(), within_loop(j));
#pragma unroll
      for (int e = 0; e < kHeld; ++e) gradient[e] = multiply_add(softmax(at.x[e]), at.h[e] - pi_h, gradient[e]);
    }
    store(j, gradient);
  }

 private:
  __device__ __forceinline__ Upstream<T> upstream() const {
    return Upstream<T>(arguments, RowNumber(within_loop(row), arguments.logits.inner));
  }

  __device__ __forceinline__ int categories() const { return int(arguments.logits.categories); }

  template <bool kGradProbs>
  __device__ __forceinline__ Operands<Real, kHeld> load(const Upstream<T>& upstream, int j) const {
    if (wide) return upstream.template load<kHeld, kGradProbs>(j, j < categories());
    Operands<Real, kHeld> at;
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      const auto one = upstream.template load<1, kGradProbs>(j + e, j + e < categories());
      at.x[e] = one.x[0], at.g[e] = one.g[0], at.h[e] = one.h[0];
    }
    return at;
  }

  __device__ __forceinline__ void store(int j, const Pack<Real, kHeld>& gradient) const {
    T* const out = static_cast<T*>(arguments.grad_logits) + row * categories() + j;
    if (wide) {
      if (j < categories()) store_adjacent(out, gradient);
      return;
    }
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      if (j + e < categories()) out[e] = rounded<T>(gradient[e]);
    }
  }
};

}  // namespace reinmax_kernels::cuda
