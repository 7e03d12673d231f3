// A codebook's gradient: how rows are sorted by their codes, and in which pieces they are summed.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

constexpr int kTile = 1024;                      // keys that a block sorts
constexpr int kWaysOfFew = 16;                   // runs that a launch merges, where one launch is enough then
constexpr int kWaysOfMany = 4;                   // and where it is not: every key is looked for in all the others
constexpr int kPieceWarps = 2;                   // of a block, each with some columns of a piece
constexpr int kJoinWarps = 8;                    // of a block, which share what a code has in all pieces
constexpr int kLongestPiece = 8;                 // rounds of 32 rows
constexpr int64_t kManyRows = int64_t{1} << 17;  // from twice as many on pieces are longer

// A row and, above it, its code: no two are the same, so that any way of sorting them gives the same order. An index
// that is no code counts as the one behind the last.
using Key = uint64_t;
constexpr int kRowBits = 40;
constexpr Key kNoKey = ~Key{0};  // behind them all

__device__ __forceinline__ Key key_of(const CodebookGradientArguments& arguments, int64_t row) {
  const int64_t index = arguments.index[row];
  const int64_t code = uint64_t(index) < uint64_t(arguments.codes) ? index : arguments.codes;
  return Key(code) << kRowBits | Key(row);
}

__device__ __forceinline__ int code_of(Key key) { return int(key >> kRowBits); }
__device__ __forceinline__ int64_t row_of(Key key) { return int64_t(key & ((Key{1} << kRowBits) - 1)); }

// Pieces of `size` sorted rows. Of each two sums of vectors, in float64: of the code that comes from the piece before,
// and of the one that goes on in the next. Their number depends on the rows alone, and so do the sums' last bits.
struct CodebookPieces {
  CodebookPieces(const CodebookGradientArguments& arguments, void* scratch) {
    const int64_t rows = arguments.vectors.rows, rounds = rows / kManyRows;
    size = kWarp * (rounds < 1 ? 1 : rounds < kLongestPiece ? rounds : kLongestPiece);
    count = ceil_divide(rows, size);
    sums = static_cast<double*>(scratch);
    keys = reinterpret_cast<Key*>(sums + 2 * count * arguments.vectors.categories);
    other_keys = keys + rows;
    bytes = int64_t(sizeof(double)) * 2 * (count * arguments.vectors.categories + rows);
  }

  int64_t size, count, bytes;
  double* sums;  // [count, 2, d]
  Key *keys, *other_keys;
};

// The columns of a warp, which is for some of a piece's.
template <int kWidth>
struct PieceColumns {
  __host__ __device__ static constexpr int64_t chunks(int64_t d) { return ceil_divide(d, kWarp * kWidth); }

  __device__ __forceinline__ PieceColumns(int64_t number, int64_t d) : piece(number), column(0) {
    if (d > kWarp * kWidth) {  // mostly not: a division is slow
      piece = number / chunks(d);
      column = (number - piece * chunks(d)) * (kWarp * kWidth);
    }
    column += threadIdx.x % 32 * kWidth;
    any = column < d;
  }

  int64_t piece, column;  // the lane's first
  bool any;
};

// Half types by way of float32, as torch rounds float64.
template <class T, int kWidth>
__device__ __forceinline__ void store_gradient(const CodebookGradientArguments& arguments, int code, int64_t column,
                                               const Pack<double, kWidth>& total) {
  if (code >= arguments.codes) return;
  Pack<Computed<T>, kWidth> values;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) values[e] = Computed<T>(total[e]);
  store_adjacent(static_cast<T*>(arguments.grad_codebook) + code * arguments.vectors.categories + column, values);
}

}  // namespace reinmax_kernels::cuda
