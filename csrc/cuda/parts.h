// How many blocks share a long row. On the host.
#pragma once

#include "cuda/launch.cuh"

namespace reinmax_kernels::cuda {

constexpr int kLongBackwardWarps = 16;  // of a block

// The parts of a row, each of so many elements, and memory for their sums: arrays [rows, count].
struct Parts {
  int count, elements;
  void* sums;
};

constexpr int kPartialSums = 5;  // of a part
constexpr int kPartUnit = 4096;  // elements; a part is so many times that
constexpr int kMostParts = 128;  // of a row, for each block reads the sums of all

inline Parts parts_of(const Logits& logits, void* sums) {
  const int64_t units = ceil_divide(logits.categories, kPartUnit);
  const int64_t least = ceil_divide(units, kMostParts),
                occupying = blocks_per_part(logits.rows, units, kLongBackwardWarps);
  const int elements = int(kPartUnit * (occupying > least ? occupying : least));
  return {int(ceil_divide(logits.categories, elements)), elements, sums};
}

}  // namespace reinmax_kernels::cuda
