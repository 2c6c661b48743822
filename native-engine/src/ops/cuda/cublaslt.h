// NVIDIA's cuBLASLt for products of f16 and bf16, in builds that found it (PENSTOCK_CUBLASLT). Owns its handle and the algorithms
// it has chosen; when it is used says gemm.h.
#pragma once

#ifdef PENSTOCK_CUBLASLT

#include <cublasLt.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

#include "ops/cuda/ops.h"

namespace penstock::cuda {

// What the library is told of a product before it is asked for an algorithm. It thinks in columns: w [rows, cols] as it lies is a
// matrix of `cols` rows, so out [x rows, w rows], as it lies, is w transposed times x.
struct CublasLtProduct {
  // PRECOND: type f16 or bf16, out_stride >= weight_rows. Throws std::runtime_error when the library refuses.
  CublasLtProduct(TensorType type, int32_t weight_rows, int32_t cols, int32_t rows, int32_t out_stride);
  ~CublasLtProduct();
  CublasLtProduct(const CublasLtProduct&) = delete;
  CublasLtProduct& operator=(const CublasLtProduct&) = delete;

  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
};

class CublasLt {
 public:
  // What NVIDIA recommends for Hopper; smaller GPUs need less.
  static constexpr int64_t kWorkspaceBytes = 32 << 20;

  // workspace [kWorkspaceBytes] of device memory, 256-byte aligned, for products that do not run at the same time.
  explicit CublasLt(std::byte* workspace);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // out [rows, out_stride] = x [rows, w.cols] times w transposed. False: the library has no algorithm for it, or something does not
  // lie at multiples of 16 bytes; nothing was done. Throws CudaError when the device computes nothing more, std::runtime_error when
  // the library fails. PRECOND: w f16 or bf16, x of the same type.
  bool multiply(cudaStream_t stream, const DeviceMatrix& w, const void* x, int32_t rows, float* out, int32_t out_stride);

 private:
  // Shapes are those of a model's matrices times the sizes of chunks, which the scheduler rounds; beyond this nothing is kept.
  static constexpr size_t kShapesMax = 512;
  // type, weight rows, columns, rows, out_stride
  using Shape = std::array<int32_t, 5>;

  std::optional<cublasLtMatmulAlgo_t> algorithm(const Shape& shape, const CublasLtProduct& product);

  cublasLtHandle_t handle_ = nullptr;
  std::byte* workspace_;
  std::map<Shape, std::optional<cublasLtMatmulAlgo_t>> algorithms_;  // nullopt: there is none
};

}  // namespace penstock::cuda

#endif
