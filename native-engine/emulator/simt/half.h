// __half, __nv_bfloat16 and their pairs, with CUDA's names: 16 bits, rounded to nearest even, a NaN made by a conversion is 0x7FFF.
// Arithmetic is done in f32 and rounded once, which for these operations is the correctly rounded result; fma in f64.
// Owns neither atomics (atomics.h) nor shuffles (warp.h). Conversions that CUDA makes implicitly are explicit here, so that
// a kernel states where it rounds.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "simt/vector_types.h"

namespace simt {

// Without branches, so that loops over it become vector code: the exponent is shifted into place by a multiplication.
inline float half_bits_to_float(uint16_t half) {
  const uint32_t magnitude = (half & 0x7FFFu) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= 0x0F800000u ? 0x7F800000u : 0u;
  const uint32_t quiet = magnitude > 0x0F800000u ? 0x00400000u : 0u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | quiet | (half & 0x8000u) << 16);
}

inline uint16_t float_to_half_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return 0x7FFF;
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and more
  if (magnitude >= 0x38800000u) {
    const uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
  }
  // Subnormal: the addition aligns the fraction with the last bit of a half, and rounds as f32 does.
  const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
  return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3F000000u));
}

inline float bfloat16_bits_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

inline uint16_t float_to_bfloat16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// f64 to 16 bits through f32 would round twice: the f32 is made odd when it is not exact.
inline float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || !std::isfinite(value) || !std::isfinite(nearest)) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;  // towards zero
  return std::bit_cast<float>(bits | 1u);
}

}  // namespace simt

#define SIMT_FLOAT16(type, raw, to_float, from_float)                                                          \
  struct alignas(2) type {                                                                                     \
    uint16_t raw;                                                                                              \
    type() = default;                                                                                          \
    explicit type(float v) : raw(from_float(v)) {}                                                             \
    explicit type(double v) : raw(from_float(simt::round_to_odd(v))) {}                                        \
    explicit type(int v) : raw(from_float(simt::round_to_odd(v))) {}                                           \
    explicit operator float() const { return to_float(raw); }                                                  \
    static type from_bits(uint16_t bits) {                                                                     \
      type result;                                                                                             \
      result.raw = bits;                                                                                       \
      return result;                                                                                           \
    }                                                                                                          \
  };                                                                                                           \
  inline type operator+(type a, type b) { return type(float(a) + float(b)); }                                  \
  inline type operator-(type a, type b) { return type(float(a) - float(b)); }                                  \
  inline type operator*(type a, type b) { return type(float(a) * float(b)); }                                  \
  inline type operator/(type a, type b) { return type(float(a) / float(b)); }                                  \
  inline type operator-(type a) { return type::from_bits(static_cast<uint16_t>(a.raw ^ 0x8000u)); }            \
  inline type& operator+=(type& a, type b) { return a = a + b; }                                               \
  inline type& operator-=(type& a, type b) { return a = a - b; }                                               \
  inline type& operator*=(type& a, type b) { return a = a * b; }                                               \
  inline bool operator==(type a, type b) { return float(a) == float(b); }                                      \
  inline bool operator!=(type a, type b) { return float(a) != float(b); }                                      \
  inline bool operator<(type a, type b) { return float(a) < float(b); }                                        \
  inline bool operator>(type a, type b) { return float(a) > float(b); }                                        \
  inline bool operator<=(type a, type b) { return float(a) <= float(b); }                                      \
  inline bool operator>=(type a, type b) { return float(a) >= float(b); }                                      \
  inline type __hadd(type a, type b) { return a + b; }                                                         \
  inline type __hsub(type a, type b) { return a - b; }                                                         \
  inline type __hmul(type a, type b) { return a * b; }                                                         \
  inline type __hdiv(type a, type b) { return a / b; }                                                         \
  inline type __hneg(type a) { return -a; }                                                                    \
  inline type __habs(type a) { return type::from_bits(static_cast<uint16_t>(a.raw & 0x7FFFu)); }               \
  inline type __hfma(type a, type b, type c) {                                                                 \
    return type(std::fma(double(float(a)), double(float(b)), double(float(c))));                               \
  }                                                                                                            \
  inline type __hmax(type a, type b) { return type(std::fmax(float(a), float(b))); }                           \
  inline type __hmin(type a, type b) { return type(std::fmin(float(a), float(b))); }                           \
  inline bool __hisnan(type a) { return std::isnan(float(a)); }                                                \
  inline bool __heq(type a, type b) { return a == b; }                                                         \
  inline bool __hne(type a, type b) { return a != b; }                                                         \
  inline bool __hlt(type a, type b) { return a < b; }                                                          \
  inline bool __hle(type a, type b) { return a <= b; }                                                         \
  inline bool __hgt(type a, type b) { return a > b; }                                                          \
  inline bool __hge(type a, type b) { return a >= b; }

