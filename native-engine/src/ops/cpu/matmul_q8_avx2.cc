// Products with Q8_0 weights.
#if defined(__x86_64__)
#include "ops/cpu/matmul_tile_avx2.h"

namespace penstock::avx2 {

namespace {

// maddubs adds two u8 x i8 products into i16 with saturation. Here u8 = |w| <= 128 and |i8| <= 127 (the quantiser never
// emits -128), so a pair is at most 32,512 and never saturates; the sum of two pairs would, hence the madd per group.
struct TileQ8_0 {
  static constexpr int kRows = 4;
  static constexpr int tiles_for(int rows) { return rows == 1 ? 1 : 2; }

  template <int N, int T>
  static void run(const std::byte* tile, int64_t tile_bytes, int64_t ahead, const Activations& x, int32_t first,
                  __m256 (&sums)[T][N]) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int64_t cols = x.cols;
    const int32_t blocks = x.cols / kQuantBlock;
    const int8_t* q = x.q + first * cols;
    const float* scale = x.d + int64_t{first} * blocks;
    for (int32_t b = 0; b < blocks; ++b, tile += kTileRows * 34, q += kQuantBlock, ++scale) {
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) prefetch(tile + t * tile_bytes + ahead, kTileRows * 34);
      __m256i products[T][N];
#pragma GCC unroll 8
      for (int32_t g = 0; g < 8; ++g) {
        __m256i w[T];
        __m256i magnitude[T];
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) {
          w[t] = load32(tile + t * tile_bytes + 16 + 32 * g);
          magnitude[t] = _mm256_abs_epi8(w[t]);
        }
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          const __m256i y = broadcast4(q + n * cols + 4 * g);
#pragma GCC unroll 2
          for (int t = 0; t < T; ++t) {
            const __m256i product =
                _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude[t], _mm256_sign_epi8(y, w[t])), ones);
            products[t][n] = g == 0 ? product : _mm256_add_epi32(products[t][n], product);
            in_order(products[t][n]);
          }
        }
      }
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) {
        const __m256 d = load8_half(tile + t * tile_bytes);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          const __m256 scales = _mm256_mul_ps(d, _mm256_broadcast_ss(scale + n * int64_t{blocks}));
          sums[t][n] = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(products[t][n]), sums[t][n]);
        }
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
