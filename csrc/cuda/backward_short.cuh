// Rows of at most 64 categories: neighbouring threads of a warp share a row, and a block has a tile of many rows. Where
// rows lie one after the other, the tile goes through shared memory, so that accesses are wide however short a row is.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row_sums.cuh"

namespace reinmax_kernels::cuda {

constexpr int kShortThreads = 256;  // of a block
constexpr int kMostShort = 64;      // categories

template <class T>
constexpr int kShortBackwardElements = std::is_same_v<T, double> ? 2 : 4;  // of a row, to a thread

template <class T>
constexpr int kTileElements = kShortThreads * kShortBackwardElements<T>;  // of a block

// What a thread moves of a tile, between global and shared memory: a wide access, and of the last elements one.
template <class T>
struct Piece {
  static_assert(kTileElements<T> <= kShortThreads * kWidest<T>);
  uint4 wide;
  T single;

  __device__ __forceinline__ void load(const T* from, unsigned elements) {
    if (has_wide(elements)) wide = reinterpret_cast<const uint4*>(from)[threadIdx.x];
    if (has_single(elements)) single = from[single_of(elements)];
  }

  __device__ __forceinline__ void store(T* to, unsigned elements) const {
    if (has_wide(elements)) reinterpret_cast<uint4*>(to)[threadIdx.x] = wide;
    if (has_single(elements)) to[single_of(elements)] = single;
  }

 private:
  static __device__ __forceinline__ bool has_wide(unsigned elements) { return threadIdx.x < elements / kWidest<T>; }
  static __device__ __forceinline__ bool has_single(unsigned elements) { return single_of(elements) < elements; }
  static __device__ __forceinline__ unsigned single_of(unsigned elements) {
    return elements / kWidest<T> * kWidest<T> + threadIdx.x;
  }
};

// Logits and gradients of adjacent rows, in shared memory.
template <class T>
struct alignas(16) Tile {
  T x[kTileElements<T>], g[kTileElements<T>], h[kTileElements<T>];

  // The elements from `first` on, all loads before what they bring is stored; those of a gradient that is absent are
  // not touched. Calls meanwhile() between loads and stores.
  template <class Meanwhile>
  __device__ __forceinline__ void fill(const BackwardArguments& arguments, int64_t first, int elements,
                                       Meanwhile meanwhile) {
    const Rows* const rows[] = {&arguments.logits.values, &arguments.grad_one_hot, &arguments.grad_probs};
    T* const to[] = {x, g, h};
    Piece<T> pieces[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if (rows[i]->data != nullptr) pieces[i].load(static_cast<const T*>(rows[i]->data) + first, elements);
    }
    meanwhile();
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if (rows[i]->data != nullptr) pieces[i].store(to[i], elements);
    }
  }

  // What `Upstream` loads, of the row that begins at element `start`.
  __device__ __forceinline__ Operands<Computed<T>, 1> load(const BackwardArguments& arguments,
                                                           const Row<unsigned char>& mask, int start, int j,
                                                           bool inside) const {
    Operands<Computed<T>, 1> at{{-infinity<Computed<T>>()}, {0}, {0}};
    if (!inside || (mask.start != nullptr && !mask.template load<1>(j)[0])) return at;
    at.x[0] = computed(x[start + j]);
    const bool drawable = at.x[0] != -infinity<Computed<T>>();
    if (drawable && arguments.grad_one_hot.data != nullptr) at.g[0] = computed(g[start + j]);
    if (drawable && arguments.grad_probs.data != nullptr) at.h[0] = computed(h[start + j]);
    return at;
  }
};

// As many threads to a row as `group` has. kStaged: rows lie one after the other, 16-byte aligned.
template <class Estimator, class T, bool kStaged, Relaxation kRelaxation>
__global__ void __launch_bounds__(kShortThreads, 4)
    backward_short_kernel(const BackwardArguments arguments, Lanes group) {
  using Real = Computed<T>;
  struct Nothing {};
  __shared__ std::conditional_t<kStaged, Tile<T>, Nothing> tile;
  __shared__ Softmax<Real> softmax_of[kShortThreads];  // of each row once: converting from float64 is slow

  const int categories = int(arguments.logits.categories), rows_of_block = kShortThreads >> group.log2;
  const int64_t first = int64_t(blockIdx.x) * rows_of_block;
  const int rows = int(min(int64_t{rows_of_block}, arguments.logits.rows - first));
  const int row = threadIdx.x >> group.log2, lane = threadIdx.x - (row << group.log2), start = row * categories;
  const bool here = row < rows;

  const RowNumber number(here ? first + row : first, arguments.logits.inner);
  const auto position = [&](int e) { return lane + (e << group.log2); };
  const auto inside = [&](int e) { return here && position(e) < categories; };
  // Behind the loads of elements, which else would wait for what is made of this.
  RowState<kRelaxation> state;
  const auto load_state = [&] {
    state.load(arguments, here ? first + row : first);
    if (threadIdx.x < rows) softmax_of[threadIdx.x] = Softmax<Real>(arguments.log_sum_exp[first + threadIdx.x]);
  };
  Operands<Real, 1> at[kShortBackwardElements<T>];
  if constexpr (kStaged) {
    tile.fill(arguments, first * categories, rows * categories, load_state);
    __syncthreads();
    const Row<unsigned char> mask(arguments.logits.mask, number);
#pragma unroll
    for (int e = 0; e < kShortBackwardElements<T>; ++e)
      at[e] = tile.load(arguments, mask, start, position(e), inside(e));
  } else {
    const Upstream<T> upstream(arguments, number);
    const auto clamped = [&](int e) { return min(position(e), categories - 1); };
    StoredOperands<T, 1> stored[kShortBackwardElements<T>];
    upstream.template load_side_by_side<true>(stored, clamped);
    load_state();
    __syncthreads();
    upstream.apply_mask(stored, clamped);
#pragma unroll
    for (int e = 0; e < kShortBackwardElements<T>; ++e) {
      if (!inside(e)) stored[e].x.fill(minus_infinity<T>());
      at[e] = upstream.template operands<true>(stored[e]);
    }
  }

  const Exponentials<Real, kRelaxation> of(softmax_of[here ? row : 0], state.tau, arguments.gap);
  Partial<Real, kRelaxation> sums;
  if constexpr (kRelaxation != Relaxation::kNone) {
#pragma unroll
    for (const auto& one : at) sums.largest = largest_in(one.x, sums.largest);
    sums.largest = largest_of(group, sums.largest);
  }
#pragma unroll
  for (int e = 0; e < kShortBackwardElements<T>; ++e) {
    sums.add(at[e], of);
    sums.template take_drawn<Estimator>(at[e], position(e), state.drawn, of);
  }
  sums.template combine<Estimator::kTakesGradDrawn>(group, arguments.grad_probs.data != nullptr);
  const Gradient<Estimator, Real, kRelaxation> gradient(of, sums);
#pragma unroll
  for (int e = 0; e < kShortBackwardElements<T>; ++e) {
    const int j = position(e);
    if (!inside(e)) continue;
    const T result = rounded<T>(gradient(at[e], j, state.drawn)[0]);
    if constexpr (kStaged) {
      tile.x[start + j] = result;  // which nobody but this thread has read
    } else {
      static_cast<T*>(arguments.grad_logits)[first * categories + start + j] = result;
    }
  }
  if constexpr (kStaged) {
    __syncthreads();
    Piece<T> piece;
    piece.load(tile.x, rows * categories);
    piece.store(static_cast<T*>(arguments.grad_logits) + first * categories, rows * categories);
  }
}

}  // namespace reinmax_kernels::cuda
