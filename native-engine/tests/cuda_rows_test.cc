// Row-wise kernels against the reference: norms, activations, forms and gathering, over rows that fill no block and no
// warp.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda_arrays.h"
#include "ops/cuda/ops.h"
#include "ops/half.h"
#include "ops/ops.h"

namespace penstock::cuda {
namespace {

using testing::DeviceArray;
using testing::same_in_every_order;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kEps = 1e-5f;

// Normals with an outlier per row, since near-equal values hide faults.
std::vector<float> rows_of(int32_t rows, int32_t n, std::mt19937& random, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(static_cast<size_t>(rows) * n);
  for (float& value : x) value = normal(random);
  for (int32_t row = 0; row < rows; ++row) x[static_cast<size_t>(row) * n + random() % n] = 100.0f * scale;
  return x;
}

// One output in each form that n allows, on the device and read back.
class Outputs {
 public:
  Outputs(int32_t rows, int32_t n, ActivationForm first, ActivationForm second)
      : rows_(rows),
        n_(n),
        values_{DeviceArray<float>(cells()), DeviceArray<float>(cells())},
        d_{DeviceArray<float>(cells()), DeviceArray<float>(cells())},
        s_{DeviceArray<float>(cells()), DeviceArray<float>(cells())} {
    outputs_.count = 2;
    outputs_.form[0] = {first, values_[0].data(), d_[0].data(), s_[0].data(), n};
    outputs_.form[1] = {second, values_[1].data(), d_[1].data(), s_[1].data(), n};
  }
  const ActivationOutputs& get() const { return outputs_; }
  // Everything, as bytes.
  std::vector<float> read() const {
    std::vector<float> all;
    for (int i = 0; i < 2; ++i) {
      for (const auto* array : {&values_[i], &d_[i], &s_[i]}) {
        const auto part = array->read();
        all.insert(all.end(), part.begin(), part.end());
      }
    }
    return all;
  }
  template <class T>
  std::vector<T> values(int form) const {
    const auto raw = values_[form].read();
    std::vector<T> typed(cells());
    std::memcpy(typed.data(), raw.data(), typed.size() * sizeof(T));
    return typed;
  }
  std::vector<float> d(int form) const { return d_[form].read(); }
  std::vector<float> s(int form) const { return s_[form].read(); }

