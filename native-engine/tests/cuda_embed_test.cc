// Rows of packed weights as values: the embedding and the dequantised matrix, against the reference's rows to the bit.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cuda_products.h"

namespace penstock::cuda {
namespace {

using namespace penstock::testing;
using namespace penstock::cuda::testing;

constexpr TensorType kTypes[] = {TensorType::f32,  TensorType::f16,  TensorType::bf16, TensorType::q4_0,
                                 TensorType::q4_1, TensorType::q5_0, TensorType::q5_1, TensorType::q8_0,
                                 TensorType::q4_k, TensorType::q5_k, TensorType::q6_k};

int32_t odd_cols(TensorType type) {
  if (tensor_type_facts(type).block_values == kSuperBlock) return 1280;  // more than one thread block has
  return is_quantized(type) ? 416 : 301;
}

std::vector<float> reference_row(TensorType type, const Bytes& file, int32_t rows, int32_t cols, int32_t row) {
  std::vector<float> values(static_cast<size_t>(cols));
  reference_kernels().matrix_row({type, rows, cols, data_of(file)}, row, values.data());
  return values;
}

TEST(CudaEmbed, RowsHaveTheBitsOfTheReference) {
  for (TensorType type : kTypes) {
    for (int32_t cols : {odd_cols(type), is_quantized(type) ? 256 : 8}) {
      const int32_t rows = 70;
      const Bytes file = random_file(type, rows, cols, 51);
      const DeviceWeights weights(type, rows, cols, file);
      const std::vector<int32_t> tokens{69, 0, 31, 32, 5, 5, 63};
      const DeviceArray<int32_t> ids(tokens);
      const auto run = [&] {
        const DeviceArray<float> out(tokens.size() * static_cast<size_t>(cols));
        embed(nullptr, weights.matrix(), ids.data(), static_cast<int32_t>(tokens.size()), out.data());
        return out.read();
      };
      std::vector<float> expected;
      for (int32_t token : tokens) {
        const std::vector<float> row = reference_row(type, file, rows, cols, token);
        expected.insert(expected.end(), row.begin(), row.end());
      }
      EXPECT_TRUE(same_bits(run(), expected)) << name_of(type) << " " << cols;
      EXPECT_TRUE(same_in_every_order(run)) << name_of(type);
    }
  }
}

TEST(CudaEmbed, DequantisedRowsAreTheReferencesRoundedToSixteenBits) {
  for (TensorType type : kTypes) {
    if (!is_quantized(type)) continue;
    const int32_t rows = 45, cols = odd_cols(type), first = 29, count = 9;
    const Bytes file = random_file(type, rows, cols, 52);
    const DeviceWeights weights(type, rows, cols, file);
    for (ActivationForm form : {ActivationForm::f16, ActivationForm::bf16}) {
      const auto run = [&] {
        const DeviceArray<uint16_t> out(static_cast<size_t>(count * cols));
        dequantise_rows(nullptr, weights.matrix(), first, count, form, out.data());
        return out.read();
      };
      std::vector<uint16_t> expected;
      for (int32_t row = first; row < first + count; ++row) {
        const HostInputs rounded(form, reference_row(type, file, rows, cols, row), 1, cols);
        expected.insert(expected.end(), rounded.halves.begin(), rounded.halves.end());
      }
      EXPECT_EQ(run(), expected) << name_of(type);
      EXPECT_TRUE(same_in_every_order(run)) << name_of(type);
    }
  }
}

TEST(CudaEmbed, ADequantisedMatrixIsMultipliedAsAMatrixOfItsOwn) {
  const int32_t rows = 40, cols = 512;
  const Bytes file = random_file(TensorType::q4_k, rows, cols, 53);
  const DeviceWeights weights(TensorType::q4_k, rows, cols, file);
  const DeviceArray<uint16_t> halves(static_cast<size_t>(rows * cols));
  dequantise_rows(nullptr, weights.matrix(), 0, rows, ActivationForm::f16, halves.data());
  const DeviceMatrix dense{TensorType::f16, rows, cols, reinterpret_cast<const std::byte*>(halves.data())};
  const HostInputs x(ActivationForm::f16, activations(3 * cols, 54), 3, cols);
  const std::vector<float> out = multiply(dense, x, {});
  for (int32_t row = 0; row < 3; ++row) {
    for (int32_t w = 0; w < rows; ++w) {
      const std::vector<float> values = reference_row(TensorType::q4_k, file, rows, cols, w);
      double exact = 0, magnitude = 0;
      for (int32_t c = 0; c < cols; ++c) {
        const double term = values[static_cast<size_t>(c)] * x.value(row, c);
        exact += term;
        magnitude += std::fabs(term);
      }
      ASSERT_NEAR(out[static_cast<size_t>(row * rows + w)], exact, 6e-4 * magnitude) << row << " " << w;  // f16 has 11 bits
    }
  }
}

}  // namespace
}  // namespace penstock::cuda
