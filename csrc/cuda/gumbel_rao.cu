// Gumbel-Rao, backward, with one sample of noise straight-through Gumbel-Softmax: which kernels serve which rows.
#include <algorithm>

#include "cuda/gumbel_rao_held.cuh"
#include "cuda/gumbel_rao_kept.cuh"
#include "cuda/gumbel_rao_long.cuh"
#include "cuda/gumbel_rao_two.cuh"

namespace reinmax_kernels::cuda {

static bool are_double(const Logits& logits) { return logits.dtype == DType::kFloat64; }

static bool are_long(const Logits& logits) {
  return logits.categories > (are_double(logits) ? kHeldByBlock<double> : kHeldByBlock<float>);
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

// Up to 4 KiB of weights to a warp, unless the largest block has more.
static KeptRow kept_row(const Logits& logits) {
  const int64_t held = are_double(logits) ? kHeldByThread<double> : kHeldByThread<float>;
  const int64_t of_warp = are_double(logits) ? 512 : 1024;
  KeptRow kept{8, 0};
  while (kept.warps < kMostWarps && kept.warps * of_warp < logits.categories) kept.warps *= 2;
  kept.steps = int(ceil_divide(logits.categories, kept.threads() * held));
  return kept;
}

static int64_t kept_bytes(const BackwardArguments& arguments) {
  const int64_t of_share =
      are_double(arguments.logits) ? kHeldByThread<double> * sizeof(double) : kHeldByThread<float> * sizeof(float);
  return kept_row(arguments.logits).bytes(arguments.noise.samples, of_share);
}

// Long rows that a block each keeps: they fit, and blocks occupy the device.
static bool are_kept(const BackwardArguments& arguments) {
  const int64_t warps = arguments.logits.rows * kept_row(arguments.logits).warps;
  return warps >= int64_t{kOccupyingWarps} * processors() && kept_bytes(arguments) <= most_bytes_of_launch();
}

int64_t gumbel_rao_scratch_bytes(const BackwardArguments& arguments) {
  if (arguments.logits.rows == 0 || !are_long(arguments.logits) || are_kept(arguments)) return 0;
  return sums_of(arguments, nullptr).numbers() * (are_double(arguments.logits) ? sizeof(double) : sizeof(float));
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
  constexpr int kAccess = kHeldByAccess<T>;
  const bool wide = is_wide<T, kAccess>(logits) && is_wide<T, kAccess>(arguments.grad_one_hot, sizeof(T)) &&
                    is_wide<T, kAccess>(arguments.grad_probs, sizeof(T));
  if (are_long(logits) && are_kept(arguments)) {
    const KeptRow kept = kept_row(logits);
    allow_most_bytes(gumbel_rao_kept_kernel<T, kTempered>);
    return launch(gumbel_rao_kept_kernel<T, kTempered>, dim3(unsigned(logits.rows)), kept.threads(),
                  size_t(kept_bytes(arguments)), stream, arguments, kept, wide);
  }
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
