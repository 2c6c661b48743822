// Weight products with AVX2 over the tiles of pack_avx2.cc. One kernel per format, templated on the number of
// activation rows that share each loaded weight: with 1 row it is the matrix-vector product of decoding, with more the
// prefill GEMM. Per output the order of operations is that of reference.cc, so the results are equal to the bit.
#if defined(__x86_64__)
#include <algorithm>

#include "ops/cpu/kernels_avx2.h"
#include "ops/cpu/simd_avx2.h"

namespace penstock::avx2 {

namespace {

// Activation rows that pass over a range of tiles together: at 1,536 columns 64 rows are 96 KiB, a fifth of a common
// L2.
constexpr int32_t kRowsPerPass = 64;

// N rows of activations, from row `first`.
template <int N>
struct RowPointers {
  const int8_t* q[N];
  const float* d[N];
  const float* s[N];

  RowPointers(const Activations& x, int32_t first) {
    const int64_t blocks = x.cols / kQuantBlock;
    for (int n = 0; n < N; ++n) {
      q[n] = x.q + int64_t{first + n} * x.cols;
      d[n] = x.d + (first + n) * blocks;
      s[n] = x.s + (first + n) * blocks;
    }
  }
};

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

// N activation rows times one tile -> out, 8 columns each (fewer in the last tile).
template <typename Tile, int N>
void tile_rows(const Matrix& w, const std::byte* tile, const Activations& x, int32_t first, int32_t column, float* out,
               int32_t out_stride) {
  __m256 sums[N];
  for (int n = 0; n < N; ++n) sums[n] = _mm256_setzero_ps();
  Tile::template run<N>(tile, x, first, sums);
  const int32_t columns = std::min(kTileRows, w.rows - column);
  for (int n = 0; n < N; ++n) {
    float* at = out + int64_t{first + n} * out_stride + column;
    if (columns == kTileRows) {
      _mm256_storeu_ps(at, sums[n]);
    } else {
      _mm256_maskstore_ps(at, lanes_below(columns), sums[n]);
    }
  }
}

// The rows that remain after groups of N + 1.
template <typename Tile, int N>
void tile_rest(const Matrix& w, const std::byte* tile, const Activations& x, int32_t first, int32_t rest,
               int32_t column, float* out, int32_t out_stride) {
  if constexpr (N > 0) {
    if (rest == N) {
      tile_rows<Tile, N>(w, tile, x, first, column, out, out_stride);
    } else {
      tile_rest<Tile, N - 1>(w, tile, x, first, rest, column, out, out_stride);
    }
  }
}

template <typename Tile>
void multiply(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
              int32_t out_stride) {
  const int64_t tile_bytes = kTileRows * row_bytes(w.type, w.cols);
  for (int32_t pass = 0; pass < x.rows; pass += kRowsPerPass) {
    const int32_t pass_end = std::min(pass + kRowsPerPass, x.rows);
    for (int32_t t = tile_begin; t < tile_end; ++t) {
      const std::byte* tile = w.data + t * tile_bytes;
      int32_t row = pass;
      for (; row + Tile::kRows <= pass_end; row += Tile::kRows) {
        tile_rows<Tile, Tile::kRows>(w, tile, x, row, t * kTileRows, out, out_stride);
      }
      tile_rest<Tile, Tile::kRows - 1>(w, tile, x, row, pass_end - row, t * kTileRows, out, out_stride);
    }
  }
}

}  // namespace

void matmul(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
            int32_t out_stride) {
  switch (w.type) {
    case TensorType::f32:
      return multiply<TileF32>(w, x, tile_begin, tile_end, out, out_stride);
    case TensorType::f16:
      return multiply<TileF16>(w, x, tile_begin, tile_end, out, out_stride);
    case TensorType::q8_0:
      return multiply<TileQ8_0>(w, x, tile_begin, tile_end, out, out_stride);
    case TensorType::q4_0:
      return multiply<TileQ4<false>>(w, x, tile_begin, tile_end, out, out_stride);
    case TensorType::q4_1:
      return multiply<TileQ4<true>>(w, x, tile_begin, tile_end, out, out_stride);
  }
}

}  // namespace penstock::avx2
#endif
