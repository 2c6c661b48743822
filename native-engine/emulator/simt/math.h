// Device intrinsics that need no other thread: arithmetic, bits, packed integers, conversions, cached loads. What a GPU
// approximates (rsqrtf, __expf and its kin) is computed as well as the host can, so the last bits differ from a GPU's.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "simt/vector_types.h"

// --- Floating point --------------------------------------------------------------------------------------------------
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline void __sincosf(float x, float* sine, float* cosine) { *sine = sinf(x), *cosine = cosf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline float __saturatef(float x) { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }
inline float fdividef(float x, float y) { return x / y; }

// --- Conversions; out of range they saturate and NaN becomes 0, as on the device ------------------------------------------
namespace simt {
template <class T>
T saturate(double value) {
  if (!(value == value)) return 0;
  if (value <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  if (value >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  return static_cast<T>(value);
}
}  // namespace simt
inline int __float2int_rn(float x) { return simt::saturate<int>(nearbyint(static_cast<double>(x))); }
inline int __float2int_rz(float x) { return simt::saturate<int>(trunc(static_cast<double>(x))); }
inline int __float2int_rd(float x) { return simt::saturate<int>(floor(static_cast<double>(x))); }
inline int __float2int_ru(float x) { return simt::saturate<int>(ceil(static_cast<double>(x))); }
inline unsigned int __float2uint_rn(float x) { return simt::saturate<unsigned int>(nearbyint(static_cast<double>(x))); }
inline unsigned int __float2uint_rz(float x) { return simt::saturate<unsigned int>(trunc(static_cast<double>(x))); }
inline long long __float2ll_rn(float x) { return simt::saturate<long long>(nearbyint(static_cast<double>(x))); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned int x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline double __int2double_rn(int x) { return x; }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned int __float_as_uint(float x) { return std::bit_cast<unsigned int>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// --- Bits ------------------------------------------------------------------------------------------------------------
inline int __popc(unsigned int x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned int>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned int>(x)) + 1; }
inline int __ffsll(long long x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(x)) + 1; }
inline unsigned int __brev(unsigned int x) {
  unsigned int reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
  return reversed;
}
inline unsigned int __byte_perm(unsigned int low, unsigned int high, unsigned int selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  unsigned int result = 0;
  for (unsigned int i = 0; i < 4; ++i) {
    const unsigned int nibble = selector >> 4 * i & 0xFu;
    unsigned int byte = static_cast<unsigned int>(bytes >> 8 * (nibble & 7u)) & 0xFFu;
    if ((nibble & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xFFu : 0;  // the sign, replicated
    result |= byte << 8 * i;
  }
  return result;
}
inline unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int shift) {
  return static_cast<unsigned int>((uint64_t{high} << 32 | low) << (shift & 31u) >> 32);
}
inline unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int shift) {
  return static_cast<unsigned int>((uint64_t{high} << 32 | low) >> (shift & 31u));
}

// --- Integers --------------------------------------------------------------------------------------------------------
inline int __mulhi(int x, int y) { return static_cast<int>(int64_t{x} * y >> 32); }
inline unsigned int __umulhi(unsigned int x, unsigned int y) { return static_cast<unsigned int>(uint64_t{x} * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(x) * y >> 64);
}
inline unsigned int __usad(unsigned int x, unsigned int y, unsigned int z) { return (x > y ? x - y : y - x) + z; }
inline int __dp4a(int a, int b, int c) {
  uint32_t sum = static_cast<uint32_t>(c);
  for (int i = 0; i < 32; i += 8) {
    const int product = static_cast<int8_t>(static_cast<uint32_t>(a) >> i) *
                        static_cast<int8_t>(static_cast<uint32_t>(b) >> i);
    sum += static_cast<uint32_t>(product);
  }
  return static_cast<int>(sum);
}
inline unsigned int __dp4a(unsigned int a, unsigned int b, unsigned int c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 0xFFu) * (b >> i & 0xFFu);
  return c;
}
namespace simt {
template <class Byte, class F>
unsigned int each_byte(unsigned int a, unsigned int b, F f) {
  unsigned int result = 0;
  for (int i = 0; i < 32; i += 8) {
    const int value = f(static_cast<int>(static_cast<Byte>(a >> i)), static_cast<int>(static_cast<Byte>(b >> i)));
    result |= (static_cast<unsigned int>(value) & 0xFFu) << i;
  }
  return result;
}
}  // namespace simt
inline unsigned int __vadd4(unsigned int a, unsigned int b) {
  return simt::each_byte<uint8_t>(a, b, [](int x, int y) { return x + y; });
}
inline unsigned int __vsub4(unsigned int a, unsigned int b) {
  return simt::each_byte<uint8_t>(a, b, [](int x, int y) { return x - y; });
}
inline unsigned int __vsubss4(unsigned int a, unsigned int b) {
  return simt::each_byte<int8_t>(a, b, [](int x, int y) { return std::clamp(x - y, -128, 127); });
}
inline unsigned int __vabs4(unsigned int a) {
  return simt::each_byte<int8_t>(a, 0u, [](int x, int) { return x < 0 ? -x : x; });
}
inline unsigned int __vmaxs4(unsigned int a, unsigned int b) {
  return simt::each_byte<int8_t>(a, b, [](int x, int y) { return x > y ? x : y; });
}
inline unsigned int __vcmpeq4(unsigned int a, unsigned int b) {
  return simt::each_byte<uint8_t>(a, b, [](int x, int y) { return x == y ? 0xFF : 0; });
}
inline unsigned int __vcmpne4(unsigned int a, unsigned int b) {
  return simt::each_byte<uint8_t>(a, b, [](int x, int y) { return x != y ? 0xFF : 0; });
}
inline unsigned int __vcmpgtu4(unsigned int a, unsigned int b) {
  return simt::each_byte<uint8_t>(a, b, [](int x, int y) { return x > y ? 0xFF : 0; });
}

// --- min and max, which device code has without std:: ---------------------------------------------------------------------
#define SIMT_MIN_MAX(type)                                    \
  inline type min(type a, type b) { return b < a ? b : a; } \
  inline type max(type a, type b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned int)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// --- Loads and stores with a cache's hint. Their alignment is checked, as every access of a kernel (emulator/README.md) -----
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldca(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldlu(const T* address) {
  return *address;
}
template <class T>
T __ldcv(const T* address) {
  return *address;
}
template <class T>
void __stcg(T* address, T value) {
  *address = value;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}
template <class T>
void __stwt(T* address, T value) {
  *address = value;
}
template <class T>
void __stwb(T* address, T value) {
  *address = value;
}
