// The driver that every weight format's AVX2 product shares. Owns how activation rows and tiles are walked and where sums
// are written; how a tile of a format is multiplied is that format's Tile.
//
// A format is a struct of this shape in the matmul_*_avx2.cc of its family, and a function that instantiates multiply:
//
//   struct TileX {
//     // Most activation rows that share one pass over a tile: as many as leave every accumulator in a register.
//     static constexpr int kRows = 4;
//     // sums[n] = outputs of the tile's 8 weight rows for activation row first + n; they come in as zero. For each
//     // output the operations must be those of reference.cc in its order, for every N in [1, kRows].
//     // tile: kTileRows * row_bytes(type, cols) bytes, as the format's packer wrote them.
//     template <int N>
//     static void run(const std::byte* tile, const Activations& x, int32_t first, __m256 (&sums)[N]);
//   };
//   void matmul_x(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
//                 int32_t out_stride) {
//     multiply<TileX>(w, x, tile_begin, tile_end, out, out_stride);
//   }
//
// The function is declared below and named once more in the switch of matmul_avx2.cc; its packer in pack_avx2.cc.
#pragma once

#include <algorithm>

#include "ops/cpu/simd_avx2.h"
#include "ops/ops.h"

namespace penstock::avx2 {

// Kernels::matmul for one format.
using TileProduct = void(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                         int32_t out_stride);
TileProduct matmul_f32;   // matmul_float_avx2.cc
TileProduct matmul_f16;   // matmul_float_avx2.cc
TileProduct matmul_q8_0;  // matmul_q8_avx2.cc
TileProduct matmul_q4_0;  // matmul_q4_avx2.cc
TileProduct matmul_q4_1;  // matmul_q4_avx2.cc

// Activation rows that pass over a range of tiles together: at 1,536 columns 64 rows are 96 KiB, a fifth of a common
// L2.
inline constexpr int32_t kRowsPerPass = 64;

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

}  // namespace penstock::avx2
