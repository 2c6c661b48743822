// Products by cuBLASLt: against the library itself where a GPU runs this, against its stand-in on the emulator
// (emulator/cublaslt), which checks each argument. What the library is told of a product (CublasLtProducts) needs no GPU.
#include "ops/cuda/cublaslt.h"

#include <gtest/gtest.h>

#ifndef PENSTOCK_CUBLASLT

TEST(CublasLt, IsNotInThisBuild) { GTEST_SKIP() << "CMake did not find cublasLt.h and its library"; }

#else

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_models.h"
#include "cuda_products.h"
#include "ops/cuda/gemm.h"

namespace penstock::cuda {
namespace {

using penstock::testing::activations;
using penstock::testing::device_options;
using penstock::testing::error_of;
using penstock::testing::kSmallShape;
using penstock::testing::logits_behind;
using penstock::testing::name_of;
using penstock::testing::random_file;
using penstock::testing::random_model;
using penstock::testing::some_ids;
using penstock::testing::TempFile;
using namespace penstock::cuda::testing;

constexpr TensorType kHalves[] = {TensorType::f16, TensorType::bf16};

// --- What the library is told ---

template <class T>
T attribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t which) {
  T value{};
  size_t written = 0;
  EXPECT_EQ(cublasLtMatrixLayoutGetAttribute(layout, which, &value, sizeof value, &written), CUBLAS_STATUS_SUCCESS) << which;
  EXPECT_EQ(written, sizeof value);
  return value;
}

template <class T>
T attribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t which) {
  T value{};
  size_t written = 0;
  EXPECT_EQ(cublasLtMatmulDescGetAttribute(desc, which, &value, sizeof value, &written), CUBLAS_STATUS_SUCCESS) << which;
  EXPECT_EQ(written, sizeof value);
  return value;
}

void expect_layout(cublasLtMatrixLayout_t layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  EXPECT_EQ(attribute<uint32_t>(layout, CUBLASLT_MATRIX_LAYOUT_TYPE), static_cast<uint32_t>(type));
  EXPECT_EQ(attribute<int32_t>(layout, CUBLASLT_MATRIX_LAYOUT_ORDER), CUBLASLT_ORDER_COL);
  EXPECT_EQ(attribute<uint64_t>(layout, CUBLASLT_MATRIX_LAYOUT_ROWS), rows);
  EXPECT_EQ(attribute<uint64_t>(layout, CUBLASLT_MATRIX_LAYOUT_COLS), cols);
  EXPECT_EQ(attribute<int64_t>(layout, CUBLASLT_MATRIX_LAYOUT_LD), ld);
}

TEST(CublasLtProducts, AreWeightsTransposedTimesActivationsInColumns) {
  for (const TensorType type : kHalves) {
    const CublasLtProduct product(type, 160, 264, 130, 168);
    const int half = type == TensorType::f16 ? CUDA_R_16F : CUDA_R_16BF;
    expect_layout(product.w, half, 264, 160, 264);
    expect_layout(product.x, half, 264, 130, 264);
    expect_layout(product.out, CUDA_R_32F, 160, 130, 168);
    EXPECT_EQ(attribute<int32_t>(product.desc, CUBLASLT_MATMUL_DESC_TRANSA), CUBLAS_OP_T);
    EXPECT_EQ(attribute<int32_t>(product.desc, CUBLASLT_MATMUL_DESC_TRANSB), CUBLAS_OP_N);
    EXPECT_EQ(attribute<int32_t>(product.desc, CUBLASLT_MATMUL_DESC_COMPUTE_TYPE), CUBLAS_COMPUTE_32F);
    EXPECT_EQ(attribute<int32_t>(product.desc, CUBLASLT_MATMUL_DESC_SCALE_TYPE), CUDA_R_32F);
    EXPECT_EQ(attribute<uint32_t>(product.desc, CUBLASLT_MATMUL_DESC_EPILOGUE), uint32_t{CUBLASLT_EPILOGUE_DEFAULT});
  }
}

// --- Products ---