 private:
  size_t cells() const { return static_cast<size_t>(rows_) * n_; }
  int32_t rows_, n_;
  DeviceArray<float> values_[2], d_[2], s_[2];
  ActivationOutputs outputs_{};
};

uint16_t bfloat_bits(float x) {
  if (std::isnan(x)) return 0x7FFF;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// The forms say what they should of the f32 values x [rows, n].
void expect_form(const Outputs& outputs, int form, ActivationForm kind, const std::vector<float>& x, int32_t rows,
                 int32_t n) {
  if (kind == ActivationForm::f32) {
    const auto values = outputs.values<float>(form);
    EXPECT_EQ(0, std::memcmp(values.data(), x.data(), x.size() * 4));
  } else if (kind == ActivationForm::f16 || kind == ActivationForm::bf16) {
    const auto values = outputs.values<uint16_t>(form);
    for (size_t i = 0; i < x.size(); ++i) {
      const uint16_t expected = kind == ActivationForm::f16 ? float_to_half(x[i]) : bfloat_bits(x[i]);
      if (std::isnan(x[i])) continue;
      ASSERT_EQ(values[i], expected) << "value " << i << " " << x[i];
    }
  } else {
    const auto q = outputs.values<int8_t>(form);
    const auto d = outputs.d(form);
    const auto s = outputs.s(form);
    std::vector<int8_t> expected_q(static_cast<size_t>(n));
    std::vector<float> expected_d(static_cast<size_t>(n) / kQuantBlock), expected_s(expected_d.size());
    for (int32_t row = 0; row < rows; ++row) {
      reference_kernels().quantize(x.data() + int64_t{row} * n, n, expected_q.data(), expected_d.data(),
                                   expected_s.data());
      const size_t blocks = expected_d.size();
      ASSERT_EQ(0, std::memcmp(q.data() + int64_t{row} * n, expected_q.data(), expected_q.size())) << "row " << row;
      for (size_t i = 0; i < blocks; ++i) {
        if (std::isnan(expected_d[i])) {
          EXPECT_TRUE(std::isnan(d[row * blocks + i]) && std::isnan(s[row * blocks + i]));
          continue;
        }
        ASSERT_EQ(d[row * blocks + i], expected_d[i]) << "row " << row << " block " << i;
        ASSERT_EQ(s[row * blocks + i], expected_s[i]) << "row " << row << " block " << i;
      }
    }
  }
}

// Quotients at and around ties, at scales from the smallest to the largest: what is not divided must come out as if it were.
TEST(CudaRows, Int8IsTheQuotientsToTheBit) {
  constexpr int32_t kRows = 40, kCols = 1024;
  std::mt19937 random(12);
  std::vector<float> x(size_t{kRows} * kCols);
  for (size_t block = 0; block < x.size() / kQuantBlock; ++block) {
    float* values = x.data() + block * kQuantBlock;
    const int exponent = static_cast<int>(block % 276) - 149;
    const float largest = std::min(std::ldexp(1.0f + static_cast<float>(random() % 4096) / 4096, exponent),
                                   std::numeric_limits<float>::max());
    const float scale = largest / 127.0f;
    values[0] = largest;
    for (int i = 1; i < kQuantBlock; ++i) {
      const auto whole = static_cast<float>(static_cast<int>(random() % 255) - 127);
      values[i] = (whole + (random() % 4 == 0 ? 0.0f : 0.5f)) * scale;
      for (auto steps = static_cast<int>(random() % 4); steps > 0; --steps)
        values[i] = std::nextafter(values[i], steps % 2 == 0 ? kInfinity : 0.0f);
      if (std::fabs(values[i]) > largest) values[i] = -largest;
    }
  }
  const DeviceArray<float> device_x(x);
  const Outputs outputs(kRows, kCols, ActivationForm::q8, ActivationForm::f32);
  convert_rows(nullptr, device_x.data(), kRows, kCols, outputs.get());
  expect_form(outputs, 0, ActivationForm::q8, x, kRows, kCols);
}

TEST(CudaRows, NormsTheSumOfTwoRowsLikeTheReference) {
  std::mt19937 random(1);
  for (int32_t n : {4, 32, 36, 64, 100, 288, 1000, 1024, 4100, 8192, 8196, 12320}) {
    const int32_t rows = n > 2000 ? 2 : 5;
    const auto x = rows_of(rows, n, random);
    const auto delta = rows_of(rows, n, random, 0.3f);
    const auto weight = rows_of(1, n, random);
    const DeviceArray<float> device_delta(delta), device_weight(weight);
    for (bool added : {true, false}) {
      DeviceArray<float> device_x(x);
      const ActivationForm second = n % kQuantBlock == 0 ? ActivationForm::q8 : ActivationForm::f16;
      const Outputs outputs(rows, n, ActivationForm::f32, second);
      add_rms_norm(nullptr, device_x.data(), added ? device_delta.data() : nullptr, device_weight.data(), rows, n, kEps,
                   outputs.get());
      auto sum = x;
      for (size_t i = 0; i < sum.size() && added; ++i) sum[i] += delta[i];
      const auto kept = device_x.read();
      ASSERT_EQ(0, std::memcmp(kept.data(), sum.data(), sum.size() * 4)) << n;
      const auto normed = outputs.values<float>(0);
      std::vector<float> expected(static_cast<size_t>(n));
      for (int32_t row = 0; row < rows; ++row) {
        reference_kernels().rms_norm(sum.data() + int64_t{row} * n, weight.data(), n, kEps, expected.data());
        for (int32_t i = 0; i < n; ++i) {
          const float value = expected[static_cast<size_t>(i)];
          ASSERT_NEAR(normed[static_cast<size_t>(row) * n + i], value, 1e-7f + 1e-6f * std::fabs(value))
              << "n " << n << " row " << row << " column " << i;
        }
      }
      expect_form(outputs, 1, second, normed, rows, n);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CudaRows, ARowsNormHasTheSameBitsInEveryCompanyAndOrder) {
  std::mt19937 random(2);
  for (int32_t n : {100, 1056, 8224}) {
    const auto x = rows_of(3, n, random);
    const auto delta = rows_of(3, n, random);
    const auto weight = rows_of(1, n, random);
    const DeviceArray<float> device_delta(delta), device_weight(weight);
    const ActivationForm second = n % kQuantBlock == 0 ? ActivationForm::q8 : ActivationForm::bf16;
    std::vector<float> together;
    EXPECT_TRUE(same_in_every_order([&] {
      DeviceArray<float> device_x(x);
      const Outputs outputs(3, n, ActivationForm::f32, second);
      add_rms_norm(nullptr, device_x.data(), device_delta.data(), device_weight.data(), 3, n, kEps, outputs.get());
      together = outputs.values<float>(0);
      return outputs.read();
    }));
    for (int32_t row = 0; row < 3; ++row) {
      DeviceArray<float> device_x(std::vector<float>(x.begin() + row * n, x.begin() + (row + 1) * n));
      const Outputs outputs(1, n, ActivationForm::f32, second);
      add_rms_norm(nullptr, device_x.data(), device_delta.data() + row * n, device_weight.data(), 1, n, kEps,
                   outputs.get());
      EXPECT_EQ(0, std::memcmp(outputs.values<float>(0).data(), together.data() + row * n, static_cast<size_t>(n) * 4))
          << n;
    }
  }
}

TEST(CudaRows, AddsAloneWhereNoOutputIsAsked) {
  std::mt19937 random(3);
  const auto x = rows_of(2, 68, random);
  const auto delta = rows_of(2, 68, random);
  DeviceArray<float> device_x(x);
  const DeviceArray<float> device_delta(delta);
  add_rms_norm(nullptr, device_x.data(), device_delta.data(), nullptr, 2, 68, kEps, {});
  const auto sum = device_x.read();
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(sum[i], x[i] + delta[i]);
}

TEST(CudaRows, ConvertsToEveryFormToTheBit) {
  std::mt19937 random(4);
  for (int32_t n : {32, 96, 1056}) {
    auto x = rows_of(4, n, random);
    const float specials[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 3e-39f, 65504.0f, 65520.0f, -3.3e38f, 6e-8f, 0.5f};
    for (size_t i = 0; i < std::size(specials); ++i) x[i] = specials[i];
    std::fill(x.begin() + n, x.begin() + n + kQuantBlock, 0.0f);
    x[2 * static_cast<size_t>(n) + 5] = kNaN;
    x[3 * static_cast<size_t>(n) + 6] = -kInfinity;
    const DeviceArray<float> device_x(x);
    for (const auto& [first, second] :
         {std::pair{ActivationForm::q8, ActivationForm::f16}, std::pair{ActivationForm::bf16, ActivationForm::f32}}) {
      const Outputs outputs(4, n, first, second);
      convert_rows(nullptr, device_x.data(), 4, n, outputs.get());
      expect_form(outputs, 0, first, x, 4, n);
      expect_form(outputs, 1, second, x, 4, n);
      if (HasFatalFailure()) return;
    }
    EXPECT_TRUE(same_in_every_order([&] {
      const Outputs outputs(4, n, ActivationForm::q8, ActivationForm::f16);
      convert_rows(nullptr, device_x.data(), 4, n, outputs.get());
      return outputs.read();
    }));
  }
}

TEST(CudaRows, ActivatesLikeTheReference) {
  std::mt19937 random(5);
  for (int32_t n : {4, 96, 1056, 1100}) {
    auto gate = rows_of(3, n, random, 4.0f);
    const auto up = rows_of(3, n, random);
    gate[0] = -200.0f;  // whose exponential is infinite
    gate[1] = 90.0f;
    const DeviceArray<float> device_gate(gate), device_up(up);
    const ActivationForm second = n % kQuantBlock == 0 ? ActivationForm::q8 : ActivationForm::bf16;
    const Outputs outputs(3, n, ActivationForm::f32, second);
    swiglu(nullptr, device_gate.data(), device_up.data(), 3, n, outputs.get());
    const auto values = outputs.values<float>(0);
    std::vector<float> expected(gate.size());
    reference_kernels().swiglu(gate.data(), up.data(), 3 * n, expected.data());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(values[i], expected[i], 1e-6f * (1 + std::fabs(expected[i]))) << "n " << n << " value " << i;
    }
    expect_form(outputs, 1, second, values, 3, n);
    EXPECT_TRUE(same_in_every_order([&] {
      swiglu(nullptr, device_gate.data(), device_up.data(), 3, n, outputs.get());
      return outputs.read();
    }));
  }
}

TEST(CudaRows, WhatIsNotFiniteStaysInItsRow) {
  std::mt19937 random(6);
  for (float bad : {kNaN, kInfinity}) {
    auto x = rows_of(3, 64, random);
    x[64 + 7] = bad;
    DeviceArray<float> device_x(x);
    const DeviceArray<float> weight(std::vector<float>(64, 1.0f));
    const Outputs outputs(3, 64, ActivationForm::f32, ActivationForm::q8);
    add_rms_norm(nullptr, device_x.data(), nullptr, weight.data(), 3, 64, kEps, outputs.get());
    const auto values = outputs.values<float>(0);
    const auto d = outputs.d(1);
    for (size_t i = 0; i < 192; ++i) {
      EXPECT_TRUE(i / 64 == 1 || std::isfinite(values[i])) << i;
    }
    EXPECT_TRUE(std::isnan(values[64 + 7]));
    EXPECT_TRUE(std::isnan(d[2]));
    EXPECT_TRUE(std::isfinite(d[0]) && std::isfinite(d[5]));
  }
}

TEST(CudaRows, GathersRowsAndLeavesOthersAlone) {
  std::mt19937 random(7);
  for (int32_t n : {4, 100, 1040}) {
    const auto x = rows_of(6, n, random);
    const DeviceArray<float> device_x(x);
    const std::vector<int32_t> index{5, -1, 0, 5, 2};
    const DeviceArray<int32_t> device_index(index);
    EXPECT_TRUE(same_in_every_order([&] {
      DeviceArray<float> out(std::vector<float>(index.size() * static_cast<size_t>(n), -7.0f));
      gather_rows(nullptr, device_x.data(), device_index.data(), 5, n, out.data());
      const auto rows = out.read();
      for (size_t i = 0; i < index.size(); ++i) {
        for (int32_t column = 0; column < n; ++column) {
          const float expected = index[i] < 0 ? -7.0f : x[static_cast<size_t>(index[i]) * n + column];
          EXPECT_EQ(rows[i * static_cast<size_t>(n) + column], expected) << "row " << i << " column " << column;
        }
      }
      return rows;
    }));
  }
}

TEST(CudaRows, RefusesRowsThatNoKernelTakes) {
  DeviceArray<float> x(64);
  const DeviceArray<float> weight(64);
  const Outputs outputs(1, 36, ActivationForm::f32, ActivationForm::q8);
  EXPECT_THROW(convert_rows(nullptr, x.data(), 1, 36, outputs.get()), std::logic_error);
  EXPECT_THROW(add_rms_norm(nullptr, x.data(), nullptr, weight.data(), 1, 30, kEps, {}), std::logic_error);
  EXPECT_THROW(add_rms_norm(nullptr, x.data(), nullptr, weight.data(), 1, 1 << 20, kEps, {}), std::logic_error);
}

}  // namespace
}  // namespace penstock::cuda
