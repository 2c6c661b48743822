// Products with F32, F16 and BF16 weights.
#if defined(__x86_64__)
#include "ops/cpu/matmul_tile_avx2.h"

namespace penstock::avx2 {

namespace {

struct WeightF32 {
  static constexpr int32_t kBytes = 4;
  static __m256 load8(const std::byte* at) { return load8_float(at); }
};

struct WeightF16 {
  static constexpr int32_t kBytes = 2;
  static __m256 load8(const std::byte* at) { return load8_half(at); }
};

struct WeightBF16 {
  static constexpr int32_t kBytes = 2;
  static __m256 load8(const std::byte* at) {
    const __m128i upper = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(upper), 16));
  }
};

// A sum is one chain of fused multiply-adds, each waiting for the one before: at 4 cycles of latency and 2 per cycle,
// 8 or more sums keep the units busy. 12 sums, their 2 weights and an activation fill the registers.
template <typename Weight>
struct TileFloat {
  static constexpr int kRows = 6;
  static constexpr int tiles_for(int rows) { return rows <= 2 ? 4 : rows <= 4 ? 3 : 2; }

  template <int N, int T>
  static void run(const std::byte* tile, int64_t tile_bytes, int64_t ahead, const Activations& x, int32_t first,
                  __m256 (&sums)[T][N]) {
    const int64_t cols = x.cols;
    const float* row = x.f32 + first * cols;
    __m256 local[T][N];  // the compiler keeps these in registers, but not what it only has a reference to
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n) local[t][n] = sums[t][n];
    }
    const auto column = [&](int64_t k) __attribute__((always_inline)) {
      __m256 w[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) w[t] = Weight::load8(tile + t * tile_bytes + k * kTileRows * Weight::kBytes);
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n) {
        const __m256 y = _mm256_broadcast_ss(row + n * cols + k);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) local[t][n] = _mm256_fmadd_ps(w[t], y, local[t][n]);
      }
    };
    // Four columns are one or two cache lines of a tile.
    int64_t k = 0;
    for (; k + 4 <= cols; k += 4) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        prefetch(tile + t * tile_bytes + k * kTileRows * Weight::kBytes + ahead, 4 * kTileRows * Weight::kBytes);
      }
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) column(k + i);
    }
    for (; k < cols; ++k) column(k);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n) sums[t][n] = local[t][n];
    }
  }
};

}  // namespace

void matmul_f32(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                int32_t out_stride) {
  multiply<TileFloat<WeightF32>>(w, x, tile_begin, tile_end, out, out_stride);
}

void matmul_f16(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                int32_t out_stride) {
  multiply<TileFloat<WeightF16>>(w, x, tile_begin, tile_end, out, out_stride);
}

void matmul_bf16(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply<TileFloat<WeightBF16>>(w, x, tile_begin, tile_end, out, out_stride);
}

}  // namespace penstock::avx2
#endif