// Weights, activations, and an output whose rows are `padding` longer than its columns.
struct Product {
  Product(TensorType type, int32_t weight_rows, int32_t cols, int32_t rows_, int32_t padding = 0)
      : rows(rows_),
        stride(weight_rows + padding),
        file(random_file(type, weight_rows, cols, 51)),
        weights(type, weight_rows, cols, file),
        x(activation_form(type), activations(rows * cols, 52), rows, cols),
        values(x.halves),
        activations_on_device{x.form, values.data(), nullptr, nullptr, cols},
        workspace(static_cast<size_t>(Gemm::workspace_bytes(GemmLibrary::cublaslt))) {}

  // Fails the test when anything but the product's columns was written.
  std::vector<float> by(GemmLibrary library, int32_t out_offset = 0) const {
    const std::vector<float> before(static_cast<size_t>(out_offset + (rows + 1) * stride), kUntouched);
    const DeviceArray<float> out(before);
    Gemm gemm(library, workspace.data());
    gemm.multiply(nullptr, weights.matrix(), activations_on_device, rows, out.data() + out_offset, stride);
    const std::vector<float> all = out.read();
    std::vector<float> product;
    for (int32_t i = 0; i < (rows + 1) * stride; ++i) {
      const float value = all[static_cast<size_t>(out_offset + i)];
      if (i / stride < rows && i % stride < weights.matrix().rows) {
        product.push_back(value);
      } else if (value != kUntouched) {
        ADD_FAILURE() << "out[" << i / stride << "][" << i % stride << "] was written";
        break;
      }
    }
    return product;
  }
  void expect_exact(const std::vector<float>& out, const std::string& what) const {
    expect_near_exact({weights.matrix().type, weights.matrix().rows, x.cols, data_of(file)}, x, out, what);
  }

  int32_t rows, stride;
  Bytes file;
  DeviceWeights weights;
  HostInputs x;
  DeviceArray<uint16_t> values;
  DeviceActivations activations_on_device;
  DeviceArray<std::byte> workspace;
};

#if PENSTOCK_CUDA_EMULATED
uint64_t library_products() { return simt::cublaslt::products(); }
#else
uint64_t library_products() { return 0; }  // a device does not count
#endif
constexpr uint64_t kCounted = PENSTOCK_CUDA_EMULATED;

TEST(CublasLtGemm, IsAsNearToTheExactSumAsOurKernels) {
  for (const TensorType type : kHalves) {
    // Sizes that no tile divides; rows of out with and without something between them.
    for (const auto& [weight_rows, cols, rows, padding] :
         {std::tuple{160, 264, 130, 0}, std::tuple{36, 72, 128, 4}, std::tuple{132, 520, 191, 8}}) {
      const Product product(type, weight_rows, cols, rows, padding);
      const uint64_t before = library_products();
      product.expect_exact(product.by(GemmLibrary::cublaslt), name_of(type) + " by the library");
      EXPECT_EQ(library_products(), before + kCounted);
      product.expect_exact(product.by(GemmLibrary::own), name_of(type) + " by our kernels");
    }
  }
}

TEST(CublasLtGemm, AShapeIsAskedForOnceAndComputedAgain) {
  const Product product(TensorType::bf16, 64, 128, 130);
  const DeviceArray<float> first(130 * 64), second(130 * 64);
  Gemm gemm(GemmLibrary::cublaslt, product.workspace.data());
  for (const DeviceArray<float>* out : {&first, &second})
    gemm.multiply(nullptr, product.weights.matrix(), product.activations_on_device, 130, out->data(), 64);
  EXPECT_TRUE(same_bits(first.read(), second.read()));
  product.expect_exact(second.read(), "the second time");
}

