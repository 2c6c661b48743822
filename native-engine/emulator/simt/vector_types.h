// CUDA's vector types, with its names, members and alignments.
#pragma once

#include <cstdint>

#define SIMT_VECTOR(type, name, alignment2, alignment4)                                            \
  struct name##1 {                                                                                             \
    type x;                                                                                                    \
  };                                                                                                           \
  struct alignas(alignment2) name##2 {                                                                         \
    type x, y;                                                                                                 \
  };                                                                                                           \
  struct name##3 {                                                                                             \
    type x, y, z;                                                                                              \
  };                                                                                                           \
  struct alignas(alignment4) name##4 {                                                                         \
    type x, y, z, w;                                                                                           \
  };                                                                                                           \
  inline constexpr name##1 make_##name##1(type x) { return {x}; }                                              \
  inline constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }                                   \
  inline constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                        \
  inline constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

SIMT_VECTOR(signed char, char, 2, 4)
SIMT_VECTOR(unsigned char, uchar, 2, 4)
SIMT_VECTOR(short, short, 4, 8)
SIMT_VECTOR(unsigned short, ushort, 4, 8)
SIMT_VECTOR(int, int, 8, 16)
SIMT_VECTOR(unsigned int, uint, 8, 16)
SIMT_VECTOR(long long, longlong, 16, 16)
SIMT_VECTOR(unsigned long long, ulonglong, 16, 16)
SIMT_VECTOR(float, float, 8, 16)
SIMT_VECTOR(double, double, 16, 16)
#undef SIMT_VECTOR

struct dim3 {
  unsigned int x = 1, y = 1, z = 1;
  constexpr dim3() = default;
  constexpr dim3(unsigned int width, unsigned int height = 1, unsigned int depth = 1) : x(width), y(height), z(depth) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
