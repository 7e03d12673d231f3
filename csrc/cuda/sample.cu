// The draw, index alone or dense: which kernel serves which rows, and how they are launched.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/sample_few.cuh"
#include "cuda/sample_long.cuh"
#include "cuda/sample_medium.cuh"
#include "cuda/sample_short.cuh"

namespace reinmax_kernels::cuda {

static bool is_dense(const SampleArguments& arguments) { return arguments.probs != nullptr; }

static int64_t chunks_of(const Logits& logits) { return ceil_divide(logits.categories, contract::kChunk); }

// Chunks that a block weighs: those of a row, or, where few rows are to be shared by many blocks, some of them.
static int chunks_per_part(const Logits& logits) {
  const int64_t count = chunks_of(logits), part = blocks_per_part(logits.rows, count, kLongWarps);
  return int(part == count && count > kMostShared ? ceil_divide(count, 2) : part);
}

static bool keeps_log_sum_exp(const SampleArguments& arguments) {
  return is_dense(arguments) && arguments.logits.dtype == DType::kFloat64;
}

// Chunks of a dense row in parts that a block draws: no fewer than it weighs. It reads what is known of all chunks, and
// so takes as many as make this 1/64 of what it moves, if it has a warp for each; of the longest rows more.
static int chunks_per_dense_draw(const SampleArguments& arguments) {
  constexpr int kMostParts = 128;
  const Logits& logits = arguments.logits;
  const int64_t count = chunks_of(logits), known = Chunks::bytes(count, keeps_log_sum_exp(arguments));
  const int64_t moved = 3 * contract::kChunk * size_of(logits.dtype);  // of a chunk: it is read, and two are written
  int64_t least = 1;
  while (least < kLongWarps && least * moved < 64 * known) least *= 2;
  return int(std::max({int64_t{chunks_per_part(logits)}, least, ceil_divide(count, kMostParts)}));
}

// Of a block that has a row to itself, at most. One of them chooses the chunk while the others wait, so there are as
// few as let all rows' blocks be resident at once. But rows that are read once more, to write the dense outputs, are to
// be in the caches still: all that blocks are at takes up about a quarter of L2.
static int64_t warps_of_row(const SampleArguments& arguments) {
  constexpr int64_t kBytesOfWarp = 4096;
  const Logits& logits = arguments.logits;
  const int64_t in_one_wave = int64_t{kOccupyingWarps} * processors() / logits.rows;
  if (in_one_wave > kLongWarps) return kLongWarps;
  const int64_t least = std::max<int64_t>(1, in_one_wave);
  if (!is_dense(arguments)) return least;
  return std::clamp<int64_t>(logits.categories * size_of(logits.dtype) / kBytesOfWarp, least, kMostLongWarps<true>);
}

int64_t sample_scratch_bytes(const SampleArguments& arguments) {
  const Logits& logits = arguments.logits;
  const int64_t count = chunks_of(logits);
  if (logits.rows == 0 || count <= 1 || chunks_per_part(logits) == count) return 0;
  return Chunks::bytes(logits.rows * count, keeps_log_sum_exp(arguments));
}

// Whether threads could draw from whole rows, which lie one after the other, and did: those of a block need one seed.
template <class T, int kCategories, bool kDense>
static bool sample_few(const SampleArguments& arguments, Stream stream) {
  constexpr int kRows = kFewThreads * kFewRows<T, kCategories>, kMostRounds = 4;  // of a block
  const Logits& logits = arguments.logits;
  const int rounds = rounds_per_warp(ceil_divide(logits.rows, kRows / (kFewThreads / kWarp)), kMostRounds);
  const int64_t rows_per_seed = arguments.rows_per_seed;
  const bool aligned = reinterpret_cast<uintptr_t>(logits.values.data) % 16 == 0;
  const bool one_seed = rows_per_seed == logits.rows || rows_per_seed % (kRows * rounds) == 0;
  if (!lie_side_by_side(logits) || logits.mask.data != nullptr || !aligned || !one_seed) return false;
  const int64_t blocks = ceil_divide(logits.rows, int64_t{kRows} * rounds);
  launch(sample_few_kernel<T, kCategories, kDense>, dim3(unsigned(blocks)), kFewThreads, 0, stream, arguments, rounds);
  return true;
}

template <class T, bool kDense>
static bool sample_few(const SampleArguments& arguments, Stream stream) {
  if constexpr (sizeof(T) < 8) {
    switch (arguments.logits.categories) {
      case 2: return sample_few<T, 2, kDense>(arguments, stream);
      case 4: return sample_few<T, 4, kDense>(arguments, stream);
      case 8: return sample_few<T, 8, kDense>(arguments, stream);
    }
  }
  return false;
}

template <class T, int kWidth, bool kDense>
static void sample_short(const SampleArguments& arguments, Stream stream) {
  const Logits& logits = arguments.logits;
  // More warps of fewer rounds write faster; with one round alone no row would be asked for ahead.
  const ShortWork work = short_work<T, kWidth>(logits, kDense && kFillsHalfSectors<T, kWidth> ? 2 : kMostRounds);
  launch(sample_short_kernel<T, kWidth, kDense>, work.grid(logits.rows), 32 * kShortWarps, 0, stream, arguments, work);
}

template <class T, int kWidth, bool kDense>
static void sample_medium(const SampleArguments& arguments, Stream stream) {
  const int64_t blocks = ceil_divide(arguments.logits.rows, kMediumRows);
  launch(sample_medium_kernel<T, kWidth, kDense>, dim3(unsigned(blocks)), 32 * kMediumRows, 0, stream, arguments);
}

template <class T, int kWidth, bool kDense>
static void sample_long(const SampleArguments& arguments, void* scratch, Stream stream) {
  const Logits& logits = arguments.logits;
  constexpr bool kWithLogSumExp = kDense && std::is_same_v<T, double>;
  const int count = int(chunks_of(logits));
  const auto run = [&](const Chunks& chunks, int per_part, bool weighs, bool draws) {
    const LongWork work{chunks, count, per_part, int(ceil_divide(count, per_part)), weighs, draws};
    // As many warps as leave none idle while others take one chunk more.
    const int64_t rounds = ceil_divide(per_part, weighs && draws ? warps_of_row(arguments) : kLongWarps);
    const int64_t warps = weighs || kDense ? ceil_divide(per_part, rounds) : kLongWarps;
    const int64_t shared_bytes = weighs && draws ? Chunks::bytes(count, kWithLogSumExp) : 0;
    launch(sample_long_kernel<T, kWidth, kDense>, dim3(unsigned(logits.rows * work.parts)), int(32 * warps),
           size_t(shared_bytes), stream, arguments, work);
  };
  const Chunks chunks(scratch, logits.rows * count, kWithLogSumExp);
  const int per_part = chunks_per_part(logits);
  if (per_part == count) return run(chunks, count, true, true);
  run(chunks, per_part, true, false);
  run(chunks, kDense ? chunks_per_dense_draw(arguments) : count, false, true);
}

template <class T, int kWidth, bool kDense>
static void sample_of_length(const SampleArguments& arguments, void* scratch, Stream stream) {
  const int64_t categories = arguments.logits.categories;
  if (categories <= kMostShortDraw<T, kWidth>) return sample_short<T, kWidth, kDense>(arguments, stream);
  if (categories <= contract::kChunk) return sample_medium<T, kWidth, kDense>(arguments, stream);
  sample_long<T, kWidth, kDense>(arguments, scratch, stream);
}

template <class T, bool kDense>
static void sample_rows(const SampleArguments& arguments, void* scratch, Stream stream) {
  if (sample_few<T, kDense>(arguments, stream)) return;
  if (is_wide<T>(arguments.logits)) return sample_of_length<T, kWidest<T>, kDense>(arguments, scratch, stream);
  sample_of_length<T, 1, kDense>(arguments, scratch, stream);
}

void sample(const SampleArguments& arguments, void* scratch, Stream stream) {
  if (arguments.logits.rows == 0) return;
  dispatch(arguments.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (is_dense(arguments)) {
      sample_rows<T, true>(arguments, scratch, stream);
    } else {
      sample_rows<T, false>(arguments, scratch, stream);
    }
  });
}

}  // namespace reinmax_kernels::cuda
