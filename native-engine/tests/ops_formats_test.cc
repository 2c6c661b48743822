// Every weight format: what its bytes mean against an independent decoder, the SIMD products against the reference to
// the bit, and the quantisers against an independent one.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ops/half.h"
#include "ops/memory.h"
#include "ops/ops.h"
#include "ops/quantize_weights.h"
#include "ops/weight_block.h"
#include "test_files.h"
#include "weight_files.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr TensorType kTypes[] = {TensorType::f32,  TensorType::f16,  TensorType::bf16, TensorType::q4_0,
                                 TensorType::q4_1, TensorType::q5_0, TensorType::q5_1, TensorType::q8_0,
                                 TensorType::q4_k, TensorType::q5_k, TensorType::q6_k};

std::vector<const Kernels*> tables() {
  std::vector<const Kernels*> all{&reference_kernels()};
  if (avx2_kernels() != nullptr) all.push_back(avx2_kernels());
  return all;
}

struct PackedMatrix {
  PackedMatrix(const Kernels& kernels, TensorType type, int32_t rows, int32_t cols, const Bytes& file)
      : memory(kernels.packed_bytes(type, rows, cols)), matrix{type, rows, cols, memory.data()} {
    kernels.pack(type, rows, cols, data_of(file), memory.data());
  }
  PageMemory memory;
  Matrix matrix;
};

struct Inputs {
  Inputs(std::vector<float> values, int32_t rows_, int32_t cols_)
      : f32(std::move(values)), q(f32.size()), d(f32.size() / 32), s(f32.size() / 32), rows(rows_), cols(cols_) {
    reference_kernels().quantize(f32.data(), rows * cols, q.data(), d.data(), s.data());
  }
  Activations view() const { return {f32.data(), q.data(), d.data(), s.data(), rows, cols}; }
  // What the product of a weight format multiplies with.
  double value(TensorType type, int32_t i) const {
    const auto at = static_cast<size_t>(i);
    return is_quantized(type) ? double{d[at / 32]} * q[at] : double{f32[at]};
  }
  std::vector<float> f32;
  std::vector<int8_t> q;
  std::vector<float> d, s;
  int32_t rows, cols;
};

