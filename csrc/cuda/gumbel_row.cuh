// Gumbel-Rao by Monte Carlo (Paulus et al., ICLR 2021): the mean over samples k of J(s_k) g / tau, and J(pi) h. s_k =
// softmax(G_k / tau), where G_k are Gumbel-perturbed logits given the draw D: with exponential variates E, G_D - G_j =
// log(1 + E_j / (E_D pi_j)). One row of it, as its kernels share it.
#pragma once

#include "cuda/gumbel_weights.cuh"

namespace reinmax_kernels::cuda {

// Categories of a thread. Their noise is made side by side; there are not registers for more.
template <class T>
constexpr int kHeldByThread = sizeof(T) == 8 ? 2 : 8;

// Of the longest rows that a block holds in registers.
template <class T>
constexpr int kHeldByBlock = sizeof(T) == 8 ? 2048 : 4096;

template <class T>
constexpr int kHeldByAccess = kHeldByThread<T> < kWidest<T> ? kHeldByThread<T> : kWidest<T>;

template <class T, bool kTempered>
struct GumbelRow {
  using Real = Computed<T>;
  using Weights = NoisyWeights<Real, kTempered>;
  static constexpr int kHeld = kHeldByThread<T>, kAccess = kHeldByAccess<T>, kAccesses = kHeld / kAccess;

  // Of what its samples are made, beside the categories.
  struct Source {
    NoiseOfRow noise;
    Weights weights;
  };

  // Categories that a thread has for all samples, and what they gather, NaN in a row without a distribution.
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
  __device__ __forceinline__ Held hold(int j) const { return hold(upstream(), softmax(), j); }

  // The same in a loop over the row, for which it keeps where the row lies.
  __device__ __forceinline__ Held hold(const Upstream<T>& upstream, const Softmax<Real>& softmax, int j) const {
    const auto at = load<false>(upstream, j);
    Held held;
    held.g = at.g;
    held.total.fill(softmax.nan_if_invalid());
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

  // Their exponential variates in a sample.
  __device__ __forceinline__ Pack<Real, kHeld> exponentials(const Source& source, int j, uint32_t sample) const {
    return source.noise.template exponentials<Real, kHeld>(j, sample);
  }

  // That of the drawn category, in the thread that has it, and which one that is.
  __device__ __forceinline__ Real at_drawn(const Pack<Real, kHeld>& exponentials) const {
    const int drawn = within_loop(this->drawn);
    Pack<Real, kHeld> left = exponentials;
#pragma unroll
    for (int bit = 1; bit < kHeld; bit *= 2) {
#pragma unroll
      for (int e = 0; e < kHeld; e += 2 * bit) left[e] = drawn & bit ? left[e + bit] : left[e];
    }
    return left[0];
  }
  __device__ __forceinline__ int thread_of_drawn() const { return unsigned(within_loop(drawn)) / kHeld; }

  // Their weights.
  __device__ __forceinline__ Pack<Real, kHeld> weights_of(const Held& held, const Source& source,
                                                          const Pack<Real, kHeld>& exponentials, Real of_drawn) const {
    Pack<Real, kHeld> w;
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      w[e] = source.weights(held.category[e].within_loop(), exponentials[e], of_drawn);
    }
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
    const Real scale = quotient(Weights(arguments.tau).inverse_tau, Real(uint32_t(arguments.noise.samples)));
    Pack<Real, kHeld> gradient;
#pragma unroll
    for (int e = 0; e < kHeld; ++e) gradient[e] = held.total[e] * scale;
    if (arguments.grad_probs.data != nullptr) {
      const Softmax<Real> softmax = this->softmax();
      const auto at = load<true>(upstream(), within_loop(j));
#pragma unroll
      for (int e = 0; e < kHeld; ++e) gradient[e] = multiply_add(softmax(at.x[e]), at.h[e] - pi_h, gradient[e]);
    }
    store(j, gradient);
  }

  __device__ __forceinline__ Upstream<T> upstream() const {
    return Upstream<T>(arguments, RowNumber(within_loop(row), arguments.logits.inner));
  }

 private:
  __device__ __forceinline__ int categories() const { return int(arguments.logits.categories); }

  template <bool kGradProbs>
  __device__ __forceinline__ Operands<Real, kHeld> load(const Upstream<T>& upstream, int j) const {
    if constexpr (kAccesses == 1) {
      if (wide) return upstream.template load<kHeld, kGradProbs>(j, j < categories());
    } else {
      if (wide) return load_side_by_side<kGradProbs>(upstream, j);
    }
    Operands<Real, kHeld> at;
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      const auto one = upstream.template load<1, kGradProbs>(j + e, j + e < categories());
      at.x[e] = one.x[0], at.g[e] = one.g[0], at.h[e] = one.h[0];
    }
    return at;
  }

  // By several accesses, of which none waits for what another has brought.
  template <bool kGradProbs>
  __device__ __forceinline__ Operands<Real, kHeld> load_side_by_side(const Upstream<T>& upstream, int j) const {
    StoredOperands<T, kAccess> stored[kAccesses];
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) {
      const int first = j + a * kAccess;
      stored[a].x.fill(minus_infinity<T>());
      stored[a].g.fill(zero<T>());
      stored[a].h.fill(zero<T>());
      if (first >= categories()) continue;
      stored[a] = upstream.template load_stored<kAccess>(first);
      if (kGradProbs && upstream.has_grad_probs()) stored[a].h = upstream.grad_probs.template load<kAccess>(first);
    }
    if (upstream.has_mask()) {
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) {
        const int first = j + a * kAccess;
        if (first < categories()) stored[a].forbid_unless(upstream.template load_mask<kAccess>(first));
      }
    }
    Operands<Real, kHeld> at;
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) {
      const auto some = upstream.template operands<kGradProbs>(stored[a]);
#pragma unroll
      for (int e = 0; e < kAccess; ++e) {
        const int to = a * kAccess + e;
        at.x[to] = some.x[e], at.g[to] = some.g[e], at.h[to] = some.h[e];
      }
    }
    return at;
  }

  __device__ __forceinline__ void store(int j, const Pack<Real, kHeld>& gradient) const {
    T* const out = static_cast<T*>(arguments.grad_logits) + row * categories() + j;
    if (wide) {
#pragma unroll
      for (int first = 0; first < kHeld; first += kAccess) {
        Pack<Real, kAccess> some;
#pragma unroll
        for (int e = 0; e < kAccess; ++e) some[e] = gradient[first + e];
        if (j + first < categories()) store_adjacent(out + first, some);
      }
      return;
    }
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      if (j + e < categories()) out[e] = rounded<T>(gradient[e]);
    }
  }
};

}  // namespace reinmax_kernels::cuda
