// The layouts of formats.h, written a row at a time: what a block of the file means comes from weight_block.h, so that the file's
// bit orders are known in one place.
#include "ops/cuda/pack.h"

#include <algorithm>
#include <cstring>

#include "ops/cuda/formats.h"
#include "ops/weight_block.h"

namespace penstock::cuda {

namespace {

constexpr int32_t kF32PlaneCols = kPlaneRowBytes / 4;

bool is_row_major(TensorType type) { return type == TensorType::f16 || type == TensorType::bf16; }

bool has_levels(TensorType type) { return type == TensorType::q4_k || type == TensorType::q5_k; }

// Bytes of 32 rows.
int64_t tile_bytes(TensorType type, int32_t cols) {
  if (type == TensorType::f32) return int64_t{ceil_div(cols, kF32PlaneCols)} * kPlaneBytes;
  if (is_row_major(type)) return kPanelRows * row_bytes(type, cols);
  return int64_t{panels_of(cols)} * panel_layout(type).bytes();
}

// values [32], 0..63: nibbles [16], and word(s) of their upper bits.
void pack_nibbles(const uint8_t* values, std::byte* nibbles) {
  for (int32_t i = 0; i < kQuantBlock / 2; ++i) {
    nibbles[i] = static_cast<std::byte>((values[i] & 15) | (values[i + kQuantBlock / 2] & 15) << 4);
  }
}

void pack_fifth_bits(const uint8_t* values, std::byte* word) {
  uint8_t bits[4] = {};
  for (int32_t i = 0; i < kQuantBlock; ++i) bits[i % 4] = static_cast<uint8_t>(bits[i % 4] | (values[i] >> 4 & 1) << i / 4);
  std::memcpy(word, bits, sizeof bits);
}

void pack_high_pairs(const uint8_t* values, std::byte* words) {
  uint8_t bits[8] = {};
  for (int32_t i = 0; i < kQuantBlock; ++i) {
    uint8_t& byte = bits[i / 16 * 4 + i % 4];
    byte = static_cast<uint8_t>(byte | (values[i] >> 4 & 3) << (i % 16 / 4 * 2));
  }
  std::memcpy(words, bits, sizeof bits);
}

// Scales and minimums of a super-block's eight sub-blocks -> 12 bytes of levels.
void pack_levels(const std::byte* super, std::byte* levels) {
  uint8_t bytes[12] = {};
  for (int32_t j = 0; j < kPanelBlocks; ++j) {
    const ScaleMin level = read_scale_min(super, j);
    bytes[j] = static_cast<uint8_t>((level.scale & 15) | (level.min & 15) << 4);
    const int32_t upper = level.scale >> 4 | level.min >> 4 << 2;
    bytes[8 + j / 2] = static_cast<uint8_t>(bytes[8 + j / 2] | upper << (j % 2 * 4));
  }
  std::memcpy(levels, bytes, sizeof bytes);
}

// The f16s and scales of block `b` of a row, into the row's 16 bytes of each header plane.
void pack_header(TensorType type, const std::byte* row, int32_t b, int32_t r, std::byte* panel) {
  const PanelLayout layout = panel_layout(type);
  const TensorTypeFacts facts = tensor_type_facts(type);
  std::byte* scales = panel + r * kPlaneRowBytes;
  const int32_t slot = b % kPanelBlocks;
  if (facts.block_values == kQuantBlock) {
    const std::byte* block = row + int64_t{b} * facts.block_bytes;
    std::memcpy(scales + 2 * slot, block, 2);
    if (layout.min_planes > 0) std::memcpy(scales + layout.mins() * kPlaneBytes + 2 * slot, block + 2, 2);
    return;
  }
  if (slot != 0) return;
  const std::byte* super = row + int64_t{b / kPanelBlocks} * facts.block_bytes;
  if (has_levels(type)) {
    std::memcpy(scales, super, 4);
    pack_levels(super, scales + 4);
  } else {
    std::memcpy(scales, super + 192, 16);
    std::memcpy(panel + layout.planes() * kPlaneBytes + 2 * r, super + 208, 2);
  }
}

void pack_quantized_row(TensorType type, int32_t cols, const std::byte* row, int32_t r, std::byte* tile) {
  const PanelLayout layout = panel_layout(type);
  for (int32_t b = 0; b < cols / kQuantBlock; ++b) {
    std::byte* panel = tile + int64_t{b / kPanelBlocks} * layout.bytes();
    const int32_t slot = b % kPanelBlocks;
    pack_header(type, row, b, r, panel);
    const WeightBlock block = read_weight_block(type, row, b);
    std::byte* values = panel + (layout.values() + slot * layout.planes_per_block) * kPlaneBytes + r * kPlaneRowBytes;
    if (type == TensorType::q8_0) {
      std::memcpy(values, block.q, 16);
      std::memcpy(values + kPlaneBytes, block.q + 16, 16);
      continue;
    }
    uint8_t raw[kQuantBlock];
    const int32_t bias = type == TensorType::q6_k ? 32 : 0;  // Q6_K's integers are read with their offset taken off
    for (int32_t i = 0; i < kQuantBlock; ++i) raw[i] = static_cast<uint8_t>(block.q[i] + bias);
    pack_nibbles(raw, values);
    std::byte* high = panel + layout.high() * kPlaneBytes + r * kPlaneRowBytes;
    if (layout.high_planes == 2) pack_fifth_bits(raw, high + slot / 4 * kPlaneBytes + slot % 4 * 4);
    if (layout.high_planes == 4) pack_high_pairs(raw, high + slot / 2 * kPlaneBytes + slot % 2 * 8);
  }
}

}  // namespace

int64_t packed_rows_offset(TensorType type, int32_t row, int32_t cols) { return row / kPanelRows * tile_bytes(type, cols); }

int64_t packed_bytes(TensorType type, int32_t rows, int32_t cols) {
  const int64_t bytes = is_row_major(type) ? rows * row_bytes(type, cols) : packed_rows_offset(type, rows + kPanelRows - 1, cols);
  return (bytes + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment;
}

void pack(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed) {
  const int64_t stride = row_bytes(type, cols);
  const auto total = static_cast<size_t>(packed_bytes(type, rows, cols));
  if (is_row_major(type)) {
    const auto bytes = static_cast<size_t>(rows * stride);
    std::memcpy(packed, file, bytes);
    std::memset(packed + bytes, 0, total - bytes);
    return;
  }
  const int64_t tile_stride = tile_bytes(type, cols);
  for (int32_t first = 0; first < rows; first += kPanelRows, packed += tile_stride) {
    const int32_t present = std::min(kPanelRows, rows - first);
    const bool whole = present == kPanelRows && cols % kPanelCols == 0;
    if (!whole) std::memset(packed, 0, static_cast<size_t>(tile_stride));
    // The packers of upper bits and levels write whole words, so nothing of a whole tile stays unwritten.
    for (int32_t r = 0; r < present; ++r) {
      const std::byte* row = file + (first + r) * stride;
      if (is_quantized(type)) {
        pack_quantized_row(type, cols, row, r, packed);
        continue;
      }
      for (int32_t c = 0; c < cols; ++c) {
        std::byte* plane = packed + int64_t{c / kF32PlaneCols} * kPlaneBytes;
        std::memcpy(plane + r * kPlaneRowBytes + c % kF32PlaneCols * 4, row + 4 * int64_t{c}, 4);
      }
    }
  }
}

}  // namespace penstock::cuda
