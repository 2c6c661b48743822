// Who multiplies: our kernels, or cuBLASLt for large products of f16 and bf16 where that was asked for. Owns the choice; the
// default needs nothing that is not in this tree.
//
// cuBLASLt picks an algorithm by the shape of a product, so a row's bits may depend on how many rows are beside it: with it
// the engine is not batch-invariant, and a prompt cut into other chunks may give other tokens. That is why it is an option, why it
// is never a default.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ops/cuda/ops.h"

namespace penstock::cuda {

enum class GemmLibrary : uint8_t { own, cublaslt };

class CublasLt;

class Gemm {
 public:
  // Rows from which the library is asked; below, the weights' bytes are the cost and our kernels are at the memory's speed.
  static constexpr int32_t kLibraryRows = 128;

  // Whether it is in this build.
  static bool has_library();
  // Bytes of device memory that the library works in.
  static int64_t workspace_bytes(GemmLibrary library);

  // workspace [workspace_bytes] outlives this. Throws std::invalid_argument for a library that is not in this build.
  explicit Gemm(GemmLibrary library = GemmLibrary::own, std::byte* workspace = nullptr);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // matmul() of ops.h. What the library does not do is done by our kernels.
  void multiply(cudaStream_t stream, const DeviceMatrix& w, const DeviceActivations& x, int32_t rows, float* out,
                int32_t out_stride);

 private:
  std::unique_ptr<CublasLt> library_;
};

}  // namespace penstock::cuda
