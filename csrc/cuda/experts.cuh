// Rows of experts, as the routers' kernels have them: at most 1024, in one chunk of the contract. Groups of a warp's
// threads share short rows, a whole warp a longer one, each thread having some of its experts.
#pragma once

#include "cuda/short_rows.cuh"
#include "cuda/softmax.cuh"

namespace reinmax_kernels::cuda {

static_assert(kMostExperts <= contract::kChunk);

constexpr int kNoExpert = kMostExperts;

// Blocks of the routers that a processor has registers for.
constexpr int kRouterBlocks = kResidentThreads / (32 * kShortWarps);

// A block's memory for rows that can't be accessed 16 bytes at a time, and are so short that some fit in there.
template <class T, int kWidth, bool kLong>
struct StageOfWarp {
  static constexpr bool kStaged = kWidth == 1 && !kLong;
  struct None {
    static constexpr T* none = nullptr;
    __device__ __forceinline__ void load(const Logits&, int64_t, int, bool, int) {}
    __device__ __forceinline__ void store(T*, int, int) const {}
    __device__ __forceinline__ T& operator[](int) { return *none; }
  };
  using Type = std::conditional_t<kStaged, Stage<T>, None>;
};

// The rows of a thread's warp: the first one, and how many there are. Computed wherever they are asked for, for the
// registers that they would take all the while.
struct RowsOfWarp {
  int64_t first;
  int count;

  __device__ __forceinline__ RowsOfWarp(const ShortWork& work, const Logits& logits) {
    const int warp = within_loop(int(threadIdx.x / 32));
    first = (int64_t(blockIdx.x) * kShortWarps + warp) * work.rows_of_warp();
    count = int(min(int64_t(work.rows_of_warp()), logits.rows - first));
  }
};

// The rows that a warp has at a time: [first, first + here). A thread's group has row number `group`, unless there are
// not so many: then it has the last one too, and `is_here` is false.
struct Round {
  int lane, rank, threads, group, here;
  int64_t first;
  bool is_here;

  // `done`: how many of its rows the warp is through with.
  __device__ __forceinline__ Round(const ShortWork& work, const Logits& logits, int done)
      : lane(within_loop(int(threadIdx.x % 32))), threads(1 << work.group_bits) {
    const RowsOfWarp rows(work, logits);
    first = rows.first + done;
    rank = lane & (threads - 1);
    here = min(work.rows_of_round(), rows.count - done);
    is_here = lane >> work.group_bits < here;
    group = min(lane >> work.group_bits, here - 1);
  }

  __device__ __forceinline__ int64_t row() const { return first + group; }
};

// Which experts of its row a thread has. kWidth of them, one access's, lie side by side; so do all of a short row,
// while a warp's threads take turns through a long one. All threads of a warp have as many accesses, some of them
// outside of the row.
template <class T, int kWidth, bool kLong>
class Places {
 public:
  static constexpr int kElements = kLong ? kMostExperts / 32 : kShortElements<T, kWidth>;
  static constexpr int kAccesses = kElements / kWidth;
  static constexpr int kOfSegment = kSegmentLane<kWidth> / kWidth;  // accesses; of a long row

  __device__ __forceinline__ Places(const ShortWork& work, const Round& round, int categories) {
    if constexpr (kLong) {
      first_ = round.rank * kWidth;
      accesses_ = (categories + kSegment<kWidth> - 1) / kSegment<kWidth> * kOfSegment;
    } else {
      first_ = round.rank * work.elements;
      accesses_ = work.elements / kWidth;
    }
    end_ = !round.is_here ? 0 : kLong ? categories : min(categories, first_ + work.elements);
  }

  // Of an access's first expert.
  __device__ __forceinline__ int position(int access) const { return first_ + access * (kLong ? 32 * kWidth : kWidth); }
  __device__ __forceinline__ bool has(int j) const { return j < end_; }
  __device__ __forceinline__ int accesses() const { return accesses_; }

 protected:
  int first_, accesses_, end_;
};

// A thread's experts; those outside of the row are -inf. Where there are too many for registers, in long rows and in
// float64, they are read each time.
template <class T, int kWidth, bool kLong>
class Experts : public Places<T, kWidth, kLong> {
  using Base = Places<T, kWidth, kLong>;
  using Base::accesses_;
  using Base::first_;

