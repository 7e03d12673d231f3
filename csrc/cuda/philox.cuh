// Philox on a device, of which the contract's uniforms and its noise are made.
#pragma once

#include "contract.h"

namespace reinmax_kernels::cuda {

// A 64-bit lane of the contract as two registers, of which what is not used is not computed.
struct TwoWords {
  uint32_t low, high;

  __device__ __forceinline__ TwoWords(uint32_t low, uint32_t high) : low(low), high(high) {}
  __device__ __forceinline__ TwoWords(uint64_t x) : low(uint32_t(x)), high(uint32_t(x >> 32)) {}
  __device__ __forceinline__ operator uint64_t() const { return uint64_t{high} << 32 | low; }

  __device__ __forceinline__ TwoWords operator^(TwoWords x) const { return {low ^ x.low, high ^ x.high}; }
  __device__ __forceinline__ TwoWords operator|(TwoWords x) const { return {low | x.low, high | x.high}; }
  __device__ __forceinline__ TwoWords operator&(uint32_t x) const { return {low & x, 0}; }
  __device__ __forceinline__ TwoWords operator+(uint32_t x) const { return {low + x, 0}; }  // without a carry
  __device__ __forceinline__ TwoWords operator>>(int) const { return {high, 0}; }           // by 32
  __device__ __forceinline__ TwoWords operator<<(int) const { return {0, low}; }            // by 32
};

struct TwoWordLane {
  using Lanes = TwoWords;
  static __device__ __forceinline__ Lanes multiply_low(Lanes a, Lanes b) {
    return {a.low * b.low, __umulhi(a.low, b.low)};
  }
};

}  // namespace reinmax_kernels::cuda
