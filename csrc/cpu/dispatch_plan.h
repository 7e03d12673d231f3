// Where each assignment of a token to an expert goes when they are sorted by expert: a stable counting sort. No SIMD,
// and so compiled once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace reinmax_kernels::cpu {

// One list of assignments, cut into parts that can be counted and placed by themselves. The cut depends on the length
// alone, and the result not even on the cut.
class DispatchPlan {
 public:
  DispatchPlan(const int64_t* index, int64_t length, int64_t experts)
      : index_(index), length_(length), experts_(experts) {
    constexpr int64_t kMostParts = 64, kLeast = 1 << 15;  // assignments worth a part, and a thread
    part_ = std::max({kLeast, experts, (length + kMostParts - 1) / kMostParts});
    next_.assign(size_t(parts() * experts), 0);
  }

  int64_t parts() const { return std::max<int64_t>((length_ + part_ - 1) / part_, 1); }

  // Counts one part. Returns the position of the first index out of range, or -1.
  int64_t count(int64_t part) {
    int64_t* counts = &next_[size_t(part * experts_)];
    for (int64_t i = begin(part); i < end(part); ++i) {
      if (uint64_t(index_[i]) >= uint64_t(experts_)) return i;
      ++counts[index_[i]];
    }
    return -1;
  }

  // From the parts' counts to the place of each part's first assignment to each expert.
  void sum(int64_t* counts) {
    int64_t place = 0;
    for (int64_t e = 0; e < experts_; ++e) {
      const int64_t before = place;
      for (int64_t part = 0; part < parts(); ++part) {
        int64_t& next = next_[size_t(part * experts_ + e)];
        place += std::exchange(next, place);
      }
      counts[e] = place - before;
    }
  }

  void place(int64_t part, int64_t* order, int64_t* inverse) {
    int64_t* next = &next_[size_t(part * experts_)];
    for (int64_t i = begin(part); i < end(part); ++i) {
      const int64_t at = next[index_[i]]++;
      order[at] = i;
      inverse[i] = at;
    }
  }

 private:
  int64_t begin(int64_t part) const { return part * part_; }
  int64_t end(int64_t part) const { return std::min(length_, begin(part) + part_); }

  const int64_t* index_;
  int64_t length_, experts_, part_;
  std::vector<int64_t> next_;  // [parts, experts]: first counts, then places
};

}  // namespace reinmax_kernels::cpu