 public:
  using Base::has;
  using Base::kAccesses;
  using Base::position;
  using Real = Computed<T>;
  using Access = Pack<Real, kWidth>;
  using Stage = typename StageOfWarp<T, kWidth, kLong>::Type;
  static constexpr bool kHeld = !kLong && sizeof(T) < sizeof(double);
  static constexpr bool kStaged = StageOfWarp<T, kWidth, kLong>::kStaged;

  // A short row that is staged has its logits in there.
  __device__ __forceinline__ Experts(const Logits& logits, const ShortWork& work, const Round& round, Stage& stage)
      : Base(work, round, int(logits.categories)),
        row_(logits, RowNumber(round.row(), logits.inner)),
        stage_(stage),
        start_(round.group * int(logits.categories)),
        categories_(int(logits.categories)),
        threads_(round.threads) {
    if constexpr (kHeld) fill();
  }

  __device__ __forceinline__ const LogitsRow<T>& row() const { return row_; }

  // body(access, its logits) of each access, as often by all threads of a warp. Where it is unrolled, accesses' numbers
  // are known to the compiler.
  template <bool kUnrolled = kHeld, class Body>
  __device__ __forceinline__ void each(Body body) const {
    if constexpr (kUnrolled) {
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) {
        if (a >= accesses_) break;
        body(a, at(a));
      }
    } else {
#pragma unroll 1
      for (int a = 0; a < accesses_; ++a) body(a, at(a));
    }
  }

  // The largest logit of the row, NaN where there is one, of float32; and the first expert that has it.
  __device__ __forceinline__ Real largest(int& expert) const {
    Real so_far = -infinity<Real>(), own = -infinity<Real>();
    int first = kNoExpert;
    each([&](int a, const Access& x) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        so_far = larger_of(so_far, x[e]);
        if (x[e] > own) own = x[e], first = position(a) + e;
      }
    });
    const Real logit = largest_of_row(so_far);
    expert = reduced(own == logit ? first : kNoExpert, [](int a, int b) { return min(a, b); });
    return logit;
  }

  // The same where one expert is left out.
  __device__ __forceinline__ Real largest_but(int expert) const {
    Real so_far = -infinity<Real>();
    each([&](int a, const Access& x) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        so_far = larger_of(so_far, position(a) + e == expert ? -infinity<Real>() : x[e]);
      }
    });
    return largest_of_row(so_far);
  }

  __device__ __forceinline__ float largest_of_row(float x) const {
    return kLong ? largest_or_nan(x) : largest_or_nan(x, threads_);
  }
  __device__ __forceinline__ double largest_of_row(double x) const { return reduced(x, LargerOf{}); }

  template <class X>
  __device__ __forceinline__ X sum_of_row(X x) const {
    return reduced(x, [](X a, X b) { return a + b; });
  }

  // From now on -inf.
  __device__ __forceinline__ void take(int expert) {
    taken_ = expert;
    if constexpr (kHeld) {
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) x_[a] = without_taken(a, x_[a]);
    }
  }

 private:
  struct LargerOf {
    __device__ __forceinline__ double operator()(double a, double b) const { return larger(a, b); }
  };
  static __device__ __forceinline__ float larger_of(float a, float b) { return larger_or_nan(a, b); }
  static __device__ __forceinline__ double larger_of(double a, double b) { return larger(a, b); }

  template <class X, class Function>
  __device__ __forceinline__ X reduced(X x, Function f) const {
    return kLong ? reduce(x, f) : reduce(x, f, threads_);
  }

  __device__ __forceinline__ Access without_taken(int access, Access x) const {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) x[e] = position(access) + e == taken_ ? -infinity<Real>() : x[e];
    return x;
  }

  __device__ __forceinline__ Access at(int access) const {
    if constexpr (kHeld) {
      return x_[access];
    } else {
      return without_taken(access, read(access));
    }
  }

  __device__ __forceinline__ Access read(int access) const {
    const int j = position(access);
    if constexpr (kStaged) {
      return {{has(j) ? computed(stage_[start_ + j]) : -infinity<Real>()}};
    } else {
      return row_.template load<kWidth>(j, has(j));
    }
  }

  __device__ __forceinline__ void fill() {
    if constexpr (kStaged) {
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) x_[a] = read(a);
    } else {
      Pack<T, kWidth> stored[kAccesses];
      load_side_by_side(row_, first_, categories_, stored);
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) {
        if (!has(position(a))) stored[a].fill(minus_infinity<T>());
        x_[a] = all_computed(stored[a]);
      }
    }
  }

  LogitsRow<T> row_;
  Stage& stage_;
  int start_;  // of the row in the stage
  int categories_, threads_, taken_ = kNoExpert;
  Access x_[kHeld ? kAccesses : 1];
};

