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

  template <int N>
  static void run(const std::byte* tile, const Activations& x, int32_t first, __m256 (&sums)[N]) {
    constexpr int32_t kHeader = kHasMin ? 32 : 16;
    const RowPointers<N> rows(x, first);
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int32_t b = 0; b < x.cols / kQuantBlock; ++b, tile += kHeader + 128) {
      __m256i products[N];
      for (int n = 0; n < N; ++n) products[n] = _mm256_setzero_si256();
#pragma GCC unroll 4
      for (int32_t g = 0; g < 4; ++g) {
        const __m256i pairs = load32(tile + kHeader + 32 * g);
        const __m256i low = _mm256_and_si256(pairs, nibble);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), nibble);
        for (int n = 0; n < N; ++n) {
          const int8_t* y = rows.q[n] + b * kQuantBlock + 4 * g;
          products[n] = _mm256_add_epi16(products[n], _mm256_maddubs_epi16(low, broadcast4(y)));
          products[n] = _mm256_add_epi16(products[n], _mm256_maddubs_epi16(high, broadcast4(y + 16)));
        }
      }
      const __m256 d = load8_half(tile);
      const __m256 m = kHasMin ? load8_half(tile + 16) : _mm256_mul_ps(d, _mm256_set1_ps(-8.0f));
      for (int n = 0; n < N; ++n) {
        const __m256 total = _mm256_cvtepi32_ps(_mm256_madd_epi16(products[n], ones));
        sums[n] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_broadcast_ss(rows.d[n] + b)), total, sums[n]);
        sums[n] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(rows.s[n] + b), sums[n]);
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
