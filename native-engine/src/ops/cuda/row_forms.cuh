// Rows of activations in the forms that products read (ops.h, ActivationForm). Owns how four neighbouring values are
// written; the kernels own who writes which.
#pragma once

#include "ops/cuda/elements.cuh"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

inline constexpr int kVectorValues = 4;  // of a 16-byte access of f32
// Neighbouring lanes that hold a block of kQuantBlock values: 2^kQuantSteps.
inline constexpr int kQuantSteps = 3;
static_assert(kVectorValues << kQuantSteps == kQuantBlock, "eight lanes hold a block");

// x / 127 as a division has it, which costs several times as much: the quotient's rest corrects it (Markstein, "Computation of
// elementary functions on the IBM RISC System/6000 processor", 1990). Where the rest would be lost below 2^-126 it is a division.
__device__ inline float by_127(float x) {
  constexpr float kInverse = 1.0f / 127.0f;
  if (!(x > 0x1p-90f && x < 0x1p126f)) return __fdiv_rn(x, 127.0f);
  const float quotient = x * kInverse;
  return fmaf(fmaf(-quotient, 127.0f, x), kInverse, quotient);
}

// x / scale to the nearest whole number, ties to even, as the quotient rounded to f32 has it; inverse is 1 / scale or nearly. Their
// product is within 2^-14 of the quotient, which is at most 127: only around a tie, or where it is not a number, it has to be
// divided. A division per value took as long as all else that writes int8.
__device__ inline float nearest_quotient(float x, float scale, float inverse) {
  const float product = x * inverse;
  const float nearest = rintf(product);
  if (fabsf(fabsf(product - nearest) - 0.5f) > 0x1p-13f) return nearest;
  return rintf(__fdiv_rn(x, scale));
}

// As Kernels::quantize: d = largest magnitude / 127, q = x / d to the nearest, ties to even, s = d * sum(q), all of it
// to the bit.
__device__ inline void write_q8(const DeviceActivations& out, int64_t row, int32_t column,
                                const float (&x)[kVectorValues], bool live) {
  uint32_t largest = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kVectorValues; ++i) largest = max(largest, magnitude_bits(x[i]));
  largest = lanes_max<kQuantSteps>(largest);
  const bool finite = largest < kInfinityBits;
  const float scale = by_127(__uint_as_float(largest));
  const float inverse = __fdividef(1.0f, scale);
  uint32_t packed = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kVectorValues; ++i) {
    const float ratio = finite && scale != 0.0f ? nearest_quotient(x[i], scale, inverse) : 0.0f;
    const int32_t q = static_cast<int32_t>(fminf(fmaxf(ratio, -127.0f), 127.0f));
    packed |= (static_cast<uint32_t>(q) & 0xFFu) << (8 * i);
  }
  const int32_t sum = lanes_sum<kQuantSteps>(__dp4a(static_cast<int32_t>(packed), 0x01010101, 0));
  if (!live) return;
  *reinterpret_cast<uint32_t*>(static_cast<int8_t*>(out.values) + row * out.cols + column) = packed;
  if (column % kQuantBlock != 0) return;
  const int64_t block = row * (out.cols / kQuantBlock) + column / kQuantBlock;
  const float nan = __uint_as_float(0x7FC00000u);
  out.d[block] = finite ? scale : nan;
  out.s[block] = finite ? __fmul_rn(scale, static_cast<float>(sum)) : nan;
}

// Writes x to [row, column..column + 3] of every output. All lanes of a warp call, eight neighbouring ones with a whole
// block of kQuantBlock columns; those that are not live hold zeros and write nothing.
__device__ inline void write_forms(const ActivationOutputs& outputs, int64_t row, int32_t column,
                                   const float (&x)[kVectorValues], bool live) {
  PENSTOCK_UNROLL
  for (int i = 0; i < kFormsMax; ++i) {
    if (i >= outputs.count) break;
    const DeviceActivations& out = outputs.form[i];
    const int64_t at = row * out.cols + column;
    switch (out.form) {
      case ActivationForm::f32:
        if (live)
          *reinterpret_cast<float4*>(static_cast<float*>(out.values) + at) = make_float4(x[0], x[1], x[2], x[3]);
        break;
      case ActivationForm::f16:
        if (live) {
          *reinterpret_cast<uint2*>(static_cast<__half*>(out.values) + at) =
              make_uint2(pack_pair(x[0], x[1], F16{}), pack_pair(x[2], x[3], F16{}));
        }
        break;
      case ActivationForm::bf16:
        if (live) {
          *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(out.values) + at) =
              make_uint2(pack_pair(x[0], x[1], Bf16{}), pack_pair(x[2], x[3], Bf16{}));
        }
        break;
      case ActivationForm::q8:
        write_q8(out, row, column, x, live);
        break;
    }
  }
}

}  // namespace penstock::cuda
