// The codebook's gradient: for each code the sum over the rows that drew it, in float64, the same at every call. Rows
// are sorted by their codes, in runs that are merged, and cut into pieces of as many. A warp sums a piece, code by
// code. What codes have in several pieces is summed in a last launch, by a block each: however often a code is drawn,
// no warp goes through all of its rows. Codes that no row drew are set to zero beside the first launch.
#include "cuda/codebook_gradient.cuh"

#include <type_traits>
#include <utility>

namespace reinmax_kernels::cuda {

// Sorts tiles of the rows' keys (Batcher, "Sorting networks and their applications", 1968, the bitonic sorter); the
// blocks behind these set the gradient to zero.
__global__ void __launch_bounds__(kTile / 2)
    sort_tiles_kernel(const CodebookGradientArguments arguments, Key* const keys, const int64_t tiles,
                      const int64_t bytes) {
  const int thread = threadIdx.x;
  if (blockIdx.x >= tiles) {
    uint4* const to = static_cast<uint4*>(arguments.grad_codebook);
    const int64_t first = (blockIdx.x - tiles) * (kTile / 2) + thread, step = (gridDim.x - tiles) * (kTile / 2);
    for (int64_t i = first; i < bytes / 16; i += step) __stwb(to + i, uint4{0, 0, 0, 0});
    unsigned char* const last = reinterpret_cast<unsigned char*>(to + bytes / 16);
    if (first < bytes % 16) __stwb(last + first, static_cast<unsigned char>(0));
    return;
  }
  __shared__ Key of_tile[kTile];
  const int64_t begin = int64_t(blockIdx.x) * kTile, rows = arguments.vectors.rows;
  for (int i = thread; i < kTile; i += kTile / 2) {
    of_tile[i] = begin + i < rows ? key_of(arguments, begin + i) : kNoKey;
  }
  __syncthreads();
  for (int size = 2; size <= kTile; size *= 2) {
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const int i = 2 * thread - (thread & (distance - 1)), j = i + distance;
      const Key a = of_tile[i], b = of_tile[j];
      if ((a > b) == ((i & size) == 0)) {
        of_tile[i] = b;
        of_tile[j] = a;
      }
      // A warp's pairs of these distances lie in 64 keys of its own.
      if (distance > 32 || (distance == 1 && size >= 64)) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  for (int i = thread; i < kTile && begin + i < rows; i += kTile / 2) keys[begin + i] = of_tile[i];
}

// Merges runs of a power of two of sorted keys, `ways` (a power of two from 4 on) into one. A key's place is that in
// its own run, and in each of the others the number of keys below it.
__global__ void __launch_bounds__(256)
    merge_runs_kernel(const Key* const from, Key* const to, const int64_t rows, const int log2_run, const int ways) {
  constexpr int kAtATime = 4;
  const int64_t at = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (at >= rows) return;
  const Key key = __ldg(from + at);
  const int64_t run = int64_t{1} << log2_run, own = at >> log2_run, group = own & -int64_t(ways);
  int64_t place = (group << log2_run) + (at & (run - 1));
  for (int64_t r = group; r < group + ways && r << log2_run < rows; r += kAtATime) {
    const Key* begin[kAtATime];
    int64_t length[kAtATime], below[kAtATime];
#pragma unroll
    for (int a = 0; a < kAtATime; ++a) {
      const int64_t first = (r + a) << log2_run, left = rows - first;
      begin[a] = from + first;
      length[a] = r + a == own || left < 0 ? 0 : left < run ? left : run;
      below[a] = 0;
    }
    for (int64_t step = run; step > 0; step /= 2) {
      Key other[kAtATime];
#pragma unroll
      for (int a = 0; a < kAtATime; ++a) {
        other[a] = below[a] + step <= length[a] ? __ldg(begin[a] + below[a] + step - 1) : kNoKey;
      }
#pragma unroll
      for (int a = 0; a < kAtATime; ++a) below[a] += other[a] < key ? step : 0;
    }
#pragma unroll
    for (int a = 0; a < kAtATime; ++a) place += below[a];
  }
  to[place] = key;
}

// Writes the gradients of codes whose rows are all in a piece; of the others the sums.
template <class T, int kWidth>
__global__ void __launch_bounds__(32 * kPieceWarps, kResidentThreads / (32 * kPieceWarps))
    sum_pieces_kernel(const CodebookGradientArguments arguments, const CodebookPieces pieces) {
  constexpr int kAhead = sizeof(T) * kWidth == 16 ? 4 : 8;  // rows that are under way at once
  const int64_t rows = arguments.vectors.rows, d = arguments.vectors.categories;
  const PieceColumns<kWidth> own(int64_t(blockIdx.x) * kPieceWarps + threadIdx.x / 32, d);
  if (own.piece >= pieces.count) return;
  const int lane = threadIdx.x % 32;
  const int64_t first = own.piece * pieces.size, last = first + pieces.size < rows ? first + pieces.size : rows;
  const int before = first > 0 ? code_of(pieces.keys[first - 1]) : -1;
  Pack<double, kWidth> total;
  total.fill(0);
  for (int64_t start = first; start < last; start += 32) {
    const int64_t at = start + lane;
    const Key key = pieces.keys[at < last ? at : first];
    const Row<T> row(arguments.vectors.values, RowNumber(row_of(key), arguments.vectors.inner));
    const auto address = reinterpret_cast<uint64_t>(row.start);
    const int count = int(last - start);  // of rows from here on
    const int own_code = code_of(key), following = at + 1 < rows ? code_of(pieces.keys[at + 1]) : -1;
    const unsigned ends = __ballot_sync(kAllLanes, at < last && following != own_code);  // of codes
    const unsigned stops = ends | __ballot_sync(kAllLanes, at + 1 == last);
    for (int round = 0; round < 32; round += kAhead) {
      Pack<T, kWidth> x[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const uint64_t from = __shfl_sync(kAllLanes, address, round + a);
        x[a].fill(zero<T>());
        if (own.any && round + a < count) x[a] = load_adjacent<kWidth>(reinterpret_cast<const T*>(from) + own.column);
      }
      // Each number is converted where it is added: all of them ahead would be too many registers.
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) total[e] += double(within_loop(computed(x[a][e])));
        if (!(stops >> (round + a) & 1)) continue;
        const int code = __shfl_sync(kAllLanes, own_code, round + a);
        const bool is_whole = code != before && ends >> (round + a) & 1;
        if (own.any && is_whole) store_gradient<T>(arguments, code, own.column, total);
        if (own.any && !is_whole) {
          store_adjacent(pieces.sums + (2 * own.piece + (code != before)) * d + own.column, total);
        }
        total.fill(0);
      }
    }
  }
}

