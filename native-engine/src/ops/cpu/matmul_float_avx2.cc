// Products with F32 and F16 weights.
#if defined(__x86_64__)
#include "ops/cpu/matmul_tile_avx2.h"

namespace penstock::avx2 {

namespace {

struct TileF32 {
  static constexpr int kRows = 4;  // more rows of activations and the tile together no longer fit in L1

  template <int N>
  static void run(const std::byte* tile, const Activations& x, int32_t first, __m256 (&sums)[N]) {
    const float* row[N];
    for (int n = 0; n < N; ++n) row[n] = x.f32 + int64_t{first + n} * x.cols;
    for (int32_t k = 0; k < x.cols; ++k) {
      const __m256 w = load8_float(tile + int64_t{k} * 32);
      for (int n = 0; n < N; ++n) sums[n] = _mm256_fmadd_ps(w, _mm256_broadcast_ss(row[n] + k), sums[n]);
    }
  }
};

struct TileF16 {
  static constexpr int kRows = 4;

  template <int N>
  static void run(const std::byte* tile, const Activations& x, int32_t first, __m256 (&sums)[N]) {
    const float* row[N];
    for (int n = 0; n < N; ++n) row[n] = x.f32 + int64_t{first + n} * x.cols;
    for (int32_t k = 0; k < x.cols; ++k) {
      const __m256 w = load8_half(tile + int64_t{k} * 16);
      for (int n = 0; n < N; ++n) sums[n] = _mm256_fmadd_ps(w, _mm256_broadcast_ss(row[n] + k), sums[n]);
    }
  }
};

}  // namespace

void matmul_f32(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                int32_t out_stride) {
  multiply<TileF32>(w, x, tile_begin, tile_end, out, out_stride);
}

void matmul_f16(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                int32_t out_stride) {
  multiply<TileF16>(w, x, tile_begin, tile_end, out, out_stride);
}

}  // namespace penstock::avx2
#endif
