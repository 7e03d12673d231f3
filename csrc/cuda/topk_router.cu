// A router that takes the k experts of largest logit and weighs them by softmax or sigmoid: forward and backward. Ties
// go to the lower index.
#include "cuda/experts.cuh"

namespace reinmax_kernels::cuda {

// Integers in the order of the numbers, of which 0 and -0 are the same, and NaN is the largest.
template <class Real>
struct Order {
  using Key = std::conditional_t<std::is_same_v<Real, double>, int64_t, int>;
  static constexpr Key kLargest = std::numeric_limits<Key>::max();
  static constexpr Key kTaken = std::numeric_limits<Key>::min();  // below that of -inf

  static __device__ __forceinline__ Key key(Real x) {
    const Real number = x == 0 ? Real(0) : x;
    Key bits;
    memcpy(&bits, &number, sizeof(bits));
    return x != x ? kLargest : flipped(bits);
  }

  static __device__ __forceinline__ Real number(Key key) {
    const Key bits = flipped(key);
    Real number;
    memcpy(&number, &bits, sizeof(bits));
    return number;
  }

 private:
  // The bits but the sign's, of a negative number: its own inverse.
  static __device__ __forceinline__ Key flipped(Key bits) { return bits ^ (bits >> (8 * sizeof(Key) - 1) & kLargest); }
};

// Weights before they are divided by their sum, if they are. A sigmoid that is normalised is seen as
// exp(x) / (1 + exp(x)) relative to the best one's, which no logit is too small for.
template <class Real>
struct Score {
  Real common;
  bool sigmoid;

  __device__ __forceinline__ Score(bool sigmoid, bool normalize, Real best)
      : common(!sigmoid                ? best
               : normalize && best < 0 ? best
                                       : Real(0)),
        sigmoid(sigmoid) {}

  __device__ __forceinline__ Real operator()(Real x) const {
    const Real score = power(((sigmoid ? smaller(x, Real(0)) : x) - common) * kNat<Real>);
    return sigmoid ? score / (1 + power(-fabs(x) * kNat<Real>)) : score;
  }

  // What a logarithm's gradient gives the logit: of a sigmoid, that of the opposite.
  __device__ __forceinline__ Real slope(Real x) const {
    return sigmoid ? power(smaller(-x, Real(0)) * kNat<Real>) / (1 + power(-fabs(x) * kNat<Real>)) : Real(1);
  }
};

// Those of a thread's experts that were not taken, of which the best is known. They are read each time.
template <class T, int kWidth, bool kLong>
class ExpertsLeft {
  using Row = Experts<T, kWidth, kLong>;
  using Order = cuda::Order<Computed<T>>;
  static_assert(Row::kElements <= 32);

 public:
  using Key = typename Order::Key;

  __device__ __forceinline__ explicit ExpertsLeft(const Row& row) : row_(row) {
    row_.each([&](int a, const auto&) {
      if (!row_.has(row_.position(a))) taken_ |= ((1u << kWidth) - 1) << (a * kWidth);
    });
    find_best();
  }

  // Takes the best expert of the row. Its thread is told which it is, others kNoExpert, and all its key.
  __device__ __forceinline__ int take(const Round& round, Key& key) {
    const auto larger_key = [](Key a, Key b) { return a < b ? b : a; };
    const auto lower = [](int a, int b) { return min(a, b); };
    const int own = row_.position(element_ / kWidth) + element_ % kWidth;
    key = reduce(key_, larger_key, round.threads);
    const int expert = reduce(key_ == key ? own : kNoExpert, lower, round.threads);
    if (key_ != key || own != expert) return kNoExpert;
    taken_ |= 1u << element_;
    find_best();
    return expert;
  }

 private:
  __device__ __forceinline__ void find_best() {
    key_ = Order::kTaken, element_ = 0;
    row_.each([&](int a, const auto& x) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        const int i = a * kWidth + e;
        const Key key = taken_ >> i & 1 ? Order::kTaken : Order::key(x[e]);
        if (key > key_) key_ = key, element_ = i;
      }
    });
  }

  const Row& row_;
  unsigned taken_ = 0;  // bits, of the elements
  Key key_;
  int element_;
};

