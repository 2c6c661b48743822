// What the planes of formats.h mean, on the device: integers and scales of 32 columns of a row, and the one place that says how a
// block's integer sum enters the f32 sum. Owns no memory access: callers bring words from wherever they have them.
#pragma once

#include "ops/cuda/formats.h"
#include "ops/cuda/platform.h"

namespace penstock::cuda {

// What kernels, which are templates of it, need to know of a quantised type at compile time.
template <TensorType kType>
struct QuantFormat {
  static constexpr TensorType type = kType;
  static constexpr PanelLayout layout = panel_layout(kType);
  static constexpr bool has_levels = kType == TensorType::q4_k || kType == TensorType::q5_k;
  static constexpr bool has_min = has_levels || layout.min_planes > 0;
  static constexpr bool has_fifth_bits = layout.high_planes == 2;
  static constexpr bool has_high_pairs = layout.high_planes == 4;
  static constexpr bool is_bytes = layout.planes_per_block == 2;
  static constexpr bool has_half_scales = has_high_pairs;  // a scale per 16 columns
  static constexpr int32_t zero = kType == TensorType::q4_0 ? 8 : kType == TensorType::q5_0 ? 16 : 0;
};

// `call` with the format of a type as its argument. PRECOND: is_quantized(type).
template <class Call>
void with_format(TensorType type, Call&& call) {
  switch (type) {
    case TensorType::q4_0:
      return call(QuantFormat<TensorType::q4_0>{});
    case TensorType::q4_1:
      return call(QuantFormat<TensorType::q4_1>{});
    case TensorType::q5_0:
      return call(QuantFormat<TensorType::q5_0>{});
    case TensorType::q5_1:
      return call(QuantFormat<TensorType::q5_1>{});
    case TensorType::q8_0:
      return call(QuantFormat<TensorType::q8_0>{});
    case TensorType::q4_k:
      return call(QuantFormat<TensorType::q4_k>{});
    case TensorType::q5_k:
      return call(QuantFormat<TensorType::q5_k>{});
    case TensorType::q6_k:
      return call(QuantFormat<TensorType::q6_k>{});
    default:
      return;  // excluded by the precondition
  }
}

// As WeightBlock: a value is d * scale[column / 16] * (q - zero) + m.
struct BlockScale {
  float d;
  float m;
  float scale[2];  // whole numbers
};

__device__ __forceinline__ float f16_value(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
}

// f16 number `i` of words.
__device__ __forceinline__ float half_at(const uint32_t* words, int32_t i) {
  return f16_value(words[i / 2] >> (i % 2 * 16) & 0xFFFFu);
}

// Of block `b` of a panel, from the row's 4 words of `scales` and, where there are any, `mins`. super_d: Q6_K's d.
template <class Format>
__device__ __forceinline__ BlockScale block_scale(const uint32_t* scales, const uint32_t* mins, float super_d, int32_t b) {
  if constexpr (Format::has_levels) {
    const uint32_t low = scales[1 + b / 4] >> (b % 4 * 8);
    const uint32_t upper = scales[3] >> (b * 4);
    const auto scale = static_cast<float>((low & 15u) | (upper & 3u) << 4);
    const auto min = static_cast<int32_t>((low >> 4 & 15u) | (upper >> 2 & 3u) << 4);
    return {half_at(scales, 0), -(half_at(scales, 1) * static_cast<float>(min)), {scale, scale}};
  } else if constexpr (Format::has_half_scales) {
    const uint32_t pair = scales[b / 2] >> (b % 2 * 16);
    const auto low = static_cast<int8_t>(pair & 255u), high = static_cast<int8_t>(pair >> 8 & 255u);
    return {super_d, 0.0f, {static_cast<float>(low), static_cast<float>(high)}};
  } else if constexpr (Format::has_min) {
    return {half_at(scales, b), half_at(mins, b), {1.0f, 1.0f}};
  } else {
    return {half_at(scales, b), 0.0f, {1.0f, 1.0f}};
  }
}

// Word t of a block's nibbles and the block's upper bits -> four int8 each: `low` columns 4t.., `high` columns 16 + 4t...
template <class Format>
__device__ __forceinline__ void unpack_nibbles(uint32_t nibbles, uint2 upper, int32_t t, uint32_t& low, uint32_t& high) {
  low = nibbles & 0x0F0F0F0Fu;
  high = nibbles >> 4 & 0x0F0F0F0Fu;
  if constexpr (Format::has_fifth_bits) {
    low |= (upper.x >> t & 0x01010101u) << 4;
    high |= (upper.x >> (t + 4) & 0x01010101u) << 4;
  }
  if constexpr (Format::has_high_pairs) {
    // 0..63, less 32 in each byte: with the top bit set no byte borrows from the next.
    low |= (upper.x >> (2 * t) & 0x03030303u) << 4 | 0x80808080u;
    high |= (upper.y >> (2 * t) & 0x03030303u) << 4 | 0x80808080u;
    low = (low - 0x20202020u) ^ 0x80808080u;
    high = (high - 0x20202020u) ^ 0x80808080u;
  }
}

// What a product needs of a block: as block_scale, m being what the sum of the activations is multiplied with, whether it comes of
// a minimum or of integers that begin at zero.
template <class Format>
__device__ __forceinline__ BlockScale product_scale(const uint32_t* scales, const uint32_t* mins, float super_d, int32_t b) {
  BlockScale w = block_scale<Format>(scales, mins, super_d, b);
  if constexpr (Format::zero != 0) w.m = w.d * static_cast<float>(-Format::zero);
  return w;
}

// What a block's integer sums come to, w being its product_scale: first [16 columns] and second as floats; where one scale serves
// all 32 columns `first` is the sum of both. Stays below 2^24, and is exact.
template <class Format>
__device__ __forceinline__ float block_total(const BlockScale& w, float first, float second) {
  if constexpr (Format::has_levels) return first * w.scale[0];
  if constexpr (Format::has_half_scales) return fmaf(first, w.scale[0], second * w.scale[1]);
  return first;
}

// A block's total enters a segment's sum. d and s are the activations'.
template <class Format>
__device__ __forceinline__ float accumulate_block(float sum, const BlockScale& w, float total, float d, float s) {
  sum = fmaf(w.d * d, total, sum);
  if constexpr (Format::zero != 0 || Format::has_min) sum = fmaf(w.m, s, sum);
  return sum;
}

}  // namespace penstock::cuda
