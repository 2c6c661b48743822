// Products with Q8_0 weights.
#if defined(__x86_64__)
#include "ops/cpu/matmul_tile_avx2.h"

namespace penstock::avx2 {

namespace {

// maddubs adds two u8 x i8 products into i16 with saturation. Here u8 = |w| <= 128 and |i8| <= 127 (the quantiser never
// emits -128), so a pair is at most 32,512 and never saturates; the sum of two pairs would, hence the madd per group.
struct TileQ8_0 {
  static constexpr int kRows = 4;

  template <int N>
  static void run(const std::byte* tile, const Activations& x, int32_t first, __m256 (&sums)[N]) {
    const RowPointers<N> rows(x, first);
    const __m256i ones = _mm256_set1_epi16(1);
    for (int32_t b = 0; b < x.cols / kQuantBlock; ++b, tile += kTileRows * 34) {
      const __m256 d = load8_half(tile);
      __m256i products[N];
      for (int n = 0; n < N; ++n) products[n] = _mm256_setzero_si256();
#pragma GCC unroll 8
      for (int32_t g = 0; g < 8; ++g) {
        const __m256i w = load32(tile + 16 + 32 * g);
        const __m256i magnitude = _mm256_abs_epi8(w);
        for (int n = 0; n < N; ++n) {
          const __m256i y = _mm256_sign_epi8(broadcast4(rows.q[n] + b * kQuantBlock + 4 * g), w);
          products[n] = _mm256_add_epi32(products[n], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, y), ones));
        }
      }
      for (int n = 0; n < N; ++n) {
        sums[n] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_broadcast_ss(rows.d[n] + b)), _mm256_cvtepi32_ps(products[n]),
                                  sums[n]);
      }
    }
  }
};

}  // namespace

void matmul_q8_0(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply<TileQ8_0>(w, x, tile_begin, tile_end, out, out_stride);
}

}  // namespace penstock::avx2
#endif
