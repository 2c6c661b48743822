// The stand-in for cuBLASLt: its products against sums on the host in every form, and each mistake that a caller can make.
#include "cublasLt.h"

#include <cmath>

#include "device_array.h"

namespace simt_test {
namespace {

struct Form {
  bool transposes_a = false, transposes_b = false;
  uint64_t m = 5, n = 3, k = 7;
  int64_t lda = 8, ldb = 8, ldd = 6;
  cudaDataType_t type = CUDA_R_16F;
  float alpha = 1, beta = 0;
  uint32_t alignment = 16;
  uint64_t workspace_bytes = 512;
};

// Everything that a call takes, right at first; a test spoils one part.
struct Call {
  explicit Call(const Form& form_)
      : form(form_), a(halves(300)), b(halves(200)), d(std::vector<float>(200, 2.0f)), workspace(512) {
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const cublasOperation_t ops[] = {form.transposes_a ? CUBLAS_OP_T : CUBLAS_OP_N, form.transposes_b ? CUBLAS_OP_T : CUBLAS_OP_N};
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &ops[0], sizeof ops[0]);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &ops[1], sizeof ops[1]);
    cublasLtMatrixLayoutCreate(&a_layout, form.type, form.transposes_a ? form.k : form.m, form.transposes_a ? form.m : form.k, form.lda);
    cublasLtMatrixLayoutCreate(&b_layout, form.type, form.transposes_b ? form.n : form.k, form.transposes_b ? form.k : form.n, form.ldb);
    cublasLtMatrixLayoutCreate(&d_layout, CUDA_R_32F, form.m, form.n, form.ldd);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &form.workspace_bytes, 8);
    for (int i = 0; i < 4; ++i) {
      const auto which = static_cast<cublasLtMatmulPreferenceAttributes_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i);
      cublasLtMatmulPreferenceSetAttribute(preference, which, &form.alignment, 4);
    }
  }
  ~Call() {
    cublasLtMatmulPreferenceDestroy(preference);
    for (const cublasLtMatrixLayout_t layout : {a_layout, b_layout, d_layout}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  static std::vector<uint16_t> halves(size_t count) {
    std::vector<uint16_t> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = float_to_half_bits(static_cast<float>(i % 11) - 5.0f);
    return values;
  }
  cublasStatus_t choose() {
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, desc, a_layout, b_layout, d_layout, d_layout,
                                                                 preference, 1, &chosen, &count);
    return status == CUBLAS_STATUS_SUCCESS && count != 1 ? CUBLAS_STATUS_NOT_SUPPORTED : status;
  }
  cublasStatus_t multiply() { return multiply_from(a.data(), d.data(), workspace.data(), form.workspace_bytes); }
  cublasStatus_t multiply_from(const uint16_t* from, float* to, void* work, size_t work_bytes) {
    return cublasLtMatmul(handle, desc, &form.alpha, from, a_layout, b.data(), b_layout, &form.beta, to, d_layout, to, d_layout,
                          &chosen.algo, work, work_bytes, nullptr);
  }
  void expect_product() {
    ASSERT_EQ(choose(), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
    const std::vector<uint16_t> host_a = halves(300), host_b = halves(200);
    const auto value = [&](const std::vector<uint16_t>& values, size_t at) {
      return form.type == CUDA_R_16F ? half_bits_to_float(values[at]) : bfloat16_bits_to_float(values[at]);
    };
    const std::vector<float> out = d.read();
    const auto lda = static_cast<uint64_t>(form.lda), ldb = static_cast<uint64_t>(form.ldb), ldd = static_cast<uint64_t>(form.ldd);
    for (uint64_t col = 0; col < form.n; ++col) {
      for (uint64_t row = 0; row < ldd; ++row) {
        double sum = 0;
        for (uint64_t k = 0; k < form.k; ++k)
          sum += static_cast<double>(value(host_a, form.transposes_a ? row * lda + k : k * lda + row)) *
                 value(host_b, form.transposes_b ? k * ldb + col : col * ldb + k);
        const double expected = row < form.m ? form.alpha * sum + form.beta * 2.0 : 2.0;
        EXPECT_NEAR(out[col * ldd + row], expected, 1e-4 * std::fabs(expected) + 1e-6) << row << ", " << col;
      }
    }
  }

  static uint16_t float_to_half_bits(float value) { return simt::float_to_half_bits(value); }
  static float half_bits_to_float(uint16_t bits) { return simt::half_bits_to_float(bits); }
  static float bfloat16_bits_to_float(uint16_t bits) { return simt::bfloat16_bits_to_float(bits); }

  Form form;
  DeviceArray<uint16_t> a, b;
  DeviceArray<float> d;
  DeviceArray<std::byte> workspace;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a_layout = nullptr, b_layout = nullptr, d_layout = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t chosen{};
};

TEST(CublasLt, MultipliesInEveryForm) {
  for (const bool transposes_a : {false, true}) {
    for (const bool transposes_b : {false, true}) {
      for (const cudaDataType_t type : {CUDA_R_16F, CUDA_R_16BF}) {
        for (const uint64_t n : {3u, 4u, 5u})
          Call({.transposes_a = transposes_a, .transposes_b = transposes_b, .n = n, .type = type}).expect_product();
      }
    }
  }
  Call({.alpha = 0.5f, .beta = 3}).expect_product();
  Call({.workspace_bytes = 0}).expect_product();
}

TEST(CublasLt, RefusesProblemsThatDoNotFit) {
  EXPECT_EQ(Call({.lda = 4}).choose(), CUBLAS_STATUS_INVALID_VALUE);  // a column of A has 5
  EXPECT_EQ(Call({.ldd = 4}).choose(), CUBLAS_STATUS_INVALID_VALUE);
  Call other_inner({});
  const uint64_t six = 6, four = 4;
  cublasLtMatrixLayoutSetAttribute(other_inner.b_layout, CUBLASLT_MATRIX_LAYOUT_ROWS, &six, 8);
  EXPECT_EQ(other_inner.choose(), CUBLAS_STATUS_INVALID_VALUE);
  Call other_out({});
  cublasLtMatrixLayoutSetAttribute(other_out.d_layout, CUBLASLT_MATRIX_LAYOUT_COLS, &four, 8);
  EXPECT_EQ(other_out.choose(), CUBLAS_STATUS_INVALID_VALUE);
  Call forgotten({.transposes_a = true});
  const cublasOperation_t plain = CUBLAS_OP_N;
  cublasLtMatmulDescSetAttribute(forgotten.desc, CUBLASLT_MATMUL_DESC_TRANSA, &plain, sizeof plain);
  EXPECT_EQ(forgotten.choose(), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(Call({.type = CUDA_R_32F}).choose(), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Call({.alignment = 24}).choose(), CUBLAS_STATUS_INVALID_VALUE);
  Call call({});
  const char half_of_it = 1;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(call.desc, CUBLASLT_MATMUL_DESC_TRANSA, &half_of_it, 1), CUBLAS_STATUS_INVALID_VALUE);
}

TEST(CublasLt, RefusesTheAlgorithmOfAnotherProblemAndASmallerWorkspace) {
  Call call({});
  EXPECT_EQ(call.multiply(), CUBLAS_STATUS_INVALID_VALUE);  // none was chosen
  ASSERT_EQ(call.choose(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(call.multiply_from(call.a, call.d, call.workspace, 511), CUBLAS_STATUS_INVALID_VALUE);
  const int64_t seven = 7;
  cublasLtMatrixLayoutSetAttribute(call.d_layout, CUBLASLT_MATRIX_LAYOUT_LD, &seven, 8);
  EXPECT_EQ(call.multiply(), CUBLAS_STATUS_INVALID_VALUE);
}

TEST(CublasLt, OverwritesTheWholeWorkspaceButNotWithoutOne) {
  Call call({});
  ASSERT_EQ(cudaMemset(call.workspace, 0, 512), cudaSuccess);
  ASSERT_EQ(call.choose(), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(call.multiply(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(call.workspace.read(), std::vector<std::byte>(512, std::byte{0xFF}));
}

TEST(CublasLtDeathTest, StopsAtAddressesThatTheLibraryWouldTrust) {
  Call call({});
  ASSERT_EQ(call.choose(), CUBLAS_STATUS_SUCCESS);
  std::vector<uint16_t> host(300);
  EXPECT_DEATH(call.multiply_from(call.a + 4, call.d, call.workspace, 512), "misaligned access: cublasLtMatmul: A");
  EXPECT_DEATH(call.multiply_from(call.a, call.d + 2, call.workspace, 512), "misaligned access: cublasLtMatmul: C");
  EXPECT_DEATH(call.multiply_from(call.a, call.d, call.workspace + 16, 512), "misaligned access: cublasLtMatmul: the workspace");
  EXPECT_DEATH(call.multiply_from(reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(host.data()) + 15) / 16 * 16), call.d,
                                  call.workspace, 512),
               "cublasLtMatmul: A at .* is memory of the host");
  EXPECT_DEATH(call.multiply_from(call.a + 296, call.d, call.workspace, 512), "out of bounds: cublasLtMatmul: A");
  EXPECT_DEATH(call.multiply_from(call.a, call.d, call.workspace, 513), "out of bounds: cublasLtMatmul: the workspace");
}

}  // namespace
}  // namespace simt_test
