// What the bytes of a quantised row mean: any 32 columns of any format as integers and scales. Owns the file layouts of
// GGUF (ggml-common.h, block_q4_0 to block_q6_K); the reference multiplies with it and packers rearrange it. The source
// file is compiled for every processor, so that none of it ends up in code for one instruction set only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/tensor_type.h"

namespace penstock {

// Columns that share one integer scale.
inline constexpr int32_t kScaleColumns = 16;

// 32 consecutive columns of a row. Their values are d * scale[column / 16] * (q - zero), plus m where has_min.
struct WeightBlock {
  float d;
  float m;
  bool has_min;
  int32_t zero;      // the integer that stands for 0; products use it through the activations' block sum
  int32_t scale[2];  // 1 where the format has one level of scales
  int8_t q[kQuantBlock];
};

// Columns [32 * block, 32 * block + 32) of a row in the file's layout. PRECOND: is_quantized(type).
WeightBlock read_weight_block(TensorType type, const std::byte* row, int32_t block);

// The integer scale and minimum, 0..63 each, of sub-block 0..7 of a Q4_K or Q5_K super-block.
struct ScaleMin {
  uint8_t scale;
  uint8_t min;
};
ScaleMin read_scale_min(const std::byte* super_block, int32_t sub_block);

}  // namespace penstock