#define SIMT_FLOAT16_PAIR(type, pair, to_float)                                                                \
  struct alignas(4) pair {                                                                                     \
    type x, y;                                                                                                 \
    pair() = default;                                                                                          \
    pair(type low, type high) : x(low), y(high) {}                                                             \
  };                                                                                                           \
  inline pair operator+(pair a, pair b) { return pair(a.x + b.x, a.y + b.y); }                                 \
  inline pair operator-(pair a, pair b) { return pair(a.x - b.x, a.y - b.y); }                                 \
  inline pair operator*(pair a, pair b) { return pair(a.x * b.x, a.y * b.y); }                                 \
  inline pair __hadd2(pair a, pair b) { return a + b; }                                                        \
  inline pair __hsub2(pair a, pair b) { return a - b; }                                                        \
  inline pair __hmul2(pair a, pair b) { return a * b; }                                                        \
  inline pair __hneg2(pair a) { return pair(-a.x, -a.y); }                                                     \
  inline pair __habs2(pair a) { return pair(__habs(a.x), __habs(a.y)); }                                       \
  inline pair __hfma2(pair a, pair b, pair c) { return pair(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)); }   \
  inline pair __hmax2(pair a, pair b) { return pair(__hmax(a.x, b.x), __hmax(a.y, b.y)); }                     \
  inline pair __hmin2(pair a, pair b) { return pair(__hmin(a.x, b.x), __hmin(a.y, b.y)); }                     \
  inline type __low2##to_float(pair a) { return a.x; }                                                         \
  inline type __high2##to_float(pair a) { return a.y; }                                                        \
  inline float __low2float(pair a) { return float(a.x); }                                                      \
  inline float __high2float(pair a) { return float(a.y); }

SIMT_FLOAT16(__half, __x, simt::half_bits_to_float, simt::float_to_half_bits)
SIMT_FLOAT16(__nv_bfloat16, __x, simt::bfloat16_bits_to_float, simt::float_to_bfloat16_bits)
SIMT_FLOAT16_PAIR(__half, __half2, half)
SIMT_FLOAT16_PAIR(__nv_bfloat16, __nv_bfloat162, bfloat16)
#undef SIMT_FLOAT16
#undef SIMT_FLOAT16_PAIR

inline __half __float2half(float v) { return __half(v); }
inline __half __float2half_rn(float v) { return __half(v); }
inline __half __double2half(double v) { return __half(v); }
inline __half __int2half_rn(int v) { return __half(v); }
inline float __half2float(__half v) { return float(v); }
inline uint16_t __half_as_ushort(__half v) { return v.__x; }
inline int16_t __half_as_short(__half v) { return static_cast<int16_t>(v.__x); }
inline __half __ushort_as_half(uint16_t bits) { return __half::from_bits(bits); }
inline __half __short_as_half(int16_t bits) { return __half::from_bits(static_cast<uint16_t>(bits)); }
inline __half2 __halves2half2(__half low, __half high) { return __half2(low, high); }
inline __half2 __half2half2(__half v) { return __half2(v, v); }
inline __half2 __float2half2_rn(float v) { return __half2(__half(v), __half(v)); }
inline __half2 __floats2half2_rn(float low, float high) { return __half2(__half(low), __half(high)); }
inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
inline __half2 __low2half2(__half2 v) { return __half2(v.x, v.x); }
inline __half2 __high2half2(__half2 v) { return __half2(v.y, v.y); }
inline __half2 __lows2half2(__half2 a, __half2 b) { return __half2(a.x, b.x); }
inline __half2 __highs2half2(__half2 a, __half2 b) { return __half2(a.y, b.y); }

inline __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
inline __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }
inline float __bfloat162float(__nv_bfloat16 v) { return float(v); }
inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 v) { return v.__x; }
inline int16_t __bfloat16_as_short(__nv_bfloat16 v) { return static_cast<int16_t>(v.__x); }
inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t bits) { return __nv_bfloat16::from_bits(bits); }
inline __nv_bfloat16 __short_as_bfloat16(int16_t bits) { return __nv_bfloat16::from_bits(static_cast<uint16_t>(bits)); }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return __nv_bfloat162(low, high); }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v) { return __nv_bfloat162(v, v); }
inline __nv_bfloat162 __float2bfloat162_rn(float v) { return __nv_bfloat162(__nv_bfloat16(v), __nv_bfloat16(v)); }
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
  return __nv_bfloat162(__nv_bfloat16(low), __nv_bfloat16(high));
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return __floats2bfloat162_rn(v.x, v.y); }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {float(v.x), float(v.y)}; }
