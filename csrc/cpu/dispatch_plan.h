// Where each assignment of a token to an expert goes when they are sorted by expert: a stable counting sort. No SIMD,
// and so compiled once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace reinmax_kernels::cpu {

// One list of assignments, cut into parts that can be counted and placed by themselves. The cut depends on the length
// alone, and the result not even on the cut. Loops have members in locals: a store into counts or results might change
// a member for all the compiler knows, which would read it again for every assignment.
class DispatchPlan {
 public:
  DispatchPlan(const int64_t* index, int64_t length, int64_t experts)
      : index_(index), length_(length), experts_(experts) {
    constexpr int64_t kMostParts = 64, kLeast = 1 << 15;  // assignments worth a part, and a thread
    part_ = std::max({kLeast, experts, (length + kMostParts - 1) / kMostParts});
    next_.assign(size_t(parts() * stride()), 0);
  }

  int64_t parts() const { return std::max<int64_t>((length_ + part_ - 1) / part_, 1); }

  // Counts one part. Returns the position of the first index out of range, or -1.
  int64_t count(int64_t part) {
    const int64_t *const index = index_, experts = experts_, last = end(part);
    int64_t* const counts = &next_[size_t(part * stride())];
    for (int64_t i = begin(part); i < last; ++i) {
      if (uint64_t(index[i]) >= uint64_t(experts)) return i;
      ++counts[index[i]];
    }
    return -1;
  }

  // From the parts' counts to the place of each part's first assignment to each expert.
  void sum(int64_t* counts) {
    const int64_t experts = experts_, places = parts() * stride(), step = stride();
    int64_t* const next = next_.data();
    int64_t place = 0;
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t before = place;
      for (int64_t at = e; at < places; at += step) place += std::exchange(next[at], place);
      counts[e] = place - before;
    }
  }

  void place(int64_t part, int64_t* order, int64_t* inverse) {
    const int64_t *const index = index_, last = end(part);
    int64_t* const next = &next_[size_t(part * stride())];
    int64_t i = begin(part);
    for (; i + 4 <= last; i += 4) place_run<4>(i, index + i, next, order, inverse + i);
    for (; i < last; ++i) place_run<1>(i, index + i, next, order, inverse + i);
  }

 private:
  // A run of assignments. Stores are what takes time: of a run, the compiler writes the inverse in pairs.
  template <int64_t kRun>
  static void place_run(int64_t i, const int64_t* index, int64_t* next, int64_t* order, int64_t* inverse) {
    int64_t at[kRun];
    for (int64_t r = 0; r < kRun; ++r) at[r] = next[index[r]]++;
    for (int64_t r = 0; r < kRun; ++r) order[at[r]] = i + r;
    for (int64_t r = 0; r < kRun; ++r) inverse[r] = at[r];
  }

  // Two cache lines lie between the counters of two parts: threads that write to one line wait for each other.
  int64_t stride() const { return experts_ + 16; }
  int64_t begin(int64_t part) const { return part * part_; }
  int64_t end(int64_t part) const { return std::min(length_, begin(part) + part_); }

  const int64_t* index_;
  int64_t length_, experts_, part_;
  std::vector<int64_t> next_;  // [parts, stride()]: first counts, then places
};

}  // namespace reinmax_kernels::cpu
