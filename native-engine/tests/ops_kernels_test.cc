// The SIMD kernels against the reference: equal to the bit where ops.h promises it, within a tolerance elsewhere.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "model_fixtures.h"
#include "ops/half.h"
#include "ops/memory.h"
#include "ops/ops.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr TensorType kTypes[] = {TensorType::f32, TensorType::f16, TensorType::q4_0, TensorType::q4_1,
                                 TensorType::q8_0};

// Every table that this processor runs; the reference alone elsewhere.
std::vector<const Kernels*> tables() {
  std::vector<const Kernels*> all{&reference_kernels()};
  if (avx2_kernels() != nullptr) all.push_back(avx2_kernels());
  return all;
}

struct PackedMatrix {
  PackedMatrix(const Kernels& kernels, TensorType type, int32_t rows, int32_t cols, const std::vector<uint8_t>& file)
      : memory(kernels.packed_bytes(type, rows, cols)), matrix{type, rows, cols, memory.data()} {
    kernels.pack(type, rows, cols, reinterpret_cast<const std::byte*>(file.data()), memory.data());
  }
  PageMemory memory;
  Matrix matrix;
};

struct Inputs {
  Inputs(const Kernels& kernels, const std::vector<float>& values, int32_t rows_, int32_t cols_)
      : f32(values), q(values.size()), d(values.size() / 32 + 1), s(values.size() / 32 + 1), rows(rows_), cols(cols_) {
    if (cols % kQuantBlock != 0) return;
    for (int32_t row = 0; row < rows; ++row) {
      const int32_t at = row * cols;
      kernels.quantize(f32.data() + at, cols, q.data() + at, d.data() + at / 32, s.data() + at / 32);
    }
  }
  Activations view() const { return {f32.data(), q.data(), d.data(), s.data(), rows, cols}; }
  std::vector<float> f32;
  std::vector<int8_t> q;
  std::vector<float> d, s;
  int32_t rows, cols;
};

std::vector<float> normals(size_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> product(const Kernels& kernels, const Matrix& w, const Activations& x) {
  std::vector<float> out(static_cast<size_t>(x.rows) * static_cast<size_t>(w.rows), -1.0f);
  kernels.matmul(w, x, 0, w.tiles(), out.data(), w.rows);
  return out;
}

TEST(Half, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    const uint16_t back = float_to_half(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(back)));
    } else {
      ASSERT_EQ(back, half) << bits;
    }
  }
}

TEST(Half, RoundsToNearestWithTiesToEven) {
  EXPECT_EQ(float_to_half(1.0f + 0x1p-11f), 0x3C00);      // halfway: down to even
  EXPECT_EQ(float_to_half(1.0f + 3 * 0x1p-11f), 0x3C02);  // halfway: up to even
  EXPECT_EQ(float_to_half(65519.0f), 0x7BFF);             // the largest finite half
  EXPECT_EQ(float_to_half(65520.0f), 0x7C00);             // infinity
  EXPECT_EQ(float_to_half(0x1p-25f), 0x0000);             // half of the smallest subnormal
  EXPECT_EQ(float_to_half(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(float_to_half(3 * 0x1p-25f), 0x0002);
  EXPECT_EQ(float_to_half(-std::numeric_limits<float>::infinity()), 0xFC00);
}

TEST(Dequantize, RowsAreWhatTheFormatsDefine) {
  const auto block = [](TensorType type, float d, float m, const std::vector<uint8_t>& quants) {
    std::vector<uint8_t> bytes;
    put_half(bytes, d);
    if (type == TensorType::q4_1) put_half(bytes, m);
    bytes.insert(bytes.end(), quants.begin(), quants.end());
    return bytes;
  };
  std::vector<uint8_t> nibbles(16);
  for (uint8_t i = 0; i < 16; ++i) nibbles[i] = static_cast<uint8_t>(i | (15 - i) << 4);
  std::vector<uint8_t> bytes(32);
  for (uint8_t i = 0; i < 32; ++i) bytes[i] = static_cast<uint8_t>(i * 8 - 128);
  for (const Kernels* kernels : tables()) {
    float out[32];
    PackedMatrix q4_0(*kernels, TensorType::q4_0, 1, 32, block(TensorType::q4_0, 0.5f, 0, nibbles));
    kernels->matrix_row(q4_0.matrix, 0, out);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(out[i], 0.5f * static_cast<float>(i - 8));
    for (int i = 0; i < 16; ++i) EXPECT_EQ(out[16 + i], 0.5f * static_cast<float>(7 - i));
    PackedMatrix q4_1(*kernels, TensorType::q4_1, 1, 32, block(TensorType::q4_1, 0.5f, -3.0f, nibbles));
    kernels->matrix_row(q4_1.matrix, 0, out);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(out[i], 0.5f * static_cast<float>(i) - 3.0f);
    PackedMatrix q8_0(*kernels, TensorType::q8_0, 1, 32, block(TensorType::q8_0, 0.25f, 0, bytes));
    kernels->matrix_row(q8_0.matrix, 0, out);
    for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], 0.25f * static_cast<float>(i * 8 - 128));
  }
}

