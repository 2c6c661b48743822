// IEEE half precision in plain C++: the meaning that the F16C instructions are tested against.
#pragma once

#include <bit>
#include <cstdint>

namespace penstock {

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 0x1Fu;
  uint32_t fraction = half & 0x3FFu;
  if (exponent == 0x1F) {  // infinity or NaN; a NaN comes out quiet, as the hardware does it
    return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13 | (fraction != 0 ? 0x400000u : 0u));
  }
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  if (fraction == 0) return std::bit_cast<float>(sign);
  uint32_t shifted_exponent = 113;  // subnormal: normalise
  while ((fraction & 0x400u) == 0) {
    fraction <<= 1;
    --shifted_exponent;
  }
  return std::bit_cast<float>(sign | shifted_exponent << 23 | (fraction & 0x3FFu) << 13);
}

// Rounds to nearest, ties to even.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // rounds to 65536 or more
  if (magnitude >= 0x38800000u) {                                              // normal
    const uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
  }
  if (magnitude <= 0x33000000u) return static_cast<uint16_t>(sign);  // at most half of the smallest subnormal
  const uint32_t shift = 126 - (magnitude >> 23);                    // 14..24
  const uint32_t fraction = (magnitude & 0x7FFFFFu) | 0x800000u;
  const uint32_t half_ulp = 1u << (shift - 1);
  const uint32_t truncated = fraction >> shift;
  const uint32_t rest = fraction & ((1u << shift) - 1);
  const uint32_t up = rest > half_ulp || (rest == half_ulp && (truncated & 1u) != 0) ? 1u : 0u;
  return static_cast<uint16_t>(sign | (truncated + up));
}

}  // namespace penstock
