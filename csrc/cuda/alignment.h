// Whether the rows that a backward reads and writes can be accessed 16 bytes at a time. On the host.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row.cuh"

namespace reinmax_kernels::cuda {

// Whether all rows number i begin as many elements behind a 16-byte boundary as what is written (the mask's: as many
// bytes behind a boundary of that many elements' bytes). Accesses are wide in all of them at once then, at any length.
inline bool are_aligned_alike(const BackwardArguments& arguments) {
  const Logits& logits = arguments.logits;
  const int64_t bytes = size_of(logits.dtype), width = 16 / bytes;
  const auto alike = [&](const Rows& rows, int64_t element_bytes) {
    if (rows.data == nullptr) return true;
    const auto elements = [](const void* data, int64_t size) {
      return int64_t(reinterpret_cast<uintptr_t>(data)) / size;
    };
    const int64_t begin = elements(rows.data, element_bytes) - elements(arguments.grad_logits, bytes);
    const int64_t outer = logits.rows == logits.inner ? 0 : rows.outer_stride - logits.inner * logits.categories;
    const int64_t inner = logits.inner == 1 ? 0 : rows.inner_stride - logits.categories;
    return rows.category_stride == 1 && begin % width == 0 && outer % width == 0 && inner % width == 0;
  };
  return alike(logits.values, bytes) && alike(arguments.grad_one_hot, bytes) && alike(arguments.grad_probs, bytes) &&
         alike(logits.mask, 1);
}

// Whether all accesses to rows can be of 16 bytes, from the first element of each to the last.
template <class T>
bool are_wide(const BackwardArguments& arguments) {
  return is_wide<T>(arguments.logits) && is_wide<T>(arguments.grad_one_hot, sizeof(T)) &&
         is_wide<T>(arguments.grad_probs, sizeof(T)) && reinterpret_cast<uintptr_t>(arguments.grad_logits) % 16 == 0;
}

// Whether rows lie one after the other in all tensors but the mask, from a 16-byte boundary on.
inline bool are_packed(const BackwardArguments& arguments) {
  const Logits& logits = arguments.logits;
  for (const Rows& rows : {logits.values, arguments.grad_one_hot, arguments.grad_probs}) {
    if (rows.data == nullptr) continue;
    const bool adjacent = logits.rows == 1 || (logits.inner == 1 && rows.outer_stride == logits.categories);
    if (!adjacent || rows.category_stride != 1 || reinterpret_cast<uintptr_t>(rows.data) % 16 != 0) return false;
  }
  return reinterpret_cast<uintptr_t>(arguments.grad_logits) % 16 == 0;
}

}  // namespace reinmax_kernels::cuda