TEST(Dequantize, PackedRowsEqualTheFilesRows) {
  std::mt19937 random(5);
  for (TensorType type : kTypes) {
    const int32_t rows = 13, cols = 96;
    const auto file = random_weights(type, size_t{rows} * cols, 0.5f, random);
    PackedMatrix plain(reference_kernels(), type, rows, cols, file);
    for (const Kernels* kernels : tables()) {
      PackedMatrix packed(*kernels, type, rows, cols, file);
      std::vector<float> a(cols), b(cols);
      for (int32_t row = 0; row < rows; ++row) {
        reference_kernels().matrix_row(plain.matrix, row, a.data());
        kernels->matrix_row(packed.matrix, row, b.data());
        EXPECT_TRUE(same_bits(a, b)) << kernels->name << " " << tensor_type_facts(type).name << " row " << row;
      }
    }
  }
}

TEST(Quantize, KeepsWithinHalfAStepAndNeverEmitsMinus128) {
  const auto values = normals(32 * 200, 1, 3.0f);
  for (const Kernels* kernels : tables()) {
    const Inputs x(*kernels, values, 1, static_cast<int32_t>(values.size()));
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_GE(x.q[i], -127);
      EXPECT_NEAR(static_cast<float>(x.q[i]) * x.d[i / 32], values[i], 0.5001f * x.d[i / 32]);
    }
  }
}

TEST(Quantize, IsTheSameToTheBitInEveryImplementation) {
  std::vector<float> values = normals(32 * 64, 2, 5.0f);
  const float specials[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 3e38f, -3e38f, 0.5f, 1.5f, 2.5f};
  for (size_t i = 0; i < 32 * 16; ++i) values[i] = specials[i % 9] * (i / 32 % 2 == 0 ? 1.0f : 1e-3f);
  for (size_t i = 0; i < 32; ++i) values[32 * 20 + i] = 0.0f;
  for (size_t i = 0; i < 32; ++i) values[32 * 21 + i] = 1e-44f;
  const Inputs expected(reference_kernels(), values, 1, static_cast<int32_t>(values.size()));
  for (const Kernels* kernels : tables()) {
    const Inputs x(*kernels, values, 1, static_cast<int32_t>(values.size()));
    EXPECT_EQ(x.q, expected.q) << kernels->name;
    EXPECT_TRUE(same_bits(x.d, expected.d) && same_bits(x.s, expected.s)) << kernels->name;
  }
}

TEST(Quantize, BlocksThatAreNotFiniteBecomeNaNAndNothingElse) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    std::vector<float> values(96, 1.0f);
    values[40] = bad;
    for (const Kernels* kernels : tables()) {
      const Inputs x(*kernels, values, 1, 96);
      EXPECT_EQ(x.d[0], 1.0f / 127.0f);
      EXPECT_TRUE(std::isnan(x.d[1]) && std::isnan(x.s[1]));
      EXPECT_EQ(x.q[40], 0);
      EXPECT_EQ(x.d[2], 1.0f / 127.0f);
    }
  }
}

