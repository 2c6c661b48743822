// One product: descriptors for its shape, an algorithm from the library's heuristics, the call.
#include "ops/cuda/cublaslt.h"

#ifdef PENSTOCK_CUBLASLT

#include <cstdint>
#include <stdexcept>
#include <string>

namespace penstock::cuda {

namespace {

// What operands and their rows are aligned to; the library supposes 256 where it is not told.
constexpr uint32_t kAlignBytes = 16;

bool is_aligned(const void* data, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(data) % kAlignBytes == 0 && row_bytes % kAlignBytes == 0;
}

void require(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string(call) + ": " + cublasLtGetStatusName(status));
}

}  // namespace

CublasLtProduct::CublasLtProduct(TensorType tensor_type, int32_t weight_rows, int32_t cols, int32_t rows, int32_t out_stride) {
  const auto type = tensor_type == TensorType::f16 ? CUDA_R_16F : CUDA_R_16BF;
  const auto w_rows = static_cast<uint64_t>(weight_rows), w_cols = static_cast<uint64_t>(cols), x_rows = static_cast<uint64_t>(rows);
  require(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  require(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
          "cublasLtMatmulDescSetAttribute");
  require(cublasLtMatrixLayoutCreate(&w, type, w_cols, w_rows, cols), "cublasLtMatrixLayoutCreate");
  require(cublasLtMatrixLayoutCreate(&x, type, w_cols, x_rows, cols), "cublasLtMatrixLayoutCreate");
  require(cublasLtMatrixLayoutCreate(&out, CUDA_R_32F, w_rows, x_rows, out_stride), "cublasLtMatrixLayoutCreate");
}

CublasLtProduct::~CublasLtProduct() {
  if (out != nullptr) (void)cublasLtMatrixLayoutDestroy(out);
  if (x != nullptr) (void)cublasLtMatrixLayoutDestroy(x);
  if (w != nullptr) (void)cublasLtMatrixLayoutDestroy(w);
  if (desc != nullptr) (void)cublasLtMatmulDescDestroy(desc);
}

CublasLt::CublasLt(std::byte* workspace) : workspace_(workspace) { require(cublasLtCreate(&handle_), "cublasLtCreate"); }

CublasLt::~CublasLt() { (void)cublasLtDestroy(handle_); }

std::optional<cublasLtMatmulAlgo_t> CublasLt::algorithm(const Shape& shape, const CublasLtProduct& product) {
  if (const auto found = algorithms_.find(shape); found != algorithms_.end()) return found->second;
  cublasLtMatmulPreference_t preference = nullptr;
  require(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const size_t bytes = kWorkspaceBytes;
  cublasStatus_t status =
      cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
  for (const auto operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    if (status != CUBLAS_STATUS_SUCCESS) break;
    status = cublasLtMatmulPreferenceSetAttribute(preference, operand, &kAlignBytes, sizeof kAlignBytes);
  }
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasLtMatmulAlgoGetHeuristic(handle_, product.desc, product.w, product.x, product.out, product.out, preference, 1,
                                            &result, &count);
  }
  (void)cublasLtMatmulPreferenceDestroy(preference);
  const bool none = status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0);
  if (!none) require(status, "cublasLtMatmulAlgoGetHeuristic");
  if (algorithms_.size() >= kShapesMax) algorithms_.clear();
  return algorithms_[shape] = none ? std::nullopt : std::optional(result.algo);
}

bool CublasLt::multiply(cudaStream_t stream, const DeviceMatrix& w, const void* x, int32_t rows, float* out, int32_t out_stride) {
  const int64_t operand_bytes = int64_t{w.cols} * 2;
  if (!is_aligned(w.data, operand_bytes) || !is_aligned(x, operand_bytes) || !is_aligned(out, int64_t{out_stride} * 4)) return false;
  const CublasLtProduct product(w.type, w.rows, w.cols, rows, out_stride);
  const std::optional<cublasLtMatmulAlgo_t> chosen =
      algorithm({static_cast<int32_t>(w.type), w.rows, w.cols, rows, out_stride}, product);
  if (!chosen) return false;
  const float one = 1.0f, zero = 0.0f;
  const cublasStatus_t status =
      cublasLtMatmul(handle_, product.desc, &one, w.data, product.w, x, product.x, &zero, out, product.out, out, product.out,
                     &*chosen, workspace_, static_cast<size_t>(kWorkspaceBytes), stream);
  if (status != CUBLAS_STATUS_SUCCESS) {
    // The library's statuses do not tell a lost device from a call that failed alone; the runtime does.
    if (const cudaError_t error = cudaStreamQuery(stream); error != cudaErrorNotReady) check(error, "cublasLtMatmul");
    require(status, "cublasLtMatmul");
  }
  return true;
}

}  // namespace penstock::cuda

#endif
