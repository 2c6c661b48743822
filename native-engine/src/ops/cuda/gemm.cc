// The choice of gemm.h, with and without the library in the build.
#include "ops/cuda/gemm.h"

#include <stdexcept>

#include "ops/cuda/cublaslt.h"

namespace penstock::cuda {

#ifdef PENSTOCK_CUBLASLT

bool Gemm::has_library() { return true; }

int64_t Gemm::workspace_bytes(GemmLibrary library) {
  return library == GemmLibrary::cublaslt ? CublasLt::kWorkspaceBytes : 0;
}

Gemm::Gemm(GemmLibrary library, std::byte* workspace)
    : library_(library == GemmLibrary::cublaslt ? std::make_unique<CublasLt>(workspace) : nullptr) {}

void Gemm::multiply(cudaStream_t stream, const DeviceMatrix& w, const DeviceActivations& x, int32_t rows, float* out,
                    int32_t out_stride) {
  const bool is_half = w.type == TensorType::f16 || w.type == TensorType::bf16;
  if (library_ != nullptr && is_half && rows >= kLibraryRows && x.form == activation_form(w.type) && x.cols == w.cols &&
      library_->multiply(stream, w, x.values, rows, out, out_stride)) {
    return;
  }
  matmul(stream, w, x, rows, out, out_stride);
}

#else

class CublasLt {};

bool Gemm::has_library() { return false; }

int64_t Gemm::workspace_bytes(GemmLibrary) { return 0; }

Gemm::Gemm(GemmLibrary library, std::byte*) {
  if (library == GemmLibrary::cublaslt) throw std::invalid_argument("cublaslt: this build was made without it");
}

void Gemm::multiply(cudaStream_t stream, const DeviceMatrix& w, const DeviceActivations& x, int32_t rows, float* out,
                    int32_t out_stride) {
  matmul(stream, w, x, rows, out, out_stride);
}

#endif

Gemm::~Gemm() = default;

}  // namespace penstock::cuda