std::vector<float> product(const Kernels& kernels, const Matrix& w, const Activations& x) {
  std::vector<float> out(static_cast<size_t>(x.rows) * static_cast<size_t>(w.rows), -1.0f);
  kernels.matmul(w, x, 0, w.tiles(), out.data(), w.rows);
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Golden {
  enum Kind : uint32_t { decoded = 0, encoded = 1 } kind;
  TensorType type;
  Bytes blocks;
  std::vector<float> values;
};

std::vector<Golden> goldens() {
  const Bytes file = read_file(fixture("weight_formats.bin"));
  std::vector<Golden> all;
  for (size_t at = 0; at < file.size();) {
    uint32_t header[4];
    std::memcpy(header, file.data() + at, sizeof header);
    const uint8_t* blocks = file.data() + at + sizeof header;
    Golden golden{static_cast<Golden::Kind>(header[0]), static_cast<TensorType>(header[1]),
                  Bytes(blocks, blocks + header[3]), std::vector<float>(header[2])};
    std::memcpy(golden.values.data(), blocks + header[3], size_t{header[2]} * 4);
    at += sizeof header + header[3] + size_t{header[2]} * 4;
    all.push_back(std::move(golden));
  }
  return all;
}

TEST(Formats, DecodeToTheBitsOfAnIndependentDecoder) {
  std::vector<TensorType> seen;
  for (const Golden& golden : goldens()) {
    if (golden.kind != Golden::decoded) continue;
    seen.push_back(golden.type);
    const auto cols = static_cast<int32_t>(golden.values.size());
    for (const Kernels* kernels : tables()) {
      const PackedMatrix w(*kernels, golden.type, 1, cols, golden.blocks);
      std::vector<float> row(golden.values.size());
      kernels->matrix_row(w.matrix, 0, row.data());
      EXPECT_TRUE(same_bits(row, golden.values)) << kernels->name << " " << name_of(golden.type);
    }
  }
  for (TensorType type : kTypes) {
    EXPECT_TRUE(type == TensorType::f32 || std::find(seen.begin(), seen.end(), type) != seen.end()) << name_of(type);
  }
}

TEST(Formats, ProductsMatchIndependentlyDecodedWeightsInDouble) {
  for (const Golden& golden : goldens()) {
    if (golden.kind != Golden::decoded) continue;
    const auto cols = static_cast<int32_t>(golden.values.size());
    const Inputs x(activations(cols, 20), 1, cols);
    double exact = 0;
    double magnitude = 0;
    bool finite = true;
    for (int32_t i = 0; i < cols; ++i) {
      const double term = golden.values[static_cast<size_t>(i)] * x.value(golden.type, i);
      exact += term;
      magnitude += std::fabs(term);
      finite = finite && std::isfinite(golden.values[static_cast<size_t>(i)]);
    }
    const PackedMatrix w(reference_kernels(), golden.type, 1, cols, golden.blocks);
    const float out = product(reference_kernels(), w.matrix, x.view())[0];
    if (finite) {
      // The minimum and the integers are summed apart, and each may be larger than their difference.
      EXPECT_NEAR(out, exact, 4e-6 * magnitude) << name_of(golden.type);
    } else {
      EXPECT_FALSE(std::isfinite(out)) << name_of(golden.type);
    }
  }
}

TEST(Formats, PackedRowsEqualTheFilesRows) {
  for (TensorType type : kTypes) {
    const int32_t rows = 13, cols = 3 * tensor_type_facts(type).block_values;
    const Bytes file = random_file(type, rows, cols, 21);
    const PackedMatrix plain(reference_kernels(), type, rows, cols, file);
    for (const Kernels* kernels : tables()) {
      const PackedMatrix packed(*kernels, type, rows, cols, file);
      std::vector<float> expected(static_cast<size_t>(cols)), row(static_cast<size_t>(cols));
      for (int32_t r = 0; r < rows; ++r) {
        reference_kernels().matrix_row(plain.matrix, r, expected.data());
        kernels->matrix_row(packed.matrix, r, row.data());
        EXPECT_TRUE(same_bits(row, expected)) << kernels->name << " " << name_of(type) << " row " << r;
      }
    }
  }
}

TEST(Formats, PackingKeepsTheBytesPerWeight) {
  for (const Kernels* kernels : tables()) {
    for (TensorType type : kTypes) EXPECT_EQ(kernels->packed_bytes(type, 16, 512), 16 * row_bytes(type, 512));
  }
}

// Activation counts cover every group size, the switch from direct to unpacked weights, and more than one pass.
TEST(Formats, ProductsEqualTheReferenceToTheBit) {
  for (TensorType type : kTypes) {
    const int32_t block = tensor_type_facts(type).block_values;
    const std::vector<int32_t> widths = block == 1    ? std::vector<int32_t>{32, 96}
                                        : block == 32 ? std::vector<int32_t>{32, 96, 288, 544}
                                                      : std::vector<int32_t>{256, 768};
    for (int32_t cols : widths) {
      for (int32_t rows : {1, 8, 13, 40}) {
        const Bytes file = random_file(type, rows, cols, static_cast<uint32_t>(rows + cols));
        const PackedMatrix plain(reference_kernels(), type, rows, cols, file);
        for (int32_t inputs : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 67}) {
          const Inputs x(activations(inputs * cols, static_cast<uint32_t>(cols + inputs)), inputs, cols);
          const auto expected = product(reference_kernels(), plain.matrix, x.view());
          for (const Kernels* kernels : tables()) {
            if (kernels == &reference_kernels()) continue;
            const PackedMatrix packed(*kernels, type, rows, cols, file);
            ASSERT_TRUE(same_bits(product(*kernels, packed.matrix, x.view()), expected))
                << kernels->name << " " << name_of(type) << " [" << rows << ", " << cols << "] x " << inputs;
          }
        }
      }
    }
  }
}

// Ranges of tiles write their own columns and nothing else.
TEST(Formats, ARangeOfTilesIsThatPartOfTheProduct) {
  for (const Kernels* kernels : tables()) {
    for (TensorType type : kTypes) {
      const int32_t rows = 45, cols = 256;
      const PackedMatrix w(*kernels, type, rows, cols, random_file(type, rows, cols, 22));
      for (int32_t inputs : {1, 3, 10}) {
        const Inputs x(activations(inputs * cols, 23), inputs, cols);
        const auto whole = product(*kernels, w.matrix, x.view());
        for (int32_t begin = 0; begin < w.matrix.tiles(); begin += 2) {
          const int32_t end = std::min(begin + 3, w.matrix.tiles());
          std::vector<float> part(whole.size(), -7.0f);
          kernels->matmul(w.matrix, x.view(), begin, end, part.data(), rows);
          for (int32_t i = 0; i < inputs * rows; ++i) {
            const int32_t tile = i % rows / kTileRows;
            const float expected = tile >= begin && tile < end ? whole[static_cast<size_t>(i)] : -7.0f;
            ASSERT_EQ(part[static_cast<size_t>(i)], expected) << kernels->name << " " << name_of(type);
          }
        }
      }
    }
  }
}

