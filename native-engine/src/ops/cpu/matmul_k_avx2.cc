// Weight products of the formats with more than one level of scales, and of those with a fifth bit.
#if defined(__x86_64__)
#include "ops/cpu/kernels_avx2.h"

namespace penstock::avx2 {

void matmul_k(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
              int32_t out_stride) {
  reference_kernels().matmul(w, x, tile_begin, tile_end, out, out_stride);
}

}  // namespace penstock::avx2
#endif
