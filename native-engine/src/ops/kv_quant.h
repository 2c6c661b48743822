// The scale of a block of KvType::q8_0, shared by the implementations so that they store the same bytes.
#pragma once

#include <bit>
#include <cstdint>

#include "ops/half.h"

namespace penstock {

// magnitude_bits: the largest |x| of the block as an integer, whose order is that of the floats with infinity and NaN
// above all. Returns d in f16 with |x| / d at most 127 after rounding (and clamping, where d is subnormal); NaN for a
// block that is not finite or beyond what an f16 scale reaches, since a value silently cut would be a wrong answer.
// q = x / d rounded to nearest even, 0 where d is not positive.
inline uint16_t kv_scale(uint32_t magnitude_bits) {
  constexpr uint16_t kNan = 0x7E00;
  constexpr uint16_t kInfinity = 0x7C00;
  if (magnitude_bits >= 0x7F800000u) return kNan;
  const uint16_t scale = float_to_half(std::bit_cast<float>(magnitude_bits) / 127.0f);
  return scale == kInfinity ? kNan : scale;
}

}  // namespace penstock
