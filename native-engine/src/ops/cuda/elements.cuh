// What the row-wise kernels and attention share: values as bits, pairs of 16-bit values in a register, sums within a
// warp. Owns no layout.
#pragma once

#include <cstring>

#include "ops/cuda/platform.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda {

inline constexpr int kLanes = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;
// Bits of an f32 from which on it is infinite or NaN, sign apart.
inline constexpr uint32_t kInfinityBits = 0x7F800000u;

template <class To, class From>
__device__ inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Two values as 16-bit elements, the first in the lower half.
__device__ inline uint32_t pack_pair(float low, float high, F16) {
  return bits_as<uint32_t>(__floats2half2_rn(low, high));
}
__device__ inline uint32_t pack_pair(float low, float high, Bf16) {
  return bits_as<uint32_t>(__floats2bfloat162_rn(low, high));
}

// Bits of 1.0 in both halves, and of the exponent that is all ones.
__device__ inline constexpr uint32_t ones_pair(F16) { return 0x3C003C00u; }
__device__ inline constexpr uint32_t ones_pair(Bf16) { return 0x3F803F80u; }
__device__ inline constexpr uint32_t exponent_mask(F16) { return 0x7C00u; }
__device__ inline constexpr uint32_t exponent_mask(Bf16) { return 0x7F80u; }

__device__ inline uint32_t magnitude_bits(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }

// Over 2^kSteps neighbouring lanes; every one of them gets the result. All lanes of the warp call.
template <int kSteps>
__device__ inline uint32_t lanes_max(uint32_t value) {
  PENSTOCK_UNROLL
  for (int step = 0; step < kSteps; ++step) value = max(value, __shfl_xor_sync(kAllLanes, value, 1 << step));
  return value;
}
template <int kSteps>
__device__ inline int32_t lanes_sum(int32_t value) {
  PENSTOCK_UNROLL
  for (int step = 0; step < kSteps; ++step) value += __shfl_xor_sync(kAllLanes, value, 1 << step);
  return value;
}
// In an order that is the same for every lane, since a sum of two has no order.
__device__ inline float warp_sum(float value) {
  PENSTOCK_UNROLL
  for (int step = 0; step < 5; ++step) value += __shfl_xor_sync(kAllLanes, value, 1 << step);
  return value;
}

}  // namespace penstock::cuda
