// SparseMixer (Liu, Gao, Chen, 2023; version 2: GRIN, 2024), a router that draws its experts: forward and backward.
#include "cuda/dense.cuh"
#include "cuda/draw.cuh"
#include "cuda/experts.cuh"

namespace reinmax_kernels::cuda {

// Experts are left out, their logits -inf, where (largest - x) / max(|x|, largest) exceeds the limit. 0 / 0 and what is
// not finite exceed nothing.
template <class Real>
struct JitterMask {
  Real largest, limit;

  __device__ __forceinline__ Real operator()(Real x) const {
    return (largest - x) / larger(fabs(x), largest) > limit ? -infinity<Real>() : x;
  }
};

// The experts of a row that are left, as they lie in memory.
template <class T>
struct NearRow {
  LogitsRow<T> row;
  JitterMask<Computed<T>> near;
  int taken;

  template <int kWidth>
  __device__ __forceinline__ Pack<Computed<T>, kWidth> load(int j, bool inside) const {
    auto x = row.template load<kWidth>(j, inside);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) x[e] = j + e == taken ? -infinity<Computed<T>>() : near(x[e]);
    return x;
  }
};

// An expert, and the sum of the weights that it was drawn by: both mean nothing where that is 0. `largest` is the
// largest logit that draws are made with.
template <class T, int kWidth, bool kLong>
__device__ __forceinline__ DrawnElement draw_expert(const Experts<T, kWidth, kLong>& experts,
                                                    const JitterMask<Computed<T>>& near, float largest, int taken,
                                                    const uint64_t& uniform, int categories, const Round& round) {
  const float reference = reference_point(largest);
  WeightSum sum;
  if constexpr (kLong) {
    constexpr int kOfSegment = Experts<T, kWidth, kLong>::kOfSegment;
    uint64_t own = 0;
    experts.each([&](int a, const auto& x) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) sum.add(half_weight(draw_value(near(x[e])), reference));
      if ((a + 1) % kOfSegment == 0) {
        const uint64_t total = sum.of_warp().total(kSegment<kWidth>);
        if (round.lane == a / kOfSegment) own = total;
        sum = WeightSum();
      }
    });
    const NearRow<T> row{experts.row(), near, taken};
    return draw_element<T, kWidth>(row, 0, categories, largest, own, uniform, round.lane);
  } else {
    float half_weights[Experts<T, kWidth, kLong>::kElements] = {};
    experts.template each<true>([&](int a, const auto& x) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        float& half = half_weights[a * kWidth + e];
        half = half_weight(draw_value(near(x[e])), reference);
        sum.add(half);
      }
    });
    return draw_of_group(half_weights, experts.accesses() * kWidth, sum, uniform, round.lane, round.threads);
  }
}

// What is one number a row and draw, for up to 32 rows of a warp, in shared memory: neighbouring threads compute each
// of them once and write them side by side. Threads have to meet between the steps.
template <class T>
class MixerNumbers {
 public:
  using Real = Computed<T>;
  static constexpr bool kDouble = std::is_same_v<T, double>;

  __device__ __forceinline__ void start(const SparseMixerArguments& arguments, const RowsOfWarp& rows, int lane) {
    if (lane >= rows.count) return;
    if (arguments.seeds == nullptr) {
      for (OfDraw& draw : of_) draw.uniform[lane] = 0, draw.is_whole[lane] = true;
      return;
    }
    const PlaceInStream place(arguments, rows.first + lane);
    const auto draw = [&](int number) {  // which is in the highest byte of the offset
      return uniforms(place.seed, place.number, arguments.offset ^ uint64_t(number) << 56);
    };
#pragma unroll 1
    for (int d = 0; d < arguments.k; ++d) {
      of_[d].uniform[lane] = draw(d).element;
      of_[d].is_whole[lane] = draw(kMostDraws + d).chunk > arguments.factor.limit;
    }
  }

  __device__ __forceinline__ const uint64_t& uniform(int d, int r) const { return of_[d].uniform[r]; }

