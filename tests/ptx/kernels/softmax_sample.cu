// A fused row softmax with inverse-CDF sampling, one block a row: what the interpreter is tried on.
//
// A macro PLANT_<FAULT> plants one fault. The kernel is written for the tests, with each kind of access and of
// synchronisation that the checks look at.

#include <cuda_bf16.h>

#include <cstdint>

namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kNone = 0x7fffffff;

struct Words {
  uint32_t x, y, z, w;
};

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
__device__ Words philox(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
    const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
    counter = {high1 ^ counter.y ^ key0, low1, high0 ^ counter.w ^ key1, low0};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// 16 bytes of elements as floats.
__device__ void load_vector(const float* from, float (&to)[4]) {
  const float4 vector = __ldg(reinterpret_cast<const float4*>(from));
  to[0] = vector.x, to[1] = vector.y, to[2] = vector.z, to[3] = vector.w;
}

__device__ void load_vector(const __nv_bfloat16* from, float (&to)[8]) {
  const uint4 vector = __ldg(reinterpret_cast<const uint4*>(from));
  const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&vector);
  for (int pair = 0; pair < 4; ++pair) {
    const float2 both = __bfloat1622float2(pairs[pair]);
    to[2 * pair] = both.x, to[2 * pair + 1] = both.y;
  }
}

__device__ void store(float* to, float value) { *to = value; }
__device__ void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

struct Maximum {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

// The reduction over the block, for every thread. `partial` holds a number a warp, and may be used again afterwards.
template <int kThreads, class Operation>
__device__ float reduce_block(float value, Operation operation, float identity, float* partial) {
  for (int distance = kWarp / 2; distance; distance /= 2)
    value = operation(value, __shfl_xor_sync(kAllLanes, value, distance));
  const int lane = threadIdx.x % kWarp;
  if (lane == 0) partial[threadIdx.x / kWarp] = value;
#ifndef PLANT_NO_BARRIER_IN_REDUCTION
  __syncthreads();
#endif
  value = lane < kThreads / kWarp ? partial[lane] : identity;
  for (int distance = kWarp / 2; distance; distance /= 2)
    value = operation(value, __shfl_xor_sync(kAllLanes, value, distance));
#ifndef PLANT_NO_BARRIER_AFTER_REDUCTION
  __syncthreads();
#endif
  return value;
}

// Inclusive sum over the lanes of the warp.
__device__ float scan_warp(float sum) {
  const int lane = threadIdx.x % kWarp;
#ifdef PLANT_DIVERGENT_SHUFFLE
  if (lane & 1) sum += __shfl_xor_sync(kAllLanes, sum, 2);
#endif
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const float before = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += before;
  }
  return sum;
}

