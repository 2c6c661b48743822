// Products with Q4_0 and Q4_1 weights.
#if defined(__x86_64__)
#include "ops/cpu/matmul_tile_avx2.h"

namespace penstock::avx2 {

namespace {

// Nibbles stay unsigned, 0..15: a maddubs lane is at most 2 * 15 * 127 = 3,810, so the eight of a block fit in i16
// (30,480) before the one madd. The offset (-8 d, or the block's minimum) is applied to the activations' block sum.
template <bool kHasMin>
struct TileQ4 {
  static constexpr int kRows = 4;
  static constexpr int tiles_for(int rows) { return rows == 1 ? 1 : 2; }

  template <int N, int T>
  static void run(const std::byte* tile, int64_t tile_bytes, int64_t ahead, const Activations& x, int32_t first,
                  __m256 (&sums)[T][N]) {
    constexpr int32_t kHeader = kHasMin ? 32 : 16;
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i nibble = _mm256_set1_epi8(15);
    const int64_t cols = x.cols;
    const int32_t blocks = x.cols / kQuantBlock;
    const int8_t* q = x.q + first * cols;
    const float* scale = x.d + int64_t{first} * blocks;
    const float* offset = x.s + int64_t{first} * blocks;
    for (int32_t b = 0; b < blocks; ++b, tile += kHeader + 128, q += kQuantBlock, ++scale, ++offset) {
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) prefetch(tile + t * tile_bytes + ahead, kHeader + 128);
      __m256i products[T][N];
#pragma GCC unroll 4
      for (int32_t g = 0; g < 4; ++g) {
        __m256i low[T];
        __m256i high[T];
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) {
          const __m256i pairs = load32(tile + t * tile_bytes + kHeader + 32 * g);
          low[t] = _mm256_and_si256(pairs, nibble);
          high[t] = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), nibble);
        }
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          const __m256i y0 = broadcast4(q + n * cols + 4 * g);
#pragma GCC unroll 2
          for (int t = 0; t < T; ++t) {
            const __m256i product = _mm256_maddubs_epi16(low[t], y0);
            products[t][n] = g == 0 ? product : _mm256_add_epi16(products[t][n], product);
            in_order(products[t][n]);
          }
          const __m256i y1 = broadcast4(q + n * cols + 4 * g + 16);
#pragma GCC unroll 2
          for (int t = 0; t < T; ++t) {
            products[t][n] = _mm256_add_epi16(products[t][n], _mm256_maddubs_epi16(high[t], y1));
            in_order(products[t][n]);
          }
        }
      }
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) {
        const __m256 d = load8_half(tile + t * tile_bytes);
        const __m256 m = kHasMin ? load8_half(tile + t * tile_bytes + 16) : _mm256_mul_ps(d, _mm256_set1_ps(-8.0f));
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          const __m256 total = _mm256_cvtepi32_ps(_mm256_madd_epi16(products[t][n], ones));
          const __m256 scales = _mm256_mul_ps(d, _mm256_broadcast_ss(scale + n * int64_t{blocks}));
          sums[t][n] = _mm256_fmadd_ps(scales, total, sums[t][n]);
          sums[t][n] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(offset + n * int64_t{blocks}), sums[t][n]);
        }
      }
    }
  }
};

}  // namespace

void matmul_q4_0(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply<TileQ4<false>>(w, x, tile_begin, tile_end, out, out_stride);
}

void matmul_q4_1(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply<TileQ4<true>>(w, x, tile_begin, tile_end, out, out_stride);
}

}  // namespace penstock::avx2
#endif