  // What its draw leaves: the largest logit and the sum of weights, but of float64 the log-sum-exp, which it is told
  // before.
  __device__ __forceinline__ void keep_log_sum_exp(int d, int r, double log_sum_exp) {
    of_[d].log_sum_exp[r] = log_sum_exp;
  }
  __device__ __forceinline__ void keep(int d, int r, int index, bool is_best, Real logit, float largest,
                                       uint64_t total) {
    OfDraw& draw = of_[d];
    draw.index[r] = index;
    draw.is_whole[r] = draw.is_whole[r] || is_best;
    draw.logit[r] = logit;
    if constexpr (kDouble) {
      if (total == 0) draw.log_sum_exp[r] = quiet_nan();
    } else {
      draw.largest[r] = largest;
      draw.total[r] = total;
    }
  }

  __device__ __forceinline__ void store(const SparseMixerArguments& arguments, const RowsOfWarp& rows, int lane) const {
    if (lane >= rows.count) return;
#pragma unroll 1
    for (int d = 0; d < arguments.k; ++d) {
      const OfDraw& draw = of_[d];
      const int64_t at = (rows.first + lane) * arguments.k + d;
      Real weight;
      double log_sum_exp;
      if constexpr (kDouble) {
        log_sum_exp = draw.log_sum_exp[lane];
        weight = power(draw.logit[lane] - log_sum_exp);
      } else {
        const float of_drawn = half_weight(draw.logit[lane], reference_point(draw.largest[lane]));
        weight = of_drawn * (2 * inverse(draw.total[lane]));  // NaN is 0 times it where there is no sum
        log_sum_exp = log_sum_exp_of(draw.largest[lane], draw.total[lane]);
      }
      if (!draw.is_whole[lane]) weight *= Real(arguments.factor.factor);
      arguments.index[at] = draw.index[lane];
      static_cast<T*>(arguments.weight)[at] = rounded<T>(weight);
      arguments.log_sum_exp[at] = log_sum_exp;
    }
  }

 private:
  struct Nothing {};
  struct OfDraw {
    uint64_t uniform[32];
    Real logit[32];  // of the drawn expert
    std::conditional_t<kDouble, double, Nothing> log_sum_exp[32];
    std::conditional_t<!kDouble, uint64_t, Nothing> total[32];
    std::conditional_t<!kDouble, float, Nothing> largest[32];
    int index[32];
    bool is_whole[32];
  };
  OfDraw of_[kMostDraws];
};

template <class T, int kWidth, bool kLong>
__global__ void __launch_bounds__(32 * kShortWarps, kRouterBlocks)
    sparse_mixer_kernel(const SparseMixerArguments arguments, const ShortWork work) {
  using Row = Experts<T, kWidth, kLong>;
  using Real = Computed<T>;
  __shared__ MixerNumbers<T> numbers_of_warp[kShortWarps];
  __shared__ typename Row::Stage stage_of_warp[kShortWarps];
  auto& numbers = numbers_of_warp[threadIdx.x / 32];
  auto& stage = stage_of_warp[threadIdx.x / 32];
  const Logits& logits = arguments.logits;
  const int categories = int(logits.categories);
  numbers.start(arguments, RowsOfWarp(work, logits), threadIdx.x % 32);
  __syncwarp();
#pragma unroll 1
  for (int done = 0; done < RowsOfWarp(work, logits).count; done += work.rows_of_round()) {
    const Round round(work, logits, done);
    stage.load(logits, round.first, round.here, work.packed, round.lane);
    Row experts(logits, work, round, stage);
    int taken = kNoExpert;
#pragma unroll 1
    for (int d = 0; d < arguments.k; ++d) {
      int best;
      const JitterMask<Real> near{experts.largest(best), Real(arguments.jitter_limit)};
      const int r = done + round.group;
      const bool keeps = round.is_here && round.rank == 0;
      float largest = float(near.largest);
      if constexpr (std::is_same_v<T, double>) {  // draws are made in float32
        double sum = 0;
        largest = -infinity<float>();
        experts.each([&](int, const auto& x) {
#pragma unroll
          for (int e = 0; e < kWidth; ++e) {
            const double left = near(x[e]);
            largest = larger_or_nan(largest, draw_value(left));
            sum += power(left - near.largest);
          }
        });
        largest = experts.largest_of_row(largest);
        sum = experts.sum_of_row(sum);
        if (keeps) numbers.keep_log_sum_exp(d, r, near.largest + log(sum));
      }
      const auto [drawn, total] = draw_expert(experts, near, largest, taken, numbers.uniform(d, r), categories, round);
      const int index = total == 0 ? 0 : arguments.seeds == nullptr ? best : drawn;
      if (keeps) {
        const Real logit = experts.row().template load<1>(index, true)[0];
        numbers.keep(d, r, index, index == best, logit, largest, total);
      }
      experts.take(taken = index);
    }
    __syncwarp();  // the stage has been read, and the numbers are kept
  }
  numbers.store(arguments, RowsOfWarp(work, logits), threadIdx.x % 32);
}

