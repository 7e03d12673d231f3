// Rows of few categories, which groups of a warp's threads share: each thread has some adjacent categories. How rows
// are shared out, how they come to the threads, and a draw from them.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/warp_chunk.cuh"

namespace reinmax_kernels::cuda {

// Of so many rounds that all warps together have to go, those of one warp: as many as let all warps be resident at
// once, and at most so many. Fewer would leave a few warps for a second wave, which takes as long as the first.
inline int rounds_per_warp(int64_t rounds, int most) {
  constexpr int kResidentWarps = 36;  // of a processor, in the 56 registers or fewer that these kernels take
  const int64_t resident = int64_t{kResidentWarps} * processors();
  const int64_t waves = ceil_divide(rounds, resident * most);
  return int(ceil_divide(rounds, resident * waves));
}

inline bool lie_side_by_side(const Logits& logits) {
  return int64_t(logits.inner) == 1 && logits.values.outer_stride == logits.categories;
}

constexpr int kShortWarps = 4;   // of a block
constexpr int kMostRounds = 32;  // of a warp, which computes the uniforms of so many rows at once

// How rows are shared out, the same for all warps.
struct ShortWork {
  int group_bits;  // a group has 2^group_bits threads
  int elements;    // of a row that a thread has: accesses of kWidth
  int rounds;      // of 32 >> group_bits rows each
  bool packed;     // rows lie one after the other

  // Rows that a warp has, and those of them that it has at a time.
  __host__ __device__ int rows_of_warp() const { return rows_of_round() * rounds; }
  __host__ __device__ int rows_of_round() const { return 32 >> group_bits; }

  dim3 grid(int64_t rows) const { return dim3(unsigned(ceil_divide(rows, int64_t{kShortWarps} * rows_of_warp()))); }
};

// Of a row, to a thread.
template <class T, int kWidth>
constexpr int kShortElements = kWidth > 1 && sizeof(T) == 8 ? 4 : 8;

// Categories: the threads of a group are those of a warp at most.
template <class T, int kWidth>
constexpr int kMostShortDraw = 32 * kShortElements<T, kWidth>;

template <class T, int kWidth>
ShortWork short_work(const Logits& logits, int most_rounds = kMostRounds) {
  ShortWork work{};
  while ((kShortElements<T, kWidth> << work.group_bits) < logits.categories) ++work.group_bits;
  work.elements = int(ceil_divide(logits.categories, int64_t{kWidth} << work.group_bits)) * kWidth;
  most_rounds = std::min(most_rounds, 1 << work.group_bits);
  work.rounds = rounds_per_warp(ceil_divide(logits.rows, work.rows_of_round()), most_rounds);
  work.packed = lie_side_by_side(logits);
  return work;
}

// The rows that a warp draws from at a time, one after the other in shared memory, so that accesses to global memory
// are wide however short a row is. All of it is done by a warp.
template <class T>
class Stage {
 public:
  __device__ __forceinline__ T& operator[](int i) { return elements_[i]; }

  // Rows [first, first + count); where the mask forbids, -inf.
  __device__ __forceinline__ void load(const Logits& logits, int64_t first, int count, bool packed, int lane) {
    const int categories = int(logits.categories);
    if (packed) {
      const T* from = static_cast<const T*>(logits.values.data) + first * categories;
      copy(from, elements_, count * categories, from, lane);
      __syncwarp();
    }
    if (!packed || logits.mask.data != nullptr) {
      const int row_step = 32 / categories, step = 32 - row_step * categories;
      int r = lane / categories, j = lane - r * categories;
#pragma unroll 1
      for (int i = lane; i < count * categories; i += 32) {
        const LogitsRow<T> row(logits, RowNumber(first + r, logits.inner));
        if (!packed) elements_[i] = load_adjacent<1>(row.values.start + j)[0];
        if (row.mask.start != nullptr && load_adjacent<1>(row.mask.start + j)[0] == 0)
          elements_[i] = minus_infinity<T>();
        r += row_step;
        j += step;
        if (j >= categories) j -= categories, ++r;
      }
    }
    __syncwarp();
  }

  __device__ __forceinline__ void store(T* to, int count, int lane) const {
    __syncwarp();
    copy(elements_, to, count, to, lane);
    __syncwarp();
  }

 private:
  static __device__ __forceinline__ void copy(const T* from, T* to, int count, const T* global, int lane) {
    constexpr int kWide = kWidest<T>;
    const int wide = reinterpret_cast<uintptr_t>(global) % 16 == 0 ? count / kWide : 0;
#pragma unroll 1
    for (int i = lane; i < wide; i += 32) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
#pragma unroll 1
    for (int i = wide * kWide + lane; i < count; i += 32) to[i] = from[i];
  }

  alignas(16) T elements_[32 * kShortElements<T, 1>];
};

// Of a row's categories from `begin` on, without waiting for one access between two: in place of those beyond the row
// the row's last ones.
template <int kWidth, class T, int kAccesses>
__device__ __forceinline__ void load_side_by_side(const LogitsRow<T>& row, int begin, int categories,
                                                  Pack<T, kWidth> (&stored)[kAccesses]) {
  const auto position = [=](int a) { return min(begin + a * kWidth, categories - kWidth); };
#pragma unroll
  for (int a = 0; a < kAccesses; ++a) stored[a] = load_adjacent<kWidth, true>(row.values.start + position(a));
  __syncwarp();
  if (row.mask.start == nullptr) return;
#pragma unroll
  for (int a = 0; a < kAccesses; ++a) {
    const auto allowed = load_adjacent<kWidth>(row.mask.start + position(a));
#pragma unroll
    for (int e = 0; e < kWidth; ++e) stored[a][e] = allowed[e] ? stored[a][e] : minus_infinity<T>();
  }
}

// What a group of threads draws from the rows' elements that they have, so many a thread, whose weights' sum is `sum`.
template <int kMost>
__device__ __forceinline__ DrawnElement draw_of_group(const float (&half_weights)[kMost], int elements,
                                                      const WeightSum& sum, uint64_t uniform, int lane, int threads) {
  const int rank = lane & (threads - 1);
  const WeightSum to_here = threads == 32 ? sum.up_to(rank, 32) : sum.up_to(rank, threads);
  const uint64_t own = sum.total(elements), through = to_here.total((rank + 1) * elements);
  const uint64_t total = shuffle(through, lane | (threads - 1));
  const uint64_t target = contract::multiply_high(uniform, total);
  return {element_above(half_weights, elements, through - own, through, target, rank), total};
}

}  // namespace reinmax_kernels::cuda
