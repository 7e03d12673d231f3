// A grid of CUDA threads on one thread of the host: one block after the other, whose threads take turns, each until it
// has to wait for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the thread whose turn it is

namespace host_cuda {

constexpr int kWarp = 32;

// Calls `kernel` as every thread of every block. Throws what a thread throws, and where threads wait for ever. A block
// has whole warps in one dimension.
void run(dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel);

// Of the block that runs: exactly as many bytes as its launch asks for.
uint64_t* memory_of_launch();

// Waits for all threads of the block. One that has ended never comes, though a GPU would go on without it.
void meet_block();

// Waits for all lanes of the warp, each of which gives a number, and returns those of all, by lane. They are there
// until the lane comes here again.
const uint64_t* exchange(uint64_t given);

}  // namespace host_cuda
