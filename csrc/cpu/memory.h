// Memory for large outputs. What it costs is less its bytes than its page faults: the system hands out 4 KiB at a time,
// and clears each before the kernel writes it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace reinmax_kernels::cpu {

// From here on an allocator takes a block from the system each time (32 MiB is the most that glibc's ever keeps back).
constexpr int64_t kFreshBytes = int64_t{32} << 20;

constexpr int64_t kHugePageBytes = int64_t{2} << 20;

// Asks for pages of 2 MiB where they lie within the block, before it is first written. Advice, nothing more: where the
// system knows no such pages, or REINMAX_KERNELS_HUGE_PAGES=0 forbids them, nothing changes.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  static const bool allowed = [] {
    const char* value = std::getenv("REINMAX_KERNELS_HUGE_PAGES");
    return value == nullptr || std::strcmp(value, "0") != 0;
  }();
  if (!allowed || bytes < 2 * kHugePageBytes) return;
  const auto begin = reinterpret_cast<uintptr_t>(data), end = begin + uintptr_t(bytes);
  const uintptr_t first = (begin + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  const uintptr_t last = end / kHugePageBytes * kHugePageBytes;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// Makes a block of at least kFreshBytes zero without writing it: its pages are handed back, and the system gives zeros
// in their place once they are read or written. Returns false where that can't be had, and the block is to be written.
// Of memory that is shared with a file or a process pages come back as they were, which the mark would show.
inline bool zero_by_discarding([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  if (bytes < kFreshBytes) return false;
  auto* const begin = static_cast<char*>(data);
  const auto page = uintptr_t(sysconf(_SC_PAGESIZE));
  char* const first = begin + (page - reinterpret_cast<uintptr_t>(begin) % page) % page;
  char* const end = begin + bytes;
  char* const last = end - reinterpret_cast<uintptr_t>(end) % page;
  volatile char* const mark = first;
  *mark = 1;
  if (madvise(first, size_t(last - first), MADV_DONTNEED) != 0 || *mark != 0) return false;
  std::memset(begin, 0, size_t(first - begin));
  std::memset(last, 0, size_t(end - last));
  return true;
#else
  return false;
#endif
}

}  // namespace reinmax_kernels::cpu
