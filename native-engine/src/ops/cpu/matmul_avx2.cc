// Weight products with AVX2: the one place that knows which kernel multiplies which format. A kernel is templated on
// the number of activation rows that share each loaded weight: with 1 row it is the matrix-vector product of decoding,
// with more the prefill GEMM. Per output the order of operations is that of reference.cc, so the results are equal to
// the bit.
#if defined(__x86_64__)
#include "ops/cpu/kernels_avx2.h"
#include "ops/cpu/matmul_tile_avx2.h"

namespace penstock::avx2 {

namespace {

TileProduct* product_of(TensorType type) {
  switch (type) {
    case TensorType::f32:
      return matmul_f32;
    case TensorType::f16:
      return matmul_f16;
    case TensorType::q8_0:
      return matmul_q8_0;
    case TensorType::q4_0:
      return matmul_q4_0;
    case TensorType::q4_1:
      return matmul_q4_1;
    case TensorType::bf16:
      return matmul_bf16;
    case TensorType::q5_0:
      return matmul_q5_0;
    case TensorType::q5_1:
      return matmul_q5_1;
    case TensorType::q4_k:
      return matmul_q4_k;
    case TensorType::q5_k:
      return matmul_q5_k;
    case TensorType::q6_k:
      return matmul_q6_k;
  }
  return nullptr;  // not a type of this engine: tensor_type_of() lets none through
}

}  // namespace

void matmul(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
            int32_t out_stride) {
  product_of(w.type)(w, x, tile_begin, tile_end, out, out_stride);
}

}  // namespace penstock::avx2
#endif
