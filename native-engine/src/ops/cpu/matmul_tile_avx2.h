// The driver that every weight format's AVX2 product shares. Owns how activation rows and tiles are walked and where
// sums are written; how a tile of a format is multiplied is that format's Tile.
//
// A format is a struct of this shape in the matmul_*_avx2.cc of its family, and a function that instantiates multiply:
//
//   struct TileX {
//     // Most activation rows that share one pass over a tile: as many as leave every accumulator in a register.
//     static constexpr int kRows = 4;
//     // Neighbouring tiles that run together for that many rows: they share each broadcast activation, and short loops
//     // get more independent sums. One row alone is bound by memory: one tile at a time is one stream.
//     static constexpr int tiles_for(int rows) { return rows == 1 ? 1 : 2; }
//     // sums[t][n] = outputs of tile t's 8 weight rows for activation row first + n; they come in as zero. For each
//     // output the operations must be those of reference.cc in its order, for every N in [1, kRows] and T = 1 or
//     // tiles_for(m) with m >= N.
//     // tile: kTileRows * row_bytes(type, cols) bytes, as the format's packer wrote them; tile t begins t * tile_bytes
//     // behind it. `ahead` bytes behind each byte is one that will be wanted soon: prefetch() it.
//     template <int N, int T>
//     static void run(const std::byte* tile, int64_t tile_bytes, int64_t ahead, const Activations& x, int32_t first,
//                     __m256 (&sums)[T][N]);
//   };
//   void matmul_x(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
//                 int32_t out_stride) {
//     multiply<TileX>(w, x, tile_begin, tile_end, out, out_stride);
//   }
//
// GCC reorders chains of integer additions into trees, which need more registers than there are; in_order() of
// simd_avx2.h pins a partial sum. Look at the assembly: an inner loop that touches the stack loses a third of its
// speed.
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
TileProduct matmul_bf16;  // matmul_float_avx2.cc
TileProduct matmul_q5_0;  // matmul_q5_avx2.cc
TileProduct matmul_q5_1;  // matmul_q5_avx2.cc
TileProduct matmul_q4_k;  // matmul_k_avx2.cc
TileProduct matmul_q5_k;  // matmul_k_avx2.cc
TileProduct matmul_q6_k;  // matmul_k_avx2.cc

// Activation rows that pass over a range of tiles together: at 1,536 columns 64 rows are 96 KiB, a fifth of a common
// L2.
inline constexpr int32_t kRowsPerPass = 64;

// Tiles that follow each other in memory are one stream: this far ahead covers the latency of memory. (Measured: 12
// GB/s per core without, 16 with 1 KiB, 18 with 2 KiB, 16 with 4 KiB.)
inline constexpr int64_t kStreamAheadBytes = 2048;

// N activation rows times T tiles -> out, 8 columns per tile (fewer in the matrix's last).
template <typename Tile, int N, int T>
void tile_group(const Matrix& w, int64_t tile_bytes, const Activations& x, int32_t first, int32_t tile, bool streams,
                float* out, int32_t out_stride) {
  const std::byte* data = w.data + tile * tile_bytes;
  __m256 sums[T][N];
  for (int t = 0; t < T; ++t) {
    for (int n = 0; n < N; ++n) sums[t][n] = _mm256_setzero_ps();
  }
  // With several tiles at once the next group is what comes soon; rows after the first find it there already.
  const int64_t ahead = !streams ? 0 : T == 1 ? kStreamAheadBytes : T * tile_bytes;
  Tile::template run<N, T>(data, tile_bytes, ahead, x, first, sums);
  for (int t = 0; t < T; ++t) {
    const int32_t column = (tile + t) * kTileRows;
    const int32_t columns = std::min(kTileRows, w.rows - column);
    for (int n = 0; n < N; ++n) {
      float* at = out + int64_t{first + n} * out_stride + column;
      if (columns == kTileRows) {
        _mm256_storeu_ps(at, sums[t][n]);
      } else {
        _mm256_maskstore_ps(at, lanes_below(columns), sums[t][n]);
      }
    }
  }
}

// tile_group for `rows` = 1..N. streams: no other rows came before, so the tiles come from memory.
template <typename Tile, int N, int T>
void tile_rows(const Matrix& w, int64_t tile_bytes, const Activations& x, int32_t first, int32_t rows, int32_t tile,
               bool streams, float* out, int32_t out_stride) {
  if (rows == N) {
    tile_group<Tile, N, T>(w, tile_bytes, x, first, tile, streams, out, out_stride);
  } else if constexpr (N > 1) {
    tile_rows<Tile, N - 1, T>(w, tile_bytes, x, first, rows, tile, streams, out, out_stride);
  }
}

// Rows [row_begin, row_end) in groups that differ by at most one row, each at most N, times tiles T at a time.
template <typename Tile, int N, int T>
void walk(const Matrix& w, const Activations& x, int32_t row_begin, int32_t row_end, int32_t tile_begin,
          int32_t tile_end, float* out, int32_t out_stride) {
  const int64_t tile_bytes = kTileRows * row_bytes(w.type, w.cols);
  const int32_t rows = row_end - row_begin;
  const int32_t groups = (rows + N - 1) / N;
  int32_t tile = tile_begin;
  for (; tile + T <= tile_end; tile += T) {
    int32_t first = row_begin;
    for (int32_t group = 1; group <= groups; ++group) {
      const int32_t next = row_begin + rows * group / groups;
      tile_rows<Tile, N, T>(w, tile_bytes, x, first, next - first, tile, group == 1, out, out_stride);
      first = next;
    }
  }
  if constexpr (T > 1) walk<Tile, N, 1>(w, x, row_begin, row_end, tile, tile_end, out, out_stride);
}

// walk with the widest group of rows that `rows` fills.
template <typename Tile, int N>
void walk_rows(const Matrix& w, const Activations& x, int32_t row_begin, int32_t row_end, int32_t tile_begin,
               int32_t tile_end, float* out, int32_t out_stride) {
  if constexpr (N > 1) {
    if (row_end - row_begin < N) {
      return walk_rows<Tile, N - 1>(w, x, row_begin, row_end, tile_begin, tile_end, out, out_stride);
    }
  }
  walk<Tile, N, Tile::tiles_for(N)>(w, x, row_begin, row_end, tile_begin, tile_end, out, out_stride);
}

template <typename Tile>
void multiply(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
              int32_t out_stride) {
  for (int32_t row = 0; row < x.rows; row += kRowsPerPass) {
    walk_rows<Tile, Tile::kRows>(w, x, row, std::min(row + kRowsPerPass, x.rows), tile_begin, tile_end, out,
                                 out_stride);
  }
}

}  // namespace penstock::avx2
