// The draw, index alone or dense: which kernel serves which rows, and how they are launched.
#include "cuda/launch.cuh"
#include "cuda/sample_long.cuh"
#include "cuda/sample_medium.cuh"
#include "cuda/sample_short.cuh"

namespace reinmax_kernels::cuda {

// Of so many rounds that all warps together have to go, those of one warp: one, unless there are more than it takes to
// occupy the device, and at most so many.
static int rounds_per_warp(int64_t rounds, int most) {
  const int64_t warps = int64_t{kOccupyingWarps} * processors();
  return int(std::min<int64_t>(most, std::max<int64_t>(1, rounds / warps)));
}

static bool is_dense(const SampleArguments& arguments) { return arguments.probs != nullptr; }

static int64_t chunks_of(const Logits& logits) { return ceil_divide(logits.categories, contract::kChunk); }

// Chunks that a block takes: those of a row, or, where few rows are to be shared by many blocks, so many that what each
// block reads of all chunks is little beside its own.
static int chunks_per_part(const Logits& logits) {
  constexpr int kMostParts = 128;
  const int64_t count = chunks_of(logits), least = ceil_divide(count, kMostParts);
  const int64_t part = blocks_per_part(logits.rows, count, kLongWarps);
  const int64_t chunks = std::max(part, least);
  return int(chunks == count && count > kMostShared ? ceil_divide(count, 2) : chunks);
}

int64_t sample_scratch_bytes(const SampleArguments& arguments) {
  const Logits& logits = arguments.logits;
  const int64_t count = chunks_of(logits);
  if (logits.rows == 0 || count <= 1 || chunks_per_part(logits) == count) return 0;
  return Chunks::bytes(logits.rows * count, is_dense(arguments) && logits.dtype == DType::kFloat64);
}

template <class T, int kWidth, bool kDense>
static void sample_short(const SampleArguments& arguments, Stream stream) {
  constexpr int kElements = kShortElements<T, kWidth>;
  const Logits& logits = arguments.logits;
  const int64_t categories = logits.categories;
  ShortWork work{};
  while ((kElements << work.group_bits) < categories) ++work.group_bits;
  work.elements = int(ceil_divide(categories, int64_t{kWidth} << work.group_bits)) * kWidth;
  const int rows_a_round = 32 >> work.group_bits;
  work.rounds = rounds_per_warp(ceil_divide(logits.rows, rows_a_round), 1 << work.group_bits);
  const Rows& values = logits.values;
  work.packed = int64_t(logits.inner) == 1 && values.outer_stride == categories;
  const int64_t blocks = ceil_divide(logits.rows, int64_t{kShortWarps} * rows_a_round * work.rounds);
  launch(sample_short_kernel<T, kWidth, kDense>, dim3(unsigned(blocks)), 32 * kShortWarps, 0, stream, arguments, work);
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
  const int count = int(chunks_of(logits)), per_part = chunks_per_part(logits),
            parts = int(ceil_divide(count, per_part));
  const auto run = [&](LongWork work) {
    // As many warps as leave none idle while others take one chunk more.
    const int64_t rounds = ceil_divide(work.chunks_per_part, kLongWarps);
    const int64_t warps = work.weighs || kDense ? ceil_divide(work.chunks_per_part, rounds) : kLongWarps;
    const int64_t shared_bytes = parts == 1 ? Chunks::bytes(count, kWithLogSumExp) : 0;
    launch(sample_long_kernel<T, kWidth, kDense>, dim3(unsigned(logits.rows * work.parts)), int(32 * warps),
           size_t(shared_bytes), stream, arguments, work);
  };
  const Chunks chunks(scratch, logits.rows * count, kWithLogSumExp);
  if (parts == 1) return run({chunks, count, count, 1, true, true});
  run({chunks, count, per_part, parts, true, false});
  run(kDense ? LongWork{chunks, count, per_part, parts, false, true} : LongWork{chunks, count, count, 1, false, true});
}

template <class T, int kWidth, bool kDense>
static void sample_rows(const SampleArguments& arguments, void* scratch, Stream stream) {
  const int64_t categories = arguments.logits.categories;
  if (categories <= kMostShortDraw<T, kWidth>) return sample_short<T, kWidth, kDense>(arguments, stream);
  if (categories <= contract::kChunk) return sample_medium<T, kWidth, kDense>(arguments, stream);
  sample_long<T, kWidth, kDense>(arguments, scratch, stream);
}

void sample(const SampleArguments& arguments, void* scratch, Stream stream) {
  if (arguments.logits.rows == 0) return;
  dispatch(arguments.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto run = [&](auto width) {
      if (is_dense(arguments)) {
        sample_rows<T, width, true>(arguments, scratch, stream);
      } else {
        sample_rows<T, width, false>(arguments, scratch, stream);
      }
    };
    if (is_wide<T>(arguments.logits)) {
      run(std::integral_constant<int, kWidest<T>>{});
    } else {
      run(std::integral_constant<int, 1>{});
    }
  });
}

}  // namespace reinmax_kernels::cuda