TEST(Formats, ARowHasTheSameBitsAloneAndInABatch) {
  for (const Kernels* kernels : tables()) {
    for (TensorType type : kTypes) {
      const int32_t rows = 24, cols = 512, inputs = 11;
      const PackedMatrix w(*kernels, type, rows, cols, random_file(type, rows, cols, 24));
      const auto values = activations(inputs * cols, 25);
      const auto together = product(*kernels, w.matrix, Inputs(values, inputs, cols).view());
      for (int32_t i = 0; i < inputs; ++i) {
        const Inputs one({values.begin() + i * cols, values.begin() + (i + 1) * cols}, 1, cols);
        const auto alone = product(*kernels, w.matrix, one.view());
        ASSERT_EQ(0, std::memcmp(alone.data(), together.data() + i * rows, alone.size() * 4))
            << kernels->name << " " << name_of(type);
      }
    }
  }
}

// maddubs saturates and 16-bit sums wrap: integers and activations at the ends of their ranges, in every combination of
// signs, are where a wrong bound shows. The sums are compared with double, where they are exact.
TEST(Formats, ExtremeIntegersDoNotSaturate) {
  const int32_t cols = 512;
  for (TensorType type : kTypes) {
    if (!is_quantized(type)) continue;
    const auto block_bytes = static_cast<size_t>(tensor_type_facts(type).block_bytes);
    for (uint8_t fill : {uint8_t{0x00}, uint8_t{0xFF}, uint8_t{0x7F}, uint8_t{0x80}, uint8_t{0x81}, uint8_t{0xF0}}) {
      for (uint8_t scale : {uint8_t{0x00}, uint8_t{0xFF}, uint8_t{0x7F}, uint8_t{0x80}}) {
        Bytes file(static_cast<size_t>(8 * row_bytes(type, cols)), fill);
        for (size_t at = 0; at < file.size(); at += block_bytes) {
          if (type == TensorType::q6_k) std::memset(file.data() + at + 192, scale, 16);
          if (type == TensorType::q4_k || type == TensorType::q5_k) std::memset(file.data() + at + 4, scale, 12);
          for (size_t half : halves_of(type)) put_half_at(file, at + half, half == 0 ? 1.0f : -8.0f);
          if (type == TensorType::q6_k) put_half_at(file, at + 208, 1.0f);
        }
        const PackedMatrix plain(reference_kernels(), type, 8, cols, file);
        for (int pattern = 0; pattern < 4; ++pattern) {
          std::vector<float> values(9 * size_t{cols});
          for (size_t i = 0; i < values.size(); ++i) {
            const bool negative = pattern == 1 || (pattern == 2 && i % 2 == 0) || (pattern == 3 && i / 16 % 2 == 0);
            values[i] = negative ? -127.0f : 127.0f;
          }
          const Inputs x(values, 9, cols);
          std::vector<float> row(static_cast<size_t>(cols));
          reference_kernels().matrix_row(plain.matrix, 0, row.data());
          double exact = 0;
          double magnitude = 0;
          for (size_t i = 0; i < row.size(); ++i) {
            exact += double{row[i]} * values[i];
            magnitude += std::fabs(double{row[i]} * values[i]);
          }
          const auto expected = product(reference_kernels(), plain.matrix, x.view());
          EXPECT_NEAR(expected[0], exact, 2e-6 * magnitude) << name_of(type);
          for (const Kernels* kernels : tables()) {
            const PackedMatrix packed(*kernels, type, 8, cols, file);
            EXPECT_TRUE(same_bits(product(*kernels, packed.matrix, x.view()), expected))
                << kernels->name << " " << name_of(type) << " " << int{fill} << " " << int{scale} << " " << pattern;
            const Inputs one({values.begin(), values.begin() + cols}, 1, cols);
            EXPECT_EQ(product(*kernels, packed.matrix, one.view())[0], expected[0]) << name_of(type);
          }
        }
      }
    }
  }
}

TEST(Formats, AScaleThatIsNotFiniteReachesItsOutputOnly) {
  for (TensorType type : kTypes) {
    const int32_t rows = 20, cols = 512, bad_row = 10;
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Bytes file = random_file(type, rows, cols, 26);
      const Bytes clean = file;
      const auto at = static_cast<size_t>(bad_row * row_bytes(type, cols));
      if (type == TensorType::f32) {
        std::memcpy(file.data() + at, &bad, 4);
      } else if (type == TensorType::bf16) {
        const auto upper = static_cast<uint16_t>(std::bit_cast<uint32_t>(bad) >> 16);
        std::memcpy(file.data() + at, &upper, 2);
      } else {
        put_half_at(file, at + (is_quantized(type) ? halves_of(type)[0] : 0), bad);
      }
      for (const Kernels* kernels : tables()) {
        const PackedMatrix w(*kernels, type, rows, cols, file);
        const PackedMatrix without(*kernels, type, rows, cols, clean);
        for (int32_t inputs : {1, 4, 12}) {
          const Inputs x(activations(inputs * cols, 27), inputs, cols);
          const auto out = product(*kernels, w.matrix, x.view());
          const auto expected = product(*kernels, without.matrix, x.view());
          for (int32_t i = 0; i < inputs * rows; ++i) {
            const auto index = static_cast<size_t>(i);
            if (i % rows == bad_row) {
              EXPECT_FALSE(std::isfinite(out[index])) << kernels->name << " " << name_of(type);
            } else {
              EXPECT_EQ(out[index], expected[index]) << kernels->name << " " << name_of(type);
            }
          }
        }
      }
    }
  }
}