// Writes the gradient of the code, if there is one, that begins in a piece and goes on in the next. A warp takes the
// sums of 32 pieces after each other's, of which each lane looks at one first.
template <class T, int kWidth>
__global__ void __launch_bounds__(32 * kJoinWarps)
    join_pieces_kernel(const CodebookGradientArguments arguments, const CodebookPieces pieces) {
  constexpr int kAhead = 8;
  const int64_t rows = arguments.vectors.rows, d = arguments.vectors.categories;
  const PieceColumns<kWidth> own(blockIdx.x, d);
  const int64_t first = own.piece * pieces.size, next = first + pieces.size;
  if (next >= rows) return;
  const int code = code_of(pieces.keys[next - 1]);
  if (code_of(pieces.keys[next]) != code || (first > 0 && code_of(pieces.keys[first - 1]) == code)) return;

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Pack<double, kWidth> total;
  total.fill(0);
  for (int64_t start = own.piece + 32 * warp;; start += 32 * kJoinWarps) {
    const int64_t at = (start + lane) * pieces.size;
    const bool has_code = start + lane == own.piece || (at < rows && code_of(pieces.keys[at]) == code);
    const int count = __popc(__ballot_sync(kAllLanes, has_code));  // one after the other, from the first on
    for (int round = 0; round < count; round += kAhead) {
      Pack<double, kWidth> x[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        x[a].fill(0);
        const int64_t piece = start + round + a;
        const int half = piece == own.piece;
        if (own.any && round + a < count) {
          x[a] = load_adjacent<kWidth>(pieces.sums + (2 * piece + half) * d + own.column);
        }
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) total[e] += x[a][e];
      }
    }
    if (count < 32) break;
  }

  __shared__ double of_warps[kJoinWarps][kWarp * kWidth];
#pragma unroll
  for (int e = 0; e < kWidth; ++e) of_warps[warp][kWarp * e + lane] = total[e];
  __syncthreads();
  if (warp > 0 || !own.any) return;
  for (int w = 1; w < kJoinWarps; ++w) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total[e] += of_warps[w][kWarp * e + lane];
  }
  store_gradient<T>(arguments, code, own.column, total);
}

int64_t codebook_gradient_scratch_bytes(const CodebookGradientArguments& arguments) {
  return CodebookPieces(arguments, nullptr).bytes;
}

void codebook_gradient(const CodebookGradientArguments& arguments, void* scratch, Stream stream) {
  constexpr int64_t kMostBlocksOfZeros = 2048;
  CodebookPieces pieces(arguments, scratch);
  const Logits& vectors = arguments.vectors;
  const int64_t rows = vectors.rows, d = vectors.categories, tiles = ceil_divide(rows, kTile);
  const int64_t bytes = arguments.codes * d * size_of(vectors.dtype);
  const int64_t zeros = ceil_divide(bytes, 16 * 2 * kTile);  // four accesses of a thread
  const dim3 blocks(unsigned(tiles + (zeros < kMostBlocksOfZeros ? zeros : kMostBlocksOfZeros)));
  launch(sort_tiles_kernel, blocks, kTile / 2, 0, stream, arguments, pieces.keys, tiles, bytes);
  if (rows == 0) return;

  const int log2_ways = tiles <= kWaysOfFew ? 4 : 2;
  for (int log2_run = 10; int64_t{1} << log2_run < rows; log2_run += log2_ways) {
    const dim3 keys(unsigned(ceil_divide(rows, 256)));
    launch(merge_runs_kernel, keys, 256, 0, stream, pieces.keys, pieces.other_keys, rows, log2_run, 1 << log2_ways);
    std::swap(pieces.keys, pieces.other_keys);
  }

  dispatch(vectors.dtype, [&](auto element) {
    using T = decltype(element);
    const auto go = [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const int64_t chunks = PieceColumns<kWidth>::chunks(d);
      const dim3 of_pieces(unsigned(ceil_divide(pieces.count * chunks, kPieceWarps)));
      launch(sum_pieces_kernel<T, kWidth>, of_pieces, 32 * kPieceWarps, 0, stream, arguments, pieces);
      if (pieces.count == 1) return;
      const dim3 of_codes(unsigned((pieces.count - 1) * chunks));
      launch(join_pieces_kernel<T, kWidth>, of_codes, 32 * kJoinWarps, 0, stream, arguments, pieces);
    };
    const int64_t steps = d | vectors.values.outer_stride | vectors.values.inner_stride;
    const bool in_pairs = steps % 2 == 0 && reinterpret_cast<uintptr_t>(vectors.values.data) % (2 * sizeof(T)) == 0;
    in_pairs ? go(std::integral_constant<int, 2>{}) : go(std::integral_constant<int, 1>{});
  });
}

}  // namespace reinmax_kernels::cuda
