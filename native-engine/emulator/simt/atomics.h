// Atomics on device and shared memory, relaxed as CUDA's are; real ones, since blocks may run on several OS threads. They return
// what was there before. Fences order them: simt.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "simt/half.h"

namespace simt {

// One atomic step of any 2-, 4- or 8-byte type.
template <class T, class F>
T atomic_step(T* address, F next) {
  using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
  static_assert(sizeof(Bits) == sizeof(T));
  Bits* const bits = reinterpret_cast<Bits*>(address);
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED);
  for (;;) {
    T value;
    std::memcpy(static_cast<void*>(&value), &before, sizeof value);
    const T after = next(value);
    Bits wanted;
    std::memcpy(&wanted, static_cast<const void*>(&after), sizeof wanted);
    if (__atomic_compare_exchange_n(bits, &before, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return value;
  }
}

}  // namespace simt

#define SIMT_ATOMIC_INTEGER(type)                                                                                     \
  inline type atomicAdd(type* a, type v) { return __atomic_fetch_add(a, v, __ATOMIC_RELAXED); }                       \
  inline type atomicSub(type* a, type v) { return __atomic_fetch_sub(a, v, __ATOMIC_RELAXED); }                       \
  inline type atomicExch(type* a, type v) { return __atomic_exchange_n(a, v, __ATOMIC_RELAXED); }                     \
  inline type atomicAnd(type* a, type v) { return __atomic_fetch_and(a, v, __ATOMIC_RELAXED); }                       \
  inline type atomicOr(type* a, type v) { return __atomic_fetch_or(a, v, __ATOMIC_RELAXED); }                         \
  inline type atomicXor(type* a, type v) { return __atomic_fetch_xor(a, v, __ATOMIC_RELAXED); }                       \
  inline type atomicMax(type* a, type v) {                                                                            \
    return simt::atomic_step(a, [v](type before) { return before < v ? v : before; });                                \
  }                                                                                                                   \
  inline type atomicMin(type* a, type v) {                                                                            \
    return simt::atomic_step(a, [v](type before) { return v < before ? v : before; });                                \
  }                                                                                                                   \
  inline type atomicCAS(type* a, type expected, type v) {                                                             \
    __atomic_compare_exchange_n(a, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                          \
    return expected;                                                                                                  \
  }
SIMT_ATOMIC_INTEGER(int)
SIMT_ATOMIC_INTEGER(unsigned int)
SIMT_ATOMIC_INTEGER(long long)
SIMT_ATOMIC_INTEGER(unsigned long long)
#undef SIMT_ATOMIC_INTEGER

inline unsigned short atomicCAS(unsigned short* a, unsigned short expected, unsigned short v) {
  __atomic_compare_exchange_n(a, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
inline unsigned int atomicInc(unsigned int* a, unsigned int limit) {
  return simt::atomic_step(a, [limit](unsigned int before) { return before >= limit ? 0 : before + 1; });
}
inline unsigned int atomicDec(unsigned int* a, unsigned int limit) {
  return simt::atomic_step(a, [limit](unsigned int before) { return before == 0 || before > limit ? limit : before - 1; });
}
inline float atomicExch(float* a, float v) {
  return simt::atomic_step(a, [v](float) { return v; });
}
inline float atomicAdd(float* a, float v) {
  return simt::atomic_step(a, [v](float before) { return before + v; });
}
inline double atomicAdd(double* a, double v) {
  return simt::atomic_step(a, [v](double before) { return before + v; });
}
inline __half atomicAdd(__half* a, __half v) {
  return simt::atomic_step(a, [v](__half before) { return before + v; });
}
inline __nv_bfloat16 atomicAdd(__nv_bfloat16* a, __nv_bfloat16 v) {
  return simt::atomic_step(a, [v](__nv_bfloat16 before) { return before + v; });
}
// Each half is added by itself; a GPU promises no more than that.
inline __half2 atomicAdd(__half2* a, __half2 v) { return __half2(atomicAdd(&a->x, v.x), atomicAdd(&a->y, v.y)); }
inline __nv_bfloat162 atomicAdd(__nv_bfloat162* a, __nv_bfloat162 v) {
  return __nv_bfloat162(atomicAdd(&a->x, v.x), atomicAdd(&a->y, v.y));
}