// The same, their keys in registers. Those of a lower rank are lower experts.
template <class T, int kWidth>
class HeldExpertsLeft {
  using Row = Experts<T, kWidth, false>;
  using Order = cuda::Order<Computed<T>>;

 public:
  using Key = typename Order::Key;

  __device__ __forceinline__ explicit HeldExpertsLeft(const Row& row) : first_(row.position(0)) {
#pragma unroll
    for (Key& each : keys_) each = Order::kTaken;
    row.each([&](int a, const auto& x) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if (row.has(row.position(a))) keys_[a * kWidth + e] = Order::key(x[e]);
      }
    });
    find_best();
  }

  __device__ __forceinline__ int take(const Round& round, Key& key) {
    key = round.threads == 32 ? __reduce_max_sync(kAllLanes, best_)
                              : reduce(best_, [](Key a, Key b) { return max(a, b); }, round.threads);
    const unsigned having = __ballot_sync(kAllLanes, best_ == key) >> (round.lane - round.rank);
    if (__ffs(int(having)) - 1 != round.rank) return kNoExpert;
    int element = 0;
#pragma unroll
    for (int i = kElements - 1; i >= 0; --i) element = keys_[i] == key ? i : element;
#pragma unroll
    for (int i = 0; i < kElements; ++i) keys_[i] = i == element ? Order::kTaken : keys_[i];
    find_best();
    return first_ + element;
  }

 private:
  static constexpr int kElements = Row::kElements;

  __device__ __forceinline__ void find_best() {
    best_ = keys_[0];
#pragma unroll
    for (int i = 1; i < kElements; ++i) best_ = max(best_, keys_[i]);
  }

  int first_;
  Key keys_[kElements], best_;
};

// To be resident at least.
template <class Row>
constexpr int kTopkBlocks = Row::kHeld ? 10 : kRouterBlocks;

// Threads that search take down whom they have chosen, for neighbouring threads to write results side by side.
template <class T, int kWidth, bool kLong>
__global__ void __launch_bounds__(32 * kShortWarps, (kTopkBlocks<Experts<T, kWidth, kLong>>))
    topk_router_kernel(const TopkRouterArguments arguments, const ShortWork work) {
  using Row = Experts<T, kWidth, kLong>;
  using Real = Computed<T>;
  using Left = std::conditional_t<Row::kHeld, HeldExpertsLeft<T, kWidth>, ExpertsLeft<T, kWidth, kLong>>;
  __shared__ typename Row::Stage stage_of_warp[kShortWarps];
  __shared__ unsigned short chosen_of_warp[kShortWarps][32 * Row::kElements];
  auto& stage = stage_of_warp[threadIdx.x / 32];
  auto& chosen = chosen_of_warp[threadIdx.x / 32];
  const Logits& logits = arguments.logits;
  const bool over_row = !arguments.sigmoid && !arguments.normalize;
  const int k = arguments.k;
#pragma unroll 1
  for (int done = 0; done < RowsOfWarp(work, logits).count; done += work.rows_of_round()) {
    const Round round(work, logits, done);
    stage.load(logits, round.first, round.here, work.packed, round.lane);
    const Row experts(logits, work, round, stage);
    Left left(experts);
    Real best = 0, total = 0;
#pragma unroll 1
    for (int s = 0; s < k; ++s) {
      typename Left::Key key;
      const int expert = left.take(round, key);
      const Real x = Order<Real>::number(key);
      if (s == 0) best = x;
      if (arguments.normalize) total += Score<Real>(arguments.sigmoid, true, best)(x);
      if (round.is_here && expert != kNoExpert) chosen[round.group * k + s] = static_cast<unsigned short>(expert);
    }
    if (over_row) {
      experts.each([&](int, const auto& x) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) total += Score<Real>(false, false, best)(x[e]);
      });
      total = experts.sum_of_row(total);
    } else if (!arguments.normalize) {
      total = 1;
    }
    __syncwarp();