// Of a drawn expert D, whose weight received the gradient g: through = g p_D, p the softmax that it was drawn from.
template <class T>
struct MixerGradient {
  using Real = Computed<T>;
  JitterMask<Real> near;
  Softmax<Real> softmax;
  int drawn;
  Real through;

  __device__ __forceinline__ MixerGradient(const SparseMixerBackwardArguments& arguments, const LogitsRow<T>& row,
                                           Real largest, int64_t at)
      : near{largest, Real(arguments.jitter_limit)},
        softmax(arguments.log_sum_exp[at]),
        drawn(int(arguments.index[at])) {
    const Real g = Real(arguments.scale) * computed(static_cast<const T*>(arguments.grad_weight)[at]);
    through = g * softmax(near(row.template load<1>(drawn, true)[0]));
  }

  // through (e_D - p) at expert j.
  __device__ __forceinline__ Real operator()(Real x, int j) const {
    return multiply_add(-through, softmax(near(x)), j == drawn ? through : Real(0));
  }
};

template <class T, int kWidth, bool kLong>
__global__ void __launch_bounds__(32 * kShortWarps, kRouterBlocks)
    sparse_mixer_backward_kernel(const SparseMixerBackwardArguments arguments, const ShortWork work) {
  using Row = Experts<T, kWidth, kLong>;
  using Real = Computed<T>;
  __shared__ typename Row::Stage stage_of_warp[kShortWarps];
  auto& stage = stage_of_warp[threadIdx.x / 32];
  const Logits& logits = arguments.logits;
#pragma unroll 1
  for (int done = 0; done < RowsOfWarp(work, logits).count; done += work.rows_of_round()) {
    const Round round(work, logits, done);
    stage.load(logits, round.first, round.here, work.packed, round.lane);
    const Row experts(logits, work, round, stage);
    ExpertsOut<T, kWidth, kLong> out(arguments.grad_logits, logits.categories, round, stage);
    const int64_t at = round.row() * arguments.k;
    const MixerGradient<T> first(arguments, experts.row(), experts.largest_but(kNoExpert), at);
    if (arguments.k == 1) {
      out.write(experts, [&](Real x, int j) { return first(x, j); });
    } else {
      const MixerGradient<T> second(arguments, experts.row(), experts.largest_but(first.drawn), at + 1);
      out.write(experts,
                [&](Real x, int j) { return first(x, j) + second(j == first.drawn ? -infinity<Real>() : x, j); });
    }
    out.finish();
  }
}

void sparse_mixer(const SparseMixerArguments& arguments, Stream stream) {
  launch_router(arguments, stream, [](auto zero, auto width, auto is_long) {
    return sparse_mixer_kernel<decltype(zero), width(), is_long()>;
  });
}

void sparse_mixer_backward(const SparseMixerBackwardArguments& arguments, Stream stream) {
  launch_router(arguments, stream, [](auto zero, auto width, auto is_long) {
    return sparse_mixer_backward_kernel<decltype(zero), width(), is_long()>;
  });
}

}  // namespace reinmax_kernels::cuda
