// Gumbel-Rao, backward, with one sample of noise straight-through Gumbel-Softmax: which kernels serve which rows.
#include <algorithm>

#include "cuda/gumbel_rao_held.cuh"
#include "cuda/gumbel_rao_long.cuh"
#include "cuda/gumbel_rao_two.cuh"

namespace reinmax_kernels::cuda {

static bool are_long(const Logits& logits) {
  const int64_t held = logits.dtype == DType::kFloat64 ? kHeldByThread<double> : kHeldByThread<float>;
  return logits.categories > SampleBlock::kMost * held;
}

// Samples' sums take 1/32 of what float32 logits would, unless those of one row take more.
static GumbelSums sums_of(const BackwardArguments& arguments, void* memory) {
  constexpr int kUnit = 4096, kMostParts = 128, kMostBlocks = 1 << 30;
  const Logits& logits = arguments.logits;
  const int64_t samples = arguments.noise.samples, units = ceil_divide(logits.categories, kUnit);
  const int64_t blocks = logits.rows > kMostBlocks / samples ? kMostBlocks : logits.rows * samples;
  const int64_t most = ceil_divide(units, kMostParts);
  const int64_t elements = kUnit * std::max(most, blocks_per_part(blocks, units, kGumbelWarps));
  GumbelSums sums{0, 1, samples, int(ceil_divide(logits.categories, elements)), int(elements), memory};
  const int64_t fitting = logits.rows * logits.categories / 32 / sums.numbers();
  sums.rows = std::max<int64_t>(1, std::min({fitting, logits.rows, kMostBlocks / samples}));
  return sums;
}

int64_t gumbel_rao_scratch_bytes(const BackwardArguments& arguments) {
  if (arguments.logits.rows == 0 || !are_long(arguments.logits)) return 0;
  const int64_t bytes = arguments.logits.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  return sums_of(arguments, nullptr).numbers() * bytes;
}

// As many groups of 2^log2 threads to a row as it takes to occupy the device, each with samples of its own.
static SampleLanes sample_lanes(const BackwardArguments& arguments, int log2, int samples_at_once) {
  SampleLanes threads{log2, 0};
  const int64_t wanted = int64_t{2 * kOccupyingWarps * kWarp} * processors();
  const auto more = [&] { return int64_t{2} << threads.log2_samples; };
  while (log2 + threads.log2_samples < 5 && more() * samples_at_once <= arguments.noise.samples &&
         (arguments.logits.rows << (log2 + threads.log2_samples)) < wanted) {
    ++threads.log2_samples;
  }
  return threads;
}

static dim3 grid_of(const BackwardArguments& arguments, const SampleLanes& threads) {
  const int64_t all = arguments.logits.rows << (threads.log2 + threads.log2_samples);
  return dim3(unsigned(ceil_divide(all, SampleLanes::kMost)));
}

template <class T, bool kTempered>
static void gumbel_rao_rows(const BackwardArguments& arguments, void* scratch, Stream stream) {
  const Logits& logits = arguments.logits;
  if (logits.categories == 2) {
    const SampleLanes threads = sample_lanes(arguments, 0, 4);
    return launch(gumbel_rao_two_kernel<T, kTempered>, grid_of(arguments, threads), SampleLanes::kMost, 0, stream,
                  arguments, threads);
  }
  constexpr int kHeld = kHeldByThread<T>;
  const bool wide = is_wide<T, kHeld>(logits) && is_wide<T, kHeld>(arguments.grad_one_hot, sizeof(T)) &&
                    is_wide<T, kHeld>(arguments.grad_probs, sizeof(T));
  if (are_long(logits)) {
    GumbelSums sums = sums_of(arguments, scratch);
    const int64_t tiles = ceil_divide(logits.categories, kGumbelThreads * kHeld);
    for (; sums.first_row < logits.rows; sums.first_row += sums.rows) {
      const int64_t rows = std::min(sums.rows, logits.rows - sums.first_row);
      launch(gumbel_rao_sums_kernel<T, kTempered>, dim3(unsigned(rows * sums.samples), sums.parts), kGumbelThreads, 0,
             stream, arguments, sums, wide);
      launch(gumbel_rao_write_kernel<T, kTempered>, dim3(unsigned(rows), unsigned(tiles)), kGumbelThreads, 0, stream,
             arguments, sums, wide);
    }
    return;
  }
  const int64_t threads_of_row = ceil_divide(logits.categories, kHeld);
  if (threads_of_row > kWarp) {
    const SampleBlock threads{int(ceil_divide(threads_of_row, kWarp))};
    return launch(gumbel_rao_held_kernel<T, kTempered, SampleBlock>, dim3(unsigned(logits.rows)), kWarp * threads.warps,
                  0, stream, arguments, threads, wide);
  }
  int log2 = 0;
  while (1 << log2 < threads_of_row) ++log2;
  const SampleLanes threads = sample_lanes(arguments, log2, 1);
  launch(gumbel_rao_held_kernel<T, kTempered, SampleLanes>, grid_of(arguments, threads), SampleLanes::kMost, 0, stream,
         arguments, threads, wide);
}

void gumbel_rao_backward(const BackwardArguments& arguments, void* scratch, Stream stream) {
  if (arguments.logits.rows == 0) return;
  dispatch(arguments.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (arguments.tau == nullptr) {
      gumbel_rao_rows<T, false>(arguments, scratch, stream);
    } else {
      gumbel_rao_rows<T, true>(arguments, scratch, stream);
    }
  });
}

}  // namespace reinmax_kernels::cuda
