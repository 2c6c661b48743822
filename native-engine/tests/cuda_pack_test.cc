// Weights in the device's layout: nothing is lost, sizes are those of the file, and tiles are independent. The layout is read
// back here from its description in formats.h, by code that shares nothing with the packer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/cuda/formats.h"
#include "ops/cuda/pack.h"
#include "ops/half.h"
#include "ops/weight_block.h"
#include "weight_files.h"

namespace penstock::cuda {
namespace {

using namespace penstock::testing;

constexpr TensorType kQuantized[] = {TensorType::q4_0, TensorType::q4_1, TensorType::q5_0, TensorType::q5_1,
                                     TensorType::q8_0, TensorType::q4_k, TensorType::q5_k, TensorType::q6_k};

std::vector<std::byte> packed(TensorType type, int32_t rows, int32_t cols, const Bytes& file) {
  std::vector<std::byte> bytes(static_cast<size_t>(packed_bytes(type, rows, cols)), std::byte{0xEE});
  pack(type, rows, cols, data_of(file), bytes.data());
  return bytes;
}

float half_from(const std::byte* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return half_to_float(bits);
}

int32_t byte_from(const std::byte* at) { return static_cast<int32_t>(*at); }

// Block `b` of row `row`, from the packed planes.
WeightBlock unpacked_block(TensorType type, const std::byte* data, int32_t cols, int32_t row, int32_t b) {
  const bool levels = type == TensorType::q4_k || type == TensorType::q5_k;
  const bool mins = type == TensorType::q4_1 || type == TensorType::q5_1;
  const bool fifths = type == TensorType::q5_0 || type == TensorType::q5_1 || type == TensorType::q5_k;
  const bool bytes = type == TensorType::q8_0, six = type == TensorType::q6_k;
  const int32_t high = mins ? 2 : 1;
  const int32_t values = high + (fifths ? 2 : six ? 4 : 0);
  const int32_t planes = values + (bytes ? 16 : 8);
  const int64_t panel_bytes = planes * 512 + (six ? 64 : 0);
  const int32_t panels = (cols + 255) / 256;
  const std::byte* panel = data + (int64_t{row / 32} * panels + b / 8) * panel_bytes;
  const int32_t slot = b % 8;
  const auto plane = [&](int32_t index) { return panel + index * 512 + row % 32 * 16; };

  WeightBlock block{0.0f, 0.0f, levels || mins, 0, {1, 1}, {}};
  if (type == TensorType::q4_0) block.zero = 8;
  if (type == TensorType::q5_0) block.zero = 16;
  if (levels) {
    const int32_t low = byte_from(plane(0) + 4 + slot);
    const int32_t upper = byte_from(plane(0) + 12 + slot / 2) >> (slot % 2 * 4) & 15;
    block.d = half_from(plane(0));
    block.scale[0] = block.scale[1] = (low & 15) | (upper & 3) << 4;
    block.m = -(half_from(plane(0) + 2) * static_cast<float>(low >> 4 | upper >> 2 << 4));
  } else if (six) {
    block.d = half_from(panel + planes * 512 + row % 32 * 2);
    for (int32_t i = 0; i < 2; ++i) block.scale[i] = static_cast<int8_t>(plane(0)[2 * slot + i]);
  } else {
    block.d = half_from(plane(0) + 2 * slot);
    if (mins) block.m = half_from(plane(1) + 2 * slot);
  }
  for (int32_t i = 0; i < 32; ++i) {
    if (bytes) {
      block.q[i] = static_cast<int8_t>(plane(values + 2 * slot + i / 16)[i % 16]);
      continue;
    }
    int32_t value = byte_from(plane(values + slot) + i % 16) >> (i / 16 * 4) & 15;
    if (fifths) value |= (byte_from(plane(high + slot / 4) + slot % 4 * 4 + i % 4) >> (i / 4) & 1) << 4;
    if (six) {
      const int32_t pair = byte_from(plane(high + slot / 2) + slot % 2 * 8 + i / 16 * 4 + i % 4) >> (i % 16 / 4 * 2) & 3;
      value = (value | pair << 4) - 32;
    }
    block.q[i] = static_cast<int8_t>(value);
  }
  return block;
}

TEST(CudaPack, EveryBlockOfEveryFormatIsReadBackAsTheFileHasIt) {
  for (TensorType type : kQuantized) {
    const int32_t rows = 45;
    const int32_t cols = tensor_type_facts(type).block_values == kSuperBlock ? 768 : 352;
    const Bytes file = random_file(type, rows, cols, 31);
    const std::vector<std::byte> data = packed(type, rows, cols, file);
    for (int32_t row = 0; row < rows; ++row) {
      for (int32_t b = 0; b < cols / kQuantBlock; ++b) {
        const WeightBlock want = read_weight_block(type, data_of(file) + row * row_bytes(type, cols), b);
        const WeightBlock got = unpacked_block(type, data.data(), cols, row, b);
        ASSERT_EQ(got.d, want.d) << name_of(type) << " row " << row << " block " << b;
        ASSERT_EQ(got.m, want.m) << name_of(type) << " row " << row << " block " << b;
        ASSERT_EQ(got.zero, want.zero);
        ASSERT_EQ(std::memcmp(got.scale, want.scale, sizeof got.scale), 0) << name_of(type) << " row " << row << " block " << b;
        ASSERT_EQ(std::memcmp(got.q, want.q, sizeof got.q), 0) << name_of(type) << " row " << row << " block " << b;
      }
    }
  }
}

TEST(CudaPack, PaddingIsZeroAndWholeTilesCostWhatTheFileCosts) {
  for (TensorType type : kQuantized) {
    EXPECT_EQ(packed_bytes(type, 64, 512), 64 * row_bytes(type, 512)) << name_of(type);
    // The one row of the second tile is zero here, so all of the tile has to be.
    const int32_t cols = kSuperBlock;
    Bytes file = random_file(type, 33, cols, 32);
    std::fill(file.end() - row_bytes(type, cols), file.end(), uint8_t{0});
    const std::vector<std::byte> data = packed(type, 33, cols, file);
    const int64_t second = packed_rows_offset(type, 32, cols);
    for (size_t i = static_cast<size_t>(second); i < data.size(); ++i) ASSERT_EQ(data[i], std::byte{0}) << name_of(type);
  }
}

TEST(CudaPack, TilesArePackedByThemselvesAndMatricesStack) {
  const TensorType types[] = {TensorType::f32, TensorType::f16, TensorType::bf16, TensorType::q4_0, TensorType::q5_1,
                              TensorType::q8_0, TensorType::q4_k, TensorType::q6_k};
  for (TensorType type : types) {
    const int32_t rows = 80, cols = 256;
    const Bytes file = random_file(type, rows, cols, 33);
    const std::vector<std::byte> whole = packed(type, rows, cols, file);
    std::vector<std::byte> parts(whole.size(), std::byte{0xEE});
    pack(type, 64, cols, data_of(file), parts.data());
    pack(type, 16, cols, data_of(file) + 64 * row_bytes(type, cols), parts.data() + packed_rows_offset(type, 64, cols));
    EXPECT_EQ(parts, whole) << name_of(type);
  }
}

TEST(CudaPack, SixteenBitMatricesStayAsTheyAreAndF32IsInterleavedByFour) {
  const Bytes halves = random_file(TensorType::f16, 5, 7, 34);
  const std::vector<std::byte> same = packed(TensorType::f16, 5, 7, halves);
  EXPECT_EQ(std::memcmp(same.data(), halves.data(), halves.size()), 0);

  const int32_t rows = 37, cols = 10;
  const Bytes file = random_file(TensorType::f32, rows, cols, 35);
  const std::vector<std::byte> data = packed(TensorType::f32, rows, cols, file);
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t c = 0; c < cols; ++c) {
      const int32_t at = ((row / 32 * 3 + c / 4) * 32 + row % 32) * 4 + c % 4;
      ASSERT_EQ(std::memcmp(data.data() + 4 * at, file.data() + 4 * (row * cols + c), 4), 0) << row << " " << c;
    }
  }
}

TEST(CudaPack, SegmentsAreWholePanelsAndAtMostEight) {
  for (int32_t cols = 32; cols <= 60000; cols += 32) {
    ASSERT_LE(segments_of(cols), kSegmentsMax) << cols;
    ASSERT_GE(segments_of(cols) * segment_panels(cols), panels_of(cols)) << cols;
    ASSERT_LT((segments_of(cols) - 1) * segment_panels(cols), panels_of(cols)) << "the last segment has columns, " << cols;
  }
}

}  // namespace
}  // namespace penstock::cuda