// With the bits of our kernels, and no product by the library.
TEST(CublasLtGemm, OurKernelsComputeWhatTheLibraryIsNotAskedFor) {
  const auto expect_ours = [](const Product& product, int32_t out_offset, const char* what) {
    const uint64_t before = library_products();
    EXPECT_TRUE(same_bits(product.by(GemmLibrary::cublaslt, out_offset), product.by(GemmLibrary::own, out_offset))) << what;
    EXPECT_EQ(library_products(), before) << what;
  };
  expect_ours(Product(TensorType::f16, 40, 72, Gemm::kLibraryRows - 1), 0, "few rows");
  expect_ours(Product(TensorType::f16, 40, 76, 130), 0, "rows of weights that are no multiple of 16 bytes");
  expect_ours(Product(TensorType::f16, 40, 72, 130, 3), 0, "rows of out that are no multiple of 16 bytes");
  expect_ours(Product(TensorType::f16, 40, 72, 130), 1, "an address of out that is no multiple of 16 bytes");
}

#if PENSTOCK_CUDA_EMULATED

TEST(CublasLtGemm, OurKernelsComputeWhatTheLibraryHasNoAlgorithmFor) {
  const Product product(TensorType::f16, 40, 72, 130);
  simt::cublaslt::set_has_algorithms(false);
  const uint64_t before = library_products();
  const std::vector<float> out = product.by(GemmLibrary::cublaslt);
  simt::cublaslt::set_has_algorithms(true);
  EXPECT_EQ(library_products(), before);
  EXPECT_TRUE(same_bits(out, product.by(GemmLibrary::own)));
}

TEST(CublasLtGemm, ADeviceThatIsLostIsToldFromAProductThatFailed) {
  const Product product(TensorType::f16, 40, 72, 130);
  const DeviceArray<float> out(130 * 40);
  Gemm gemm(GemmLibrary::cublaslt, product.workspace.data());
  const auto multiply_once = [&] {
    gemm.multiply(nullptr, product.weights.matrix(), product.activations_on_device, 130, out.data(), 40);
  };
  simt::fail_call(cudaErrorInvalidValue);
  EXPECT_THROW(multiply_once(), std::runtime_error);
  multiply_once();
  product.expect_exact(out.read(), "after a failure");
  simt::fail_call(cudaErrorIllegalAddress);
  try {
    multiply_once();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const CudaError& error) {
    EXPECT_TRUE(error.is_sticky()) << error.what();
  }
  simt::clear_errors();
}

TEST(CublasLtGemm, IsEnqueuedAndWaitsForItsOperands) {
  const Product product(TensorType::f16, 64, 72, 130);
  const std::vector<float> expected = product.by(GemmLibrary::cublaslt);
  for (const uint64_t seed : {1u, 2u, 3u}) {
    simt::set_streams(simt::Streams::lazy, seed);
    EXPECT_TRUE(same_bits(product.by(GemmLibrary::cublaslt), expected));
  }
  simt::set_streams(simt::Streams::eager);
}

#endif

// --- A model ---

TEST(CublasLtDecoder, ComputesPromptsByTheLibraryAndDecodesByOurKernels) {
  const TempFile file(random_model(kSmallShape, TensorType::f16, TensorType::f16, true, 8));
  LoadOptions options = device_options(file.path());
  options.step_tokens_max = 160;
  const auto own = load_model(options);
  options.gemm = GemmChoice::cublaslt;
  const auto by_library = load_model(options);
  const auto tokens = some_ids(133, 3);
  const uint64_t before = library_products();
  const std::vector<float> logits = logits_behind(*by_library, tokens, 160, 2);
  // q, k and v as one, out, gate, up and down of the first layer, q, k and v of the second; behind that few rows are read.
  EXPECT_EQ(library_products(), before + 6 * kCounted);
  EXPECT_LT(error_of(logits, logits_behind(*own, tokens, 160, 2)), 1e-4);
  // A chunk below the border, and single tokens, never meet the library.
  const uint64_t behind = library_products();
  const std::vector<int32_t> few(tokens.begin(), tokens.begin() + 24);
  EXPECT_TRUE(penstock::testing::same_bits(logits_behind(*by_library, few, 20, 2), logits_behind(*own, few, 20, 2)));
  EXPECT_EQ(library_products(), behind);
}

}  // namespace
}  // namespace penstock::cuda

#endif