// Where a round's rows of gradients go: [N, E], or first to the stage, one after the other.
template <class T, int kWidth, bool kLong>
class ExpertsOut {
 public:
  using Stage = typename StageOfWarp<T, kWidth, kLong>::Type;

  __device__ __forceinline__ ExpertsOut(void* gradients, int64_t categories, const Round& round, Stage& stage)
      : rows_(static_cast<T*>(gradients) + round.first * categories),
        categories_(int(categories)),
        round_(round),
        stage_(stage) {}

  // gradient(x, j) at the thread's experts j, which have logits x.
  template <class Gradient>
  __device__ __forceinline__ void write(const Experts<T, kWidth, kLong>& experts, Gradient gradient) {
    experts.each([&](int a, const auto& x) {
      const int j = experts.position(a);
      Pack<Computed<T>, kWidth> result;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) result[e] = gradient(x[e], j + e);
      if (experts.has(j)) store(j, result);
    });
  }

  __device__ __forceinline__ void write_zeros(const Places<T, kWidth, kLong>& places) {
    Pack<Computed<T>, kWidth> zeros;
    zeros.fill(0);
#pragma unroll 1
    for (int a = 0; a < places.accesses(); ++a) {
      if (const int j = places.position(a); places.has(j)) store(j, zeros);
    }
  }

  // Of the thread's row, whichever thread's expert j is. Threads have to meet before, if another wrote there.
  __device__ __forceinline__ void write_one(int j, Computed<T> x) { store(j, Pack<Computed<T>, 1>{{x}}); }

  // The threads of the warp together, when all is written.
  __device__ __forceinline__ void finish() { stage_.store(rows_, round_.here * categories_, round_.lane); }

 private:
  template <int kCount>
  __device__ __forceinline__ void store(int j, const Pack<Computed<T>, kCount>& x) {
    const int at = round_.group * categories_ + j;
    if constexpr (StageOfWarp<T, kWidth, kLong>::kStaged) {
      stage_[at] = rounded<T>(x[0]);
    } else {
      store_adjacent(rows_ + at, x);
    }
  }

  T* rows_;
  int categories_;
  const Round& round_;
  Stage& stage_;
};

// As many threads as it takes to hold a row; a warp's go through several.
template <class T, int kWidth, bool kLong>
ShortWork router_work(const Logits& logits) {
  constexpr int kGroupBits = 5;
  if constexpr (!kLong) return short_work<T, kWidth>(logits);
  return {kGroupBits, 0, rounds_per_warp(logits.rows, 1 << kGroupBits), lie_side_by_side(logits)};
}

// Launches kernel_of(T{}, width, is_long): by the type of the elements, and as constants how rows are accessed and
// whether they are long. one_round: a warp that holds a whole row has no other one.
template <class Arguments, class KernelOf>
void launch_router(const Arguments& arguments, Stream stream, KernelOf kernel_of, bool one_round = false) {
  const Logits& logits = arguments.logits;
  const auto launch_one = [&](auto zero, auto width, auto is_long) {
    using T = decltype(zero);
    ShortWork work = router_work<T, width(), is_long()>(logits);
    if (one_round && Experts<T, width(), is_long()>::kHeld && work.rows_of_round() == 1) work.rounds = 1;
    launch(kernel_of(zero, width, is_long), work.grid(logits.rows), 32 * kShortWarps, 0, stream, arguments, work);
  };
  dispatch(logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto of_width = [&](auto width) {
      if (logits.categories > kMostShortDraw<T, width()>) return launch_one(zero, width, std::true_type{});
      launch_one(zero, width, std::false_type{});
    };
    if (is_wide<T>(logits)) return of_width(std::integral_constant<int, kWidest<T>>{});
    of_width(std::integral_constant<int, 1>{});
  });
}

}  // namespace reinmax_kernels::cuda
