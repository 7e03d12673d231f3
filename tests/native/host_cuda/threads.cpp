// Each thread of a block has a stack of its own. Sanitizers are told of every change from one to another.
#include "threads.h"

#include <ucontext.h>

#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {
namespace {

constexpr size_t kStackBytes = 256 << 10;

struct Stack {
  std::unique_ptr<char[]> memory;
  const void* bottom = nullptr;
  size_t size = 0;

  void allocate() {
    if (memory == nullptr) memory.reset(new char[kStackBytes]);
    bottom = memory.get(), size = kStackBytes;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memory.get(), kStackBytes);  // of what an earlier thread left there
#endif
  }
};

struct Thread {
  ucontext_t context;
  Stack stack;
  bool has_ended;
  unsigned exchanges;
};

// Those who wait for one another.
struct Meeting {
  unsigned arrived, times;
};

struct Warp {
  Meeting meeting;
  uint64_t given[2][kWarp];  // by turns: what was given last is read while lanes give again
};

struct Block {
  const std::function<void()>* kernel;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Meeting meeting;
  std::unique_ptr<char[]> memory;
  ucontext_t host;
  Stack host_stack;
  bool has_moved;  // since the last time that all threads had their turn
  std::exception_ptr error;
};

Block block;  // the one that runs

Thread& current() { return block.threads[threadIdx.x]; }

void change(ucontext_t& from, ucontext_t& to, const Stack& stack, bool for_ever = false) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake_stack, stack.bottom, stack.size);
  swapcontext(&from, &to);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
  (void)stack, (void)for_ever;
  swapcontext(&from, &to);
#endif
}

void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.host_stack.bottom, &block.host_stack.size);
#endif
  try {
    (*block.kernel)();
  } catch (...) {
    block.error = std::current_exception();
  }
  current().has_ended = block.has_moved = true;
  change(current().context, block.host, block.host_stack, true);
}

void wait(Meeting& meeting, unsigned expected) {
  const unsigned times = meeting.times;
  if (++meeting.arrived == expected) {
    meeting.arrived = 0, ++meeting.times;
    block.has_moved = true;
  }
  while (meeting.times == times) change(current().context, block.host, block.host_stack);
}

void run_block() {
  block.meeting = {};
  for (Warp& warp : block.warps) warp.meeting = {};
  for (Thread& thread : block.threads) {
    thread.has_ended = false, thread.exchanges = 0;
    thread.stack.allocate();
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.memory.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    makecontext(&thread.context, run_thread, 0);
  }
  do {
    block.has_moved = false;
    for (unsigned t = 0; t < blockDim.x; ++t) {
      Thread& thread = block.threads[t];
      if (thread.has_ended) continue;
      threadIdx.x = t;
      change(block.host, thread.context, thread.stack);
      if (block.error) std::rethrow_exception(std::exchange(block.error, nullptr));
    }
  } while (block.has_moved);
  for (const Thread& thread : block.threads) {
    if (!thread.has_ended) throw std::logic_error("threads wait for others that don't come");
  }
}

}  // namespace

void run(dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
  if (threads == 0 || threads > 1024 || threads % kWarp != 0) throw std::logic_error("a block has 1 to 32 whole warps");
  block.kernel = &kernel;
  block.threads.resize(threads);
  block.warps.resize(threads / kWarp);
  gridDim = grid, blockDim = threads, threadIdx = {0, 0, 0};
  for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
      block.memory.reset(new char[shared_bytes]);
      std::memset(block.memory.get(), 0xD7, shared_bytes);  // no number that a kernel could take for its own
      run_block();
    }
  }
}

uint64_t* memory_of_launch() { return reinterpret_cast<uint64_t*>(block.memory.get()); }

void meet_block() { wait(block.meeting, blockDim.x); }

const uint64_t* exchange(uint64_t given) {
  Warp& warp = block.warps[threadIdx.x / kWarp];
  uint64_t (&all)[kWarp] = warp.given[current().exchanges++ % 2];
  all[threadIdx.x % kWarp] = given;
  wait(warp.meeting, kWarp);
  return all;
}

}  // namespace host_cuda