template <typename T, int kThreads>
__device__ void softmax_sample(const T* __restrict__ logits, T* __restrict__ probabilities, int* __restrict__ sampled,
                               float* __restrict__ log_normalizers, int categories, float inverse_temperature,
                               uint64_t seed, uint64_t offset) {
  constexpr int kVector = 16 / sizeof(T), kChunk = 4, kWarps = kThreads / kWarp;
  __shared__ float partial[kWarp], warp_sums[kWarps];
  __shared__ int winner;
  const int row = blockIdx.x, thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  logits += static_cast<int64_t>(row) * categories;
  probabilities += static_cast<int64_t>(row) * categories;
#ifndef PLANT_UNINITIALIZED
  if (thread == 0) winner = kNone;
#endif

  // Maximum and sum of exponentials in one pass, by vectors where all rows are aligned.
  float maximum = -INFINITY, sum = 0;
  const auto take = [&](float logit) {
    if (logit > maximum) {
      sum *= expf(maximum - logit);
      maximum = logit;
    }
    sum += expf(logit - maximum);
  };
  const int vectors = categories % kVector == 0 ? categories / kVector : 0;
#ifdef PLANT_MISALIGNED
  logits += 1;
#endif
  for (int vector = thread; vector < vectors; vector += kThreads) {
    float values[kVector];
    load_vector(logits + vector * kVector, values);
    for (float value : values) take(value * inverse_temperature);
  }
#ifdef PLANT_MISALIGNED
  logits -= 1;
#endif
  for (int category = vectors * kVector + thread; category < categories; category += kThreads)
    take(static_cast<float>(logits[category]) * inverse_temperature);
  const float row_maximum = reduce_block<kThreads>(maximum, Maximum(), -INFINITY, partial);
  const float scaled = maximum == -INFINITY ? 0 : sum * expf(maximum - row_maximum);
  const float row_sum = reduce_block<kThreads>(scaled, Sum(), 0, partial);
  if (thread == 0) log_normalizers[row] = row_maximum + logf(row_sum);

  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const Words counter{static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32), static_cast<uint32_t>(row),
                      0};
  const float uniform = static_cast<float>(philox(counter, key0, key1).x >> 8) * (1.0f / (1 << 24));
  const float threshold = uniform * row_sum;

  // A second pass by chunks, each summed up over the block: the first category beyond the threshold is the sample.
  float before_chunk = 0;
  for (int chunk = 0; chunk < categories; chunk += kChunk * kThreads) {
    const int first = chunk + thread * kChunk;
    float cumulative[kChunk], thread_sum = 0;
    for (int i = 0; i < kChunk; ++i) {
#ifdef PLANT_LOAD_OUT_OF_BOUNDS
      const bool inside = first + i <= categories;
#else
      const bool inside = first + i < categories;
#endif
#ifdef PLANT_STORE_OUT_OF_BOUNDS
      const bool stored = first + i <= categories;
#else
      const bool stored = first + i < categories;
#endif
      const float weight = inside ? expf(static_cast<float>(logits[first + i]) * inverse_temperature - row_maximum) : 0;
      if (stored) store(probabilities + first + i, weight / row_sum);
      cumulative[i] = thread_sum += weight;
    }
    const float lane_sum = scan_warp(thread_sum);
#ifdef PLANT_DIVERGENT_BARRIER
    if (lane == kWarp - 1) {
      warp_sums[warp] = lane_sum;
      __syncthreads();
    }
#else
    if (lane == kWarp - 1) warp_sums[warp] = lane_sum;
#ifndef PLANT_NO_BARRIER_IN_SCAN
    __syncthreads();
#endif
#endif
    float before_warp = 0, chunk_sum = 0;
    for (int other = 0; other < kWarps; ++other) {
      if (other < warp) before_warp += warp_sums[other];
      chunk_sum += warp_sums[other];
    }
    const float before_thread = before_chunk + before_warp + lane_sum - thread_sum;
    int candidate = kNone;
    for (int i = kChunk - 1; i >= 0; --i)
      if (first + i < categories && before_thread + cumulative[i] > threshold) candidate = first + i;
    const unsigned lanes = __ballot_sync(kAllLanes, candidate != kNone);
    if (lanes && lane == __ffs(lanes) - 1) {
#ifdef PLANT_NOT_ATOMIC
      winner = min(winner, candidate);
#else
      atomicMin(&winner, candidate);
#endif
    }
    before_chunk += chunk_sum;
#ifndef PLANT_NO_BARRIER_AT_LOOP_END
    __syncthreads();
#endif
  }
  if (thread == 0) sampled[row] = winner == kNone ? categories - 1 : winner;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    softmax_sample_float(const float* logits, float* probabilities, int* sampled, float* log_normalizers,
                         int categories, float inverse_temperature, uint64_t seed, uint64_t offset) {
  softmax_sample<float, 256>(logits, probabilities, sampled, log_normalizers, categories, inverse_temperature, seed,
                             offset);
}

extern "C" __global__ void __launch_bounds__(128)
    softmax_sample_bfloat16(const __nv_bfloat16* logits, __nv_bfloat16* probabilities, int* sampled,
                            float* log_normalizers, int categories, float inverse_temperature, uint64_t seed,
                            uint64_t offset) {
  softmax_sample<__nv_bfloat16, 128>(logits, probabilities, sampled, log_normalizers, categories, inverse_temperature,
                                     seed, offset);
}
