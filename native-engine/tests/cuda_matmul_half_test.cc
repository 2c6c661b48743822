// Products of f16 and bf16 weights by every tile of matmul_half.cu: the same bits in all of them, whatever the sizes, the number of
// segments, the order of threads and the shared memory of the device.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda_products.h"
#include "ops/cuda/formats.h"

namespace penstock::cuda {
namespace {

using namespace penstock::testing;
using namespace penstock::cuda::testing;

constexpr HalfShape kShapes[] = {HalfShape::split_16x8,   HalfShape::split_16x16,       HalfShape::split_16x32,
                                 HalfShape::split_32x64,  HalfShape::wide_128x32,       HalfShape::wide_128x64,
                                 HalfShape::wide_128x128, HalfShape::wide_128x128_deep, HalfShape::wide_128x256};

// A device with shared memory for every shape, where the emulator is the device.
class CudaMatmulHalf : public ::testing::Test {
 protected:
#if PENSTOCK_CUDA_EMULATED
  void SetUp() override { simt::set_devices({90}); }
  void TearDown() override { simt::set_devices({86}); }
#endif
};

std::vector<float> multiply_by(HalfShape shape, const DeviceMatrix& w, const HostInputs& x) {
  const DeviceArray<uint16_t> halves(x.halves);
  const int32_t stride = w.rows + kOutPadding;
  const DeviceArray<float> out(std::vector<float>(static_cast<size_t>((x.rows + 1) * stride), kUntouched));
  const Product p{w.data, halves.data(), nullptr, nullptr, out.data(), w.rows, w.cols, x.rows, stride, segment_panels(w.cols)};
  matmul_half_by(shape, nullptr, w.type, p);
  std::vector<float> product;
  const std::vector<float> all = out.read();
  for (int32_t i = 0; i < (x.rows + 1) * stride; ++i) {
    const float value = all[static_cast<size_t>(i)];
    if (i / stride < x.rows && i % stride < w.rows) {
      product.push_back(value);
    } else {
      EXPECT_EQ(value, kUntouched) << "out[" << i / stride << "][" << i % stride << "] was written";
    }
  }
  return product;
}

struct Case {
  Case(TensorType type, int32_t weight_rows, int32_t cols, int32_t rows)
      : file(random_file(type, weight_rows, cols, 51)),
        weights(type, weight_rows, cols, file),
        x(activation_form(type), activations(rows * cols, 52), rows, cols) {}
  std::vector<float> by(HalfShape shape) const { return multiply_by(shape, weights.matrix(), x); }
  std::string name(HalfShape shape) const {
    const DeviceMatrix& w = weights.matrix();
    return std::string(tensor_type_facts(w.type).name) + " [" + std::to_string(w.rows) + ", " + std::to_string(w.cols) + "] x " +
           std::to_string(x.rows) + " by shape " + std::to_string(static_cast<int>(shape));
  }
  void expect_near_reference(const std::vector<float>& out, HalfShape shape) const {
    const DeviceMatrix& w = weights.matrix();
    expect_near_exact({w.type, w.rows, w.cols, data_of(file)}, x, out, name(shape));
  }
  Bytes file;
  DeviceWeights weights;
  HostInputs x;
};

struct Sizes {
  int32_t weight_rows, cols, rows;
};

TEST_F(CudaMatmulHalf, EveryShapeHasTheSameBits) {
  // Columns: less than a stage, no multiple of one, whole stages and a rest, one segment and many (2056: 5 of two panels, the last
  // of 8 columns; 4360: 6 of three), rows that begin anywhere (301). Rows: one, and what no tile divides.
  constexpr Sizes kSizes[] = {{1, 8, 1},     {17, 24, 3},    {130, 40, 33},   {129, 72, 70},    {40, 256, 9},   {45, 301, 21},
                              {33, 1000, 5}, {70, 2056, 18}, {144, 2048, 35}, {131, 4360, 20}, {300, 520, 270}};
  for (TensorType type : {TensorType::f16, TensorType::bf16}) {
    for (const Sizes& sizes : kSizes) {
      const Case c(type, sizes.weight_rows, sizes.cols, sizes.rows);
      const std::vector<float> want = c.by(kShapes[0]);
      c.expect_near_reference(want, kShapes[0]);
      for (HalfShape shape : kShapes) {
        if (!has_half_shape(shape, sizes.cols)) continue;
        EXPECT_TRUE(same_bits(c.by(shape), want)) << c.name(shape);
      }
    }
  }
}

HalfShape chosen(int32_t weight_rows, int32_t cols, int32_t rows, bool split = false) {
  return choose_half_shape({nullptr, nullptr, nullptr, nullptr, nullptr, weight_rows, cols, rows, weight_rows, 1}, split);
}

#if PENSTOCK_CUDA_EMULATED
TEST_F(CudaMatmulHalf, TakesTheShapeThatFillsTheDevice) {
  EXPECT_EQ(chosen(14336, 4096, 1, true), HalfShape::split_16x8);
  EXPECT_EQ(chosen(14336, 4096, 16, true), HalfShape::split_16x16);
  EXPECT_EQ(chosen(4096, 4096, 32, true), HalfShape::split_16x32);
  EXPECT_EQ(chosen(4096, 4096, 64, true), HalfShape::split_32x64);
  EXPECT_EQ(chosen(1024, 4096, 64, true), HalfShape::split_16x32);
  EXPECT_EQ(chosen(14336, 4096, 32), HalfShape::wide_128x32);
  EXPECT_EQ(chosen(14336, 4096, 64), HalfShape::wide_128x64);
  EXPECT_EQ(chosen(1024, 4096, 512), HalfShape::wide_128x64);
  EXPECT_EQ(chosen(4096, 4096, 512), HalfShape::wide_128x128_deep);
  EXPECT_EQ(chosen(14336, 4096, 512), HalfShape::wide_128x256);
  // Rows that begin anywhere are copied by the split kernel alone.
  EXPECT_EQ(chosen(14336, 4097, 512), HalfShape::split_32x64);
  // Less shared memory.
  simt::set_devices({80});
  EXPECT_EQ(chosen(14336, 4096, 512), HalfShape::wide_128x128_deep);
  simt::set_devices({86});
  EXPECT_EQ(chosen(14336, 4096, 512), HalfShape::wide_128x128);
  EXPECT_EQ(chosen(4096, 4096, 64, true), HalfShape::split_16x32);
}
#endif

TEST_F(CudaMatmulHalf, WhatIsChosenCanBeComputed) {
  for (const int32_t cols : {264, 301}) {
    for (const int32_t rows : {1, 8, 9, 16, 17, 40, 70, 300}) {
      for (const bool split : {true, false}) EXPECT_TRUE(has_half_shape(chosen(200, cols, rows, split), cols)) << cols << " x " << rows;
    }
  }
}

TEST_F(CudaMatmulHalf, ResultsDoNotDependOnTheOrderOfThreads) {
  for (HalfShape shape : kShapes) {
    const Case c(TensorType::f16, 150, 648, 35);
    if (!has_half_shape(shape, 648)) continue;
    EXPECT_TRUE(same_in_every_order([&] { return c.by(shape); })) << c.name(shape);
  }
}

TEST_F(CudaMatmulHalf, ARowThatIsNotANumberSpoilsItselfAlone) {
  constexpr int32_t kCols = 600, kRows = 12, kSpoiled = 5;
  Case good(TensorType::f16, 140, kCols, kRows);
  Case bad(TensorType::f16, 140, kCols, kRows);
  bad.x.halves[kSpoiled * kCols + 599] = 0x7E00;
  for (HalfShape shape : kShapes) {
    if (!has_half_shape(shape, kCols)) continue;
    const std::vector<float> want = good.by(shape), got = bad.by(shape);
    for (size_t i = 0; i < want.size(); ++i) {
      if (i / 140 == kSpoiled) {
        ASSERT_TRUE(std::isnan(got[i])) << good.name(shape) << " " << i;
      } else {
        ASSERT_EQ(got[i], want[i]) << good.name(shape) << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace penstock::cuda