// The definition of the formats, in double: what both implementations approximate.
TEST(Matmul, ReferenceMatchesDequantizedWeightsInDouble) {
  std::mt19937 random(6);
  const Kernels& k = reference_kernels();
  for (TensorType type : kTypes) {
    const int32_t rows = 11, cols = 192;
    PackedMatrix w(k, type, rows, cols, random_weights(type, size_t{rows} * cols, 0.1f, random));
    const Inputs x(k, normals(cols, 7), 1, cols);
    const auto out = product(k, w.matrix, x.view());
    for (int32_t row = 0; row < rows; ++row) {
      std::vector<float> weights(cols);
      k.matrix_row(w.matrix, row, weights.data());
      double exact = 0, magnitude = 0;
      for (int32_t i = 0; i < cols; ++i) {
        const double value = is_quantized(type) ? double{x.d[static_cast<size_t>(i / 32)]} * x.q[static_cast<size_t>(i)]
                                                : double{x.f32[static_cast<size_t>(i)]};
        exact += weights[static_cast<size_t>(i)] * value;
        magnitude += std::fabs(weights[static_cast<size_t>(i)] * value);
      }
      EXPECT_NEAR(out[static_cast<size_t>(row)], exact, 2e-6 * magnitude + 1e-7) << tensor_type_facts(type).name;
    }
  }
}

TEST(Matmul, EqualsTheReferenceToTheBitForRaggedShapes) {
  std::mt19937 random(8);
  for (TensorType type : kTypes) {
    const std::vector<int32_t> widths =
        is_quantized(type) ? std::vector<int32_t>{32, 64, 576} : std::vector<int32_t>{1, 7, 8, 33, 172, 576};
    for (int32_t cols : widths) {
      for (int32_t rows : {1, 7, 8, 9, 20}) {
        const auto file = random_weights(type, static_cast<size_t>(rows * cols), 0.2f, random);
        PackedMatrix plain(reference_kernels(), type, rows, cols, file);
        for (int32_t inputs : {1, 2, 3, 4, 5, 9, 70}) {
          const auto values = normals(static_cast<size_t>(inputs * cols), static_cast<uint32_t>(cols + inputs), 2.0f);
          const Inputs x(reference_kernels(), values, inputs, cols);
          const auto expected = product(reference_kernels(), plain.matrix, x.view());
          for (const Kernels* kernels : tables()) {
            PackedMatrix packed(*kernels, type, rows, cols, file);
            EXPECT_TRUE(same_bits(product(*kernels, packed.matrix, x.view()), expected))
                << kernels->name << " " << tensor_type_facts(type).name << " [" << rows << ", " << cols << "] x "
                << inputs;
          }
        }
      }
    }
  }
}

TEST(Matmul, ARowHasTheSameBitsAloneAndInABatch) {
  std::mt19937 random(9);
  for (const Kernels* kernels : tables()) {
    for (TensorType type : kTypes) {
      const int32_t rows = 24, cols = 96, inputs = 11;
      PackedMatrix w(*kernels, type, rows, cols, random_weights(type, size_t{rows} * cols, 0.2f, random));
      const auto values = normals(size_t{inputs} * cols, 10);
      const auto together = product(*kernels, w.matrix, Inputs(*kernels, values, inputs, cols).view());
      for (int32_t i = 0; i < inputs; ++i) {
        const std::vector<float> row(values.begin() + i * cols, values.begin() + (i + 1) * cols);
        const auto alone = product(*kernels, w.matrix, Inputs(*kernels, row, 1, cols).view());
        EXPECT_EQ(0, std::memcmp(alone.data(), together.data() + i * rows, alone.size() * 4)) << kernels->name;
      }
    }
  }
}

