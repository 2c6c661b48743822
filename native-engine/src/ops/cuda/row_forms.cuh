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

// As Kernels::quantize: d = largest magnitude / 127, q = x / d to the nearest, ties to even, s = d * sum(q), all of it
// to the bit, and nearly always without a division, of which one per value takes as long as all else here:
//   d  the rest of a product with 1 / 127 corrects it (Markstein, "Computation of elementary functions on the IBM RISC System/6000
//      processor", 1990), where that rest does not lie below 2^-126
//   q  a product with about 1 / d is within 2^-14 of the quotient; where it is that near to a tie, it has to be divided
__device__ inline void write_q8(const DeviceActivations& out, int64_t row, int32_t column,
                                const float (&x)[kVectorValues], bool live) {
  constexpr float kInverse = 1.0f / 127.0f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds, and leaves the integer in the low bits
  uint32_t largest_bits = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kVectorValues; ++i) largest_bits = max(largest_bits, magnitude_bits(x[i]));
  largest_bits = lanes_max<kQuantSteps>(largest_bits);
  const bool finite = largest_bits < kInfinityBits;
  const float largest = __uint_as_float(largest_bits);
  const float inverse = __fdividef(127.0f, largest);
  float scale = largest * kInverse;
  scale = fmaf(fmaf(-scale, 127.0f, largest), kInverse, scale);
  float rounded[kVectorValues];
  bool divide = !(largest > 0x1p-90f && largest < 0x1p100f);
  PENSTOCK_UNROLL
  for (int i = 0; i < kVectorValues; ++i) {
    const float product = x[i] * inverse;
    rounded[i] = product + kRound;
    divide = divide || !(fabsf(fabsf(product - (rounded[i] - kRound)) - 0.5f) > 0x1p-13f);
  }
  if (divide) {
    scale = __fdiv_rn(largest, 127.0f);
    PENSTOCK_UNROLL
    for (int i = 0; i < kVectorValues; ++i) {
      const float ratio = finite && scale != 0.0f ? __fdiv_rn(x[i], scale) : 0.0f;
      rounded[i] = fminf(fmaxf(ratio, -127.0f), 127.0f) + kRound;
    }
  }
  const uint32_t low = __byte_perm(__float_as_uint(rounded[0]), __float_as_uint(rounded[1]), 0x0040);
  const uint32_t high = __byte_perm(__float_as_uint(rounded[2]), __float_as_uint(rounded[3]), 0x0040);
  const uint32_t packed = __byte_perm(low, high, 0x5410);
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
