// Reading of blocks: one function per layout, bytes to integers, in plain loops.
#include "ops/weight_block.h"

#include <cstring>

#include "ops/half.h"

namespace penstock {

namespace {

// Sub-blocks of 32 columns in a super-block.
constexpr int32_t kSubBlocks = kSuperBlock / kQuantBlock;

float load_half(const std::byte* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  return half_to_float(half);
}

// 16 bytes: low nibbles are columns 0..15, high ones 16..31.
void read_nibbles(const std::byte* at, int8_t* q) {
  for (int32_t i = 0; i < kQuantBlock / 2; ++i) {
    const auto pair = static_cast<uint8_t>(at[i]);
    q[i] = static_cast<int8_t>(pair & 15);
    q[i + kQuantBlock / 2] = static_cast<int8_t>(pair >> 4);
  }
}

// A 32-bit word: bit i is the fifth bit of column i.
void add_fifth_bits(const std::byte* at, int8_t* q) {
  uint32_t bits;
  std::memcpy(&bits, at, sizeof bits);
  for (int32_t i = 0; i < kQuantBlock; ++i) q[i] = static_cast<int8_t>(q[i] | (bits >> i & 1u) << 4);
}

// Each 32 bytes of a super-block's nibbles are two sub-blocks: the even one low, the odd one high.
void read_sub_block_nibbles(const std::byte* nibbles, int32_t sub, int8_t* q) {
  const std::byte* at = nibbles + sub / 2 * kQuantBlock;
  const int32_t shift = sub % 2 * 4;
  for (int32_t i = 0; i < kQuantBlock; ++i) q[i] = static_cast<int8_t>(static_cast<uint8_t>(at[i]) >> shift & 15);
}

void read_two_level(TensorType type, const std::byte* super, int32_t sub, WeightBlock& block) {
  const ScaleMin level = read_scale_min(super, sub);
  block.d = load_half(super);
  block.m = -(load_half(super + 2) * static_cast<float>(level.min));
  block.has_min = true;
  block.scale[0] = block.scale[1] = level.scale;
  const bool five_bits = type == TensorType::q5_k;
  read_sub_block_nibbles(super + (five_bits ? 48 : 16), sub, block.q);
  if (!five_bits) return;
  // Byte i of the fifth bits holds column i of all eight sub-blocks, one bit each.
  for (int32_t i = 0; i < kQuantBlock; ++i) {
    const auto bits = static_cast<uint8_t>(super[16 + i]);
    block.q[i] = static_cast<int8_t>(block.q[i] | (bits >> sub & 1) << 4);
  }
}

// 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, d. Each half of the super-block is 64 bytes of
// nibbles (low: its sub-blocks 0 and 1, high: 2 and 3) and 32 bytes of pairs (one pair for each of its sub-blocks).
void read_q6_k(const std::byte* super, int32_t sub, WeightBlock& block) {
  const int32_t half = sub / 4;
  const int32_t quarter = sub % 4;
  const std::byte* low = super + 64 * half + 32 * (quarter % 2);
  const std::byte* high = super + 128 + 32 * half;
  for (int32_t i = 0; i < kQuantBlock; ++i) {
    const int32_t nibble = static_cast<uint8_t>(low[i]) >> (quarter / 2 * 4) & 15;
    const int32_t pair = static_cast<uint8_t>(high[i]) >> (2 * quarter) & 3;
    block.q[i] = static_cast<int8_t>((nibble | pair << 4) - 32);
  }
  block.d = load_half(super + 208);
  for (int32_t i = 0; i < 2; ++i) block.scale[i] = static_cast<int8_t>(super[192 + 2 * sub + i]);
}

}  // namespace

ScaleMin read_scale_min(const std::byte* super_block, int32_t sub_block) {
  const auto s = [&](int32_t i) { return static_cast<uint32_t>(super_block[4 + i]); };
  const int32_t j = sub_block;
  if (j < 4) return {static_cast<uint8_t>(s(j) & 63u), static_cast<uint8_t>(s(j + 4) & 63u)};
  return {static_cast<uint8_t>((s(j + 4) & 15u) | s(j - 4) >> 6 << 4),
          static_cast<uint8_t>(s(j + 4) >> 4 | s(j) >> 6 << 4)};
}

WeightBlock read_weight_block(TensorType type, const std::byte* row, int32_t block_index) {
  const TensorTypeFacts facts = tensor_type_facts(type);
  const bool super = facts.block_values == kSuperBlock;
  const std::byte* at = row + int64_t{super ? block_index / kSubBlocks : block_index} * facts.block_bytes;
  WeightBlock block{0.0f, 0.0f, false, 0, {1, 1}, {}};
  switch (type) {
    case TensorType::q4_0:
    case TensorType::q5_0: {
      const bool five_bits = type == TensorType::q5_0;
      block.d = load_half(at);
      block.zero = five_bits ? 16 : 8;
      read_nibbles(at + (five_bits ? 6 : 2), block.q);
      if (five_bits) add_fifth_bits(at + 2, block.q);
      return block;
    }
    case TensorType::q4_1:
    case TensorType::q5_1: {
      const bool five_bits = type == TensorType::q5_1;
      block.d = load_half(at);
      block.m = load_half(at + 2);
      block.has_min = true;
      read_nibbles(at + (five_bits ? 8 : 4), block.q);
      if (five_bits) add_fifth_bits(at + 4, block.q);
      return block;
    }
    case TensorType::q8_0:
      block.d = load_half(at);
      std::memcpy(block.q, at + 2, kQuantBlock);
      return block;
    case TensorType::q4_k:
    case TensorType::q5_k:
      read_two_level(type, at, block_index % kSubBlocks, block);
      return block;
    case TensorType::q6_k:
      read_q6_k(at, block_index % kSubBlocks, block);
      return block;
    case TensorType::f32:
    case TensorType::f16:
    case TensorType::bf16:
      break;  // excluded by the precondition
  }
  return block;
}

}  // namespace penstock