// maddubs saturates at 16 bits: weights and activations at the ends of their ranges are where a wrong kernel shows.
TEST(Matmul, ExtremeValuesDoNotSaturate) {
  const int32_t cols = 256;
  for (TensorType type : {TensorType::q4_0, TensorType::q4_1, TensorType::q8_0}) {
    for (uint8_t weight : {uint8_t{0x00}, uint8_t{0xFF}, uint8_t{0x7F}, uint8_t{0x80}, uint8_t{0x81}}) {
      for (int pattern = 0; pattern < 3; ++pattern) {
        std::vector<uint8_t> file;
        for (int32_t block = 0; block < 8 * cols / 32; ++block) {
          put_half(file, 1.0f);
          if (type == TensorType::q4_1) put_half(file, -8.0f);
          file.insert(file.end(), type == TensorType::q8_0 ? 32 : 16, weight);
        }
        std::vector<float> values(cols);
        for (int32_t i = 0; i < cols; ++i)
          values[static_cast<size_t>(i)] = pattern == 0   ? 127.0f
                                           : pattern == 1 ? -127.0f
                                           : i % 2 == 0   ? 127.0f
                                                          : -127.0f;
        const Inputs x(reference_kernels(), values, 1, cols);
        PackedMatrix plain(reference_kernels(), type, 8, cols, file);
        std::vector<float> row(cols);
        reference_kernels().matrix_row(plain.matrix, 0, row.data());
        double exact = 0;
        for (int32_t i = 0; i < cols; ++i)
          exact += double{row[static_cast<size_t>(i)]} * values[static_cast<size_t>(i)];
        for (const Kernels* kernels : tables()) {
          PackedMatrix packed(*kernels, type, 8, cols, file);
          for (float out : product(*kernels, packed.matrix, x.view()))
            EXPECT_NEAR(out, exact, 1e-6 * std::fabs(exact)) << kernels->name;
        }
      }
    }
  }
}

TEST(Rows, NormRopeAndSwigluMatchTheReference) {
  for (const Kernels* kernels : tables()) {
    for (int32_t n : {1, 8, 9, 64, 172, 576}) {
      const auto x = normals(static_cast<size_t>(n), 11, 4.0f);
      const auto y = normals(static_cast<size_t>(n), 12);
      std::vector<float> a(static_cast<size_t>(n)), b(static_cast<size_t>(n));
      reference_kernels().rms_norm(x.data(), y.data(), n, 1e-5f, a.data());
      kernels->rms_norm(x.data(), y.data(), n, 1e-5f, b.data());
      for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 2e-6f + 2e-6f * std::fabs(a[i]));
      reference_kernels().swiglu(x.data(), y.data(), n, a.data());
      kernels->swiglu(x.data(), y.data(), n, b.data());
      for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-7f + 1e-6f * std::fabs(a[i]));
      a = b = x;
      reference_kernels().add(a.data(), y.data(), n);
      kernels->add(b.data(), y.data(), n);
      EXPECT_TRUE(same_bits(a, b));
    }
    for (RopePairs pairs : {RopePairs::interleaved, RopePairs::halves}) {
      for (int32_t dims : {2, 6, 8, 14, 16, 30, 40}) {
        const auto turn = normals(40, 13);
        auto a = normals(3 * 40, 14);
        auto b = a;
        reference_kernels().rope(pairs, a.data(), turn.data(), 3, 40, dims);
        kernels->rope(pairs, b.data(), turn.data(), 3, 40, dims);
        EXPECT_TRUE(same_bits(a, b)) << dims;
      }
    }
  }
}

TEST(Rows, SwigluStaysFiniteForExtremeGates) {
  const std::vector<float> gate{-1000.0f, -100.0f, -88.0f, 88.0f, 1000.0f, 0.0f, 1e-30f, -3e38f};
  const std::vector<float> up(8, 1.0f);
  for (const Kernels* kernels : tables()) {
    std::vector<float> out(8);
    kernels->swiglu(gate.data(), up.data(), 8, out.data());
    for (size_t i = 0; i < 8; ++i) {
      EXPECT_TRUE(std::isfinite(out[i])) << kernels->name << " " << gate[i];
      if (gate[i] > 0) {
        EXPECT_NEAR(out[i], gate[i] > 1 ? gate[i] : gate[i] / 2, 1e-4f);
      }
      if (gate[i] > -1000.0f && gate[i] <= -88.0f) {
        EXPECT_NEAR(out[i], 0.0f, 1e-30f);
      }
    }
  }
}

}  // namespace
}  // namespace penstock
