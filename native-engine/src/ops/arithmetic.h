// The machine's ceiling of arithmetic. Owns the probe; who compares against it is the caller's business.
#pragma once

#include <cstdint>

namespace penstock {

// What the products of a model are computed in: weights in blocks of int8 and smaller against int8, all others in f32.
enum class MacType : uint8_t { unknown = 0, f32 = 1, int8 = 2 };

// Multiply-adds per second of `threads` threads with the instructions that the kernels are made of (AVX2 and FMA), from registers
// alone: no kernel can be faster. The best of a few passes, since noise only ever slows a pass down. Takes some 30 ms; 0 where
// the processor has no such instructions or the type is unknown.
uint64_t measure_mac_rate(int32_t threads, MacType type);

}  // namespace penstock
