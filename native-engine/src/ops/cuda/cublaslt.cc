// One product: descriptors for its shape, an algorithm from the library's heuristics, the call. cuBLASLt thinks in columns: w
// [rows, cols] as it lies is a matrix of `cols` rows, so out [x rows, w rows], as it lies, is w transposed times x.
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

struct CublasLt::Descriptors {
  explicit Descriptors(const Shape& shape) {
    const auto type = static_cast<TensorType>(shape[0]) == TensorType::f16 ? CUDA_R_16F : CUDA_R_16BF;
    const auto weight_rows = static_cast<uint64_t>(shape[1]), cols = static_cast<uint64_t>(shape[2]);
    const auto rows = static_cast<uint64_t>(shape[3]);
    require(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    require(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
            "cublasLtMatmulDescSetAttribute");
    require(cublasLtMatrixLayoutCreate(&w, type, cols, weight_rows, shape[2]), "cublasLtMatrixLayoutCreate");
    require(cublasLtMatrixLayoutCreate(&x, type, cols, rows, shape[2]), "cublasLtMatrixLayoutCreate");
    require(cublasLtMatrixLayoutCreate(&out, CUDA_R_32F, weight_rows, rows, shape[4]), "cublasLtMatrixLayoutCreate");
  }
  ~Descriptors() {
    if (out != nullptr) (void)cublasLtMatrixLayoutDestroy(out);
    if (x != nullptr) (void)cublasLtMatrixLayoutDestroy(x);
    if (w != nullptr) (void)cublasLtMatrixLayoutDestroy(w);
    if (product != nullptr) (void)cublasLtMatmulDescDestroy(product);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
};

CublasLt::CublasLt(std::byte* workspace) : workspace_(workspace) { require(cublasLtCreate(&handle_), "cublasLtCreate"); }

CublasLt::~CublasLt() { (void)cublasLtDestroy(handle_); }

std::optional<cublasLtMatmulAlgo_t> CublasLt::algorithm(const Shape& shape, const Descriptors& descriptors) {
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
    status = cublasLtMatmulAlgoGetHeuristic(handle_, descriptors.product, descriptors.w, descriptors.x, descriptors.out,
                                            descriptors.out, preference, 1, &result, &count);
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
  const Shape shape{static_cast<int32_t>(w.type), w.rows, w.cols, rows, out_stride};
  const Descriptors descriptors(shape);
  const std::optional<cublasLtMatmulAlgo_t> chosen = algorithm(shape, descriptors);
  if (!chosen) return false;
  const float one = 1.0f, zero = 0.0f;
  require(cublasLtMatmul(handle_, descriptors.product, &one, w.data, descriptors.w, x, descriptors.x, &zero, out, descriptors.out,
                         out, descriptors.out, &*chosen, workspace_, static_cast<size_t>(kWorkspaceBytes), stream),
          "cublasLtMatmul");
  return true;
}

}  // namespace penstock::cuda

#endif