TEST(QuantizeWeights, EqualsAnIndependentQuantiserToTheBit) {
  int32_t compared = 0;
  for (const Golden& golden : goldens()) {
    if (golden.kind != Golden::encoded) continue;
    ASSERT_TRUE(can_quantize_to(golden.type));
    Bytes blocks(golden.blocks.size());
    quantize_weight_row(golden.type, golden.values.data(), static_cast<int32_t>(golden.values.size()),
                        reinterpret_cast<std::byte*>(blocks.data()));
    EXPECT_EQ(blocks, golden.blocks) << name_of(golden.type) << " record " << compared;
    ++compared;
  }
  EXPECT_EQ(compared, 10);
}

TEST(QuantizeWeights, RowRangesEqualSingleRowsForEveryFormat) {
  const int32_t rows = 5, cols = 256;
  for (TensorType from : kTypes) {
    const Bytes file = random_file(from, rows, cols, 28);
    const Matrix matrix{from, rows, cols, data_of(file)};
    for (TensorType to : {TensorType::q8_0, TensorType::q4_0}) {
      const auto bytes = static_cast<size_t>(row_bytes(to, cols));
      Bytes range(2 * bytes), single(bytes);
      quantize_weight_rows(to, matrix, 2, 4, reinterpret_cast<std::byte*>(range.data()));
      std::vector<float> values(static_cast<size_t>(cols)), back(static_cast<size_t>(cols));
      reference_kernels().matrix_row(matrix, 3, values.data());
      quantize_weight_row(to, values.data(), cols, reinterpret_cast<std::byte*>(single.data()));
      EXPECT_EQ(Bytes(range.begin() + static_cast<std::ptrdiff_t>(bytes), range.end()), single) << name_of(from);
      // Half a step of the block's largest magnitude, plus the rounding of the scale to f16; a value next to the end
      // that Q4_0's steps do not reach is off by a whole one.
      reference_kernels().matrix_row({to, 1, cols, data_of(single)}, 0, back.data());
      for (int32_t i = 0; i < cols; ++i) {
        float largest = 0;
        for (int32_t k = i / 32 * 32; k < i / 32 * 32 + 32; ++k) {
          largest = std::max(largest, std::fabs(values[static_cast<size_t>(k)]));
        }
        const float step = to == TensorType::q8_0 ? 0.51f / 127.0f : 1.0f / 8.0f;
        EXPECT_NEAR(back[static_cast<size_t>(i)], values[static_cast<size_t>(i)], largest * (step + 6e-4f));
      }
    }
  }
}

TEST(QuantizeWeights, ABlockThatIsNotFiniteBecomesNaNAndNothingElse) {
  for (TensorType type : {TensorType::q8_0, TensorType::q4_0}) {
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(), 1e9f}) {
      std::vector<float> values(96, 1.0f);
      values[40] = bad;
      Bytes blocks(static_cast<size_t>(row_bytes(type, 96)));
      quantize_weight_row(type, values.data(), 96, reinterpret_cast<std::byte*>(blocks.data()));
      std::vector<float> row(96);
      reference_kernels().matrix_row({type, 1, 96, data_of(blocks)}, 0, row.data());
      for (size_t i = 0; i < 96; ++i) {
        EXPECT_EQ(std::isnan(row[i]), i / 32 == 1) << name_of(type) << " " << i;
        if (i / 32 != 1) {
          EXPECT_NEAR(row[i], 1.0f, 1e-3f);
        }
      }
    }
  }
}

// No reciprocal of the step exists here; the format cannot hold the values, and they become 0.
TEST(QuantizeWeights, DenormalValuesBecomeZero) {
  for (TensorType type : {TensorType::q8_0, TensorType::q4_0}) {
    std::vector<float> values(32, 1e-44f);
    values[3] = -3e-44f;
    values[5] = 0.0f;
    Bytes blocks(static_cast<size_t>(row_bytes(type, 32)));
    quantize_weight_row(type, values.data(), 32, reinterpret_cast<std::byte*>(blocks.data()));
    std::vector<float> row(32, 1.0f);
    reference_kernels().matrix_row({type, 1, 32, data_of(blocks)}, 0, row.data());
    for (float value : row) EXPECT_EQ(value, 0.0f);
  }
}

}  // namespace
}  // namespace penstock