#pragma unroll 1
    for (int first = 0; first < round.here * k; first += 32) {
      const int i = first + round.lane, group = min(i / k, round.here - 1);
      const Real best_of_row = __shfl_sync(kAllLanes, best, group * round.threads);
      const Real total_of_row = __shfl_sync(kAllLanes, total, group * round.threads);
      if (i >= round.here * k) continue;
      const int expert = chosen[i];
      const LogitsRow<T> row(logits, RowNumber(round.first + group, logits.inner));
      const Score<Real> score(arguments.sigmoid, arguments.normalize, best_of_row);
      const int64_t at = round.first * k + i;
      arguments.index[at] = expert;
      const Real weight = score(row.template load<1>(expert, true)[0]) / total_of_row;
      static_cast<T*>(arguments.weight)[at] = rounded<T>(weight);
    }
    __syncwarp();  // the stage has been read, and what was taken down
  }
}

// With weights w, their gradients g and a sum S = <w, g> over the chosen experts: w (g - S) at them where they are
// normalised, else w g, and -p S at all where p is a softmax over the row; by sigmoid(-x) where it is one of sigmoids.
template <class T, int kWidth, bool kLong>
__global__ void __launch_bounds__(32 * kShortWarps, kRouterBlocks)
    topk_router_backward_kernel(const TopkRouterBackwardArguments arguments, const ShortWork work) {
  using Row = Experts<T, kWidth, kLong>;
  using Real = Computed<T>;
  __shared__ typename Row::Stage stage_of_warp[kShortWarps];
  auto& stage = stage_of_warp[threadIdx.x / 32];
  const Logits& logits = arguments.logits;
  const bool over_row = !arguments.sigmoid && !arguments.normalize;
  const int k = arguments.k;
#pragma unroll 1
  for (int done = 0; done < RowsOfWarp(work, logits).count; done += work.rows_of_round()) {
    const Round round(work, logits, done);
    const LogitsRow<T> row(logits, RowNumber(round.row(), logits.inner));
    const int64_t at = round.row() * k;
    const auto expert = [&](int s) { return int(arguments.index[at + s]); };
    const auto logit = [&](int s) { return row.template load<1>(expert(s), true)[0]; };
    const auto arrived = [&](int s) { return computed(static_cast<const T*>(arguments.grad_weight)[at + s]); };
    const auto sum = [&](Real x) { return reduce(x, [](Real a, Real b) { return a + b; }, round.threads); };
    const Score<Real> score(arguments.sigmoid, arguments.normalize, logit(0));
    Real total = 0, product = 0;
#pragma unroll 1
    for (int s = round.rank; s < k; s += round.threads) {
      const Real w = score(logit(s));
      total += w;
      product = multiply_add(w, arrived(s), product);
    }
    total = arguments.normalize ? sum(total) : Real(1);
    product = sum(product);

    ExpertsOut<T, kWidth, kLong> out(arguments.grad_logits, logits.categories, round, stage);
    if (over_row) {
      stage.load(logits, round.first, round.here, work.packed, round.lane);
      const Row experts(logits, work, round, stage);
      total = 0;
      experts.each([&](int, const auto& x) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) total += score(x[e]);
      });
      total = sum(total);
      const Real everywhere = -product / (total * total);
      out.write(experts, [&](Real x, int) { return score(x) * everywhere; });
    } else {
      out.write_zeros(Places<T, kWidth, kLong>(work, round, int(logits.categories)));
    }
    __syncwarp();
    const Real common = arguments.normalize || over_row ? product / total : Real(0);
#pragma unroll 1
    for (int s = round.rank; s < k && round.is_here; s += round.threads) {
      const Real x = logit(s);
      out.write_one(expert(s), score(x) / total * (arrived(s) - common) * score.slope(x));
    }
    out.finish();
  }
}

void topk_router(const TopkRouterArguments& arguments, Stream stream) {
  const auto kernel_of = [](auto zero, auto width, auto is_long) {
    return topk_router_kernel<decltype(zero), width(), is_long()>;
  };
  launch_router(arguments, stream, kernel_of, true);
}

void topk_router_backward(const TopkRouterBackwardArguments& arguments, Stream stream) {
  launch_router(arguments, stream, [](auto zero, auto width, auto is_long) {
    return topk_router_backward_kernel<decltype(zero), width(), is_long()>;
  });
}

}  // namespace reinmax_kernels::cuda
