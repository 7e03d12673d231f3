// Rows of at most 64 categories: neighbouring threads of a warp share a row, and a block has a tile of many rows. Where
// rows lie one after the other, the tile goes through shared memory, so that accesses are wide however short a row is.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row_sums.cuh"

namespace reinmax_kernels::cuda {

constexpr int kShortThreads = 256;  // of a block
constexpr int kMostShort = 64;      // categories

template <class T>
constexpr int kShortElements = std::is_same_v<T, double> ? 2 : 4;  // of a row, to a thread

template <class T>
constexpr int kTileElements = kShortThreads * kShortElements<T>;  // of a block

// Between global and shared memory, by all threads of the block: wide accesses, and the last elements one by one.
template <class T>
__device__ __forceinline__ void copy_tile(const T* from, T* to, unsigned elements) {
  static_assert(kTileElements<T> <= kShortThreads * kWidest<T>);
  const unsigned wide = elements / kWidest<T>;
  if (threadIdx.x < wide) reinterpret_cast<uint4*>(to)[threadIdx.x] = reinterpret_cast<const uint4*>(from)[threadIdx.x];
  const unsigned single = wide * kWidest<T> + threadIdx.x;
  if (single < elements) to[single] = from[single];
}

// Logits and gradients of adjacent rows, in shared memory.
template <class T>
struct alignas(16) Tile {
  T x[kTileElements<T>], g[kTileElements<T>], h[kTileElements<T>];

  // The elements from `first` on; those of a gradient that is absent are not touched.
  __device__ __forceinline__ void fill(const BackwardArguments& arguments, int64_t first, int elements) {
    const auto copy = [&](const Rows& rows, T* to) {
      if (rows.data != nullptr) copy_tile(static_cast<const T*>(rows.data) + first, to, elements);
    };
    copy(arguments.logits.values, x);
    copy(arguments.grad_one_hot, g);
    copy(arguments.grad_probs, h);
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

  if (threadIdx.x < rows) softmax_of[threadIdx.x] = Softmax<Real>(arguments.log_sum_exp[first + threadIdx.x]);
  if constexpr (kStaged) tile.fill(arguments, first * categories, rows * categories);
  __syncthreads();

  const RowNumber number(here ? first + row : first, arguments.logits.inner);
  const auto load = [&](int j, bool inside) {
    if constexpr (kStaged) {
      return tile.load(arguments, Row<unsigned char>(arguments.logits.mask, number), start, j, inside);
    } else {
      return Upstream<T>(arguments, number).template load<1>(j, inside);
    }
  };
  Operands<Real, kShortElements<T>> at;
#pragma unroll
  for (int e = 0; e < kShortElements<T>; ++e) {
    const int j = lane + (e << group.log2);
    const auto one = load(j, here && j < categories);
    at.x[e] = one.x[0], at.g[e] = one.g[0], at.h[e] = one.h[0];
  }
  const int drawn = here ? int(arguments.index[first + row]) : 0;
  const Operands<Real, 1> at_drawn = load(drawn, here);

  const Exponentials<Real, kRelaxation> of(softmax_of[here ? row : 0], arguments);
  Partial<Real, kRelaxation> sums;
  if constexpr (kRelaxation != Relaxation::kNone) sums.largest = largest_of(group, largest_in(at.x, sums.largest));
  if (kRelaxation == Relaxation::kGapped && lane == 0) sums.lift_drawn(at_drawn, of);
  sums.add(at, of);
  sums.combine(group, arguments.grad_probs.data != nullptr);
  const Gradient<Estimator, Real, kRelaxation> gradient(of, sums, at_drawn.g[0]);
  if constexpr (kStaged) __syncthreads();  // all have read the tile, that is written now
#pragma unroll
  for (int e = 0; e < kShortElements<T>; ++e) {
    const int j = lane + (e << group.log2);
    const Operands<Real, 1> one{{at.x[e]}, {at.g[e]}, {at.h[e]}};
    if (!here || j >= categories) continue;
    const T result = rounded<T>(gradient(one, j, drawn)[0]);
    if constexpr (kStaged) {
      tile.x[start + j] = result;
    } else {
      static_cast<T*>(arguments.grad_logits)[first * categories + start + j] = result;
    }
  }
  if constexpr (kStaged) {
    __syncthreads();
    copy_tile(tile.x, static_cast<T*>(arguments.grad_logits) + first * categories, rows * categories);
  }
}

}  // namespace reinmax_kernels::cuda
