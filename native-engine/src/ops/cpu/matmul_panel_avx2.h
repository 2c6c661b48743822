// Products of the formats whose bytes must be unpacked before they multiply: 5 and 6 bits, or two levels of scales.
// Owns the arithmetic of a block and the walk over activation rows; what the bytes of a format mean is that format's
// reader.
//
// Few activation rows (decoding) multiply straight from the packed weights, as tiles of matmul_tile_avx2.h. More rows
// unpack 256 columns of a group of tiles into a panel of bytes that stays in L1, and every group of rows multiplies
// with that. Both run multiply_block, so a row has the same bits either way.
//
// A reader stands on one file block of a tile:
//
//   struct ReaderX {
//     static constexpr TensorType kType;
//     static constexpr int32_t kBlocks;  // blocks of 32 columns in a file block: 1 or 8
//     static constexpr int32_t kParts;   // 16-bit sums per block: 8 / kParts maddubs, less kZero, fit in i16
//     static constexpr int32_t kZero;    // group() is this much too large
//     static constexpr bool kHasOffset;  // offset() is added for each activation
//     void open(const std::byte* at);                     // at the packed file block, of 8 rows
//     __m256i group(int32_t block, int32_t g) const;      // integers of columns 4 g.. of the 8 rows, 4 bytes each
//     __m256i scales(int32_t block, int32_t part) const;  // integer scale of each row, twice in i16
//     __m256 d(int32_t block) const;                      // [8 rows]
//     __m256 offset(int32_t block) const;                 // [8 rows], where kHasOffset
//   };
#pragma once

#include <algorithm>

#include "ops/cpu/matmul_tile_avx2.h"

namespace penstock::avx2 {

// Groups of 4 columns in a block.
inline constexpr int32_t kGroups = kQuantBlock / 4;
// Blocks of a panel: those of a super-block. With 64 rows of activations (16 KiB), their sums and two tiles it fits L1.
inline constexpr int32_t kPanelBlocks = kSuperBlock / kQuantBlock;
// Activation rows and tiles that multiply together, so that the 16-bit sums stay in registers.
inline constexpr int32_t kPanelRows = 4;
inline constexpr int32_t kPanelTiles = 2;
// From this many activation rows on, unpacking once pays for writing the panel.
inline constexpr int32_t kPanelRowsMin = 2 * kPanelRows;

// Bytes of the values of 32 columns of a tile, of 4, 5 or 6 bits each: high bits, then nibbles.
template <int kBits>
inline constexpr int32_t kValueBytes = kBits * kTileRows * kQuantBlock / 8;

// Columns 4 g.. of 8 rows as unsigned bytes, from values in the layout of pack_k_avx2.cc. After inlining, g is a
// constant and so are the shifts; bits that they carry over from the next byte are masked.
template <int kBits>
inline __m256i load_group(const std::byte* values, int32_t g) {
  constexpr int32_t kHighBytes = (kBits - 4) * 32;
  const __m256i pairs = load32(values + kHighBytes + 32 * (g % 4));
  const __m256i nibbles = _mm256_and_si256(g < 4 ? pairs : _mm256_srli_epi16(pairs, 4), _mm256_set1_epi8(15));
  if constexpr (kBits == 4) return nibbles;
  const __m256i high = load32(values + (kBits == 6 ? 32 * (g / 4) : 0));
  const int32_t left = kBits == 6 ? 4 - 2 * (g % 4) : 4 - g;
  const __m256i moved = left >= 0 ? _mm256_slli_epi16(high, left) : _mm256_srli_epi16(high, -left);
  return _mm256_or_si256(nibbles, _mm256_and_si256(moved, _mm256_set1_epi8(kBits == 6 ? 48 : 16)));
}

// A block of 32 columns for N activation rows and T tiles, in the order of reference.cc: per output the exact integer
// sum, one fused multiply-add of it, one of the offset. q, scale, offset: the first row's, at this block.
template <int N, int T, typename Reader>
[[gnu::always_inline]] inline void multiply_block(const Reader (&w)[T], int32_t block, const int8_t* q, int64_t cols,
                                                  const float* scale, const float* offset, int64_t blocks,
                                                  __m256 (&sums)[T][N]) {
  // What kZero adds to a lane: kZero times its columns' activations, in the same places as the products' pairs.
  __m256i zeros[N];
  if constexpr (Reader::kZero != 0) {
    static_assert(Reader::kParts == 2, "each half of a register has the columns of one part");
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + n * cols));
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(Reader::kZero), y);
      const __m256i two = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4E));
      zeros[n] = _mm256_add_epi16(two, _mm256_shuffle_epi32(two, 0xB1));
    }
  }
  __m256i totals[T][N];
#pragma GCC unroll 2
  for (int32_t part = 0; part < Reader::kParts; ++part) {
    __m256i products[T][N];
    constexpr int32_t kPartGroups = kGroups / Reader::kParts;
#pragma GCC unroll 8
    for (int32_t i = 0; i < kPartGroups; ++i) {
      const int32_t g = part * kPartGroups + i;
      __m256i bytes[T];
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) bytes[t] = w[t].group(block, g);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const __m256i y = broadcast4(q + n * cols + 4 * g);
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) {
          const __m256i product = _mm256_maddubs_epi16(bytes[t], y);
          products[t][n] = i == 0 ? product : _mm256_add_epi16(products[t][n], product);
          in_order(products[t][n]);
        }
      }
    }
    if constexpr (Reader::kZero != 0) {
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const __m256i zero = _mm256_permute2x128_si256(zeros[n], zeros[n], part == 0 ? 0x00 : 0x11);
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) products[t][n] = _mm256_sub_epi16(products[t][n], zero);
      }
    }
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) {
      const __m256i scales = w[t].scales(block, part);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const __m256i total = _mm256_madd_epi16(products[t][n], scales);
        totals[t][n] = part == 0 ? total : _mm256_add_epi32(totals[t][n], total);
      }
    }
  }
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t) {
    const __m256 d = w[t].d(block);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const __m256 scaled = _mm256_mul_ps(d, _mm256_broadcast_ss(scale + n * blocks));
      sums[t][n] = _mm256_fmadd_ps(scaled, _mm256_cvtepi32_ps(totals[t][n]), sums[t][n]);
    }
    if constexpr (Reader::kHasOffset) {
      const __m256 m = w[t].offset(block);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        sums[t][n] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(offset + n * blocks), sums[t][n]);
      }
    }
  }
}

// The packed weights themselves, for few rows.
template <typename Reader>
struct TileDirect {
  static constexpr int kRows = kPanelRows;
  static constexpr int tiles_for(int) { return kPanelTiles; }

  template <int N, int T>
  static void run(const std::byte* tile, int64_t tile_bytes, int64_t ahead, const Activations& x, int32_t first,
                  __m256 (&sums)[T][N]) {
    constexpr int32_t kBytes = kTileRows * tensor_type_facts(Reader::kType).block_bytes;
    constexpr int32_t kShare = kBytes / Reader::kBlocks;
    const int64_t cols = x.cols;
    const int32_t blocks = x.cols / kQuantBlock;
    const int8_t* q = x.q + first * cols;
    const float* scale = x.d + int64_t{first} * blocks;
    const float* offset = x.s + int64_t{first} * blocks;
    for (int32_t b = 0; b < blocks; b += Reader::kBlocks, tile += kBytes) {
      Reader w[T];
      for (int t = 0; t < T; ++t) w[t].open(tile + t * tile_bytes);
      for (int32_t block = 0; block < Reader::kBlocks; ++block) {
        for (int t = 0; t < T; ++t) prefetch(tile + t * tile_bytes + block * kShare + ahead, kShare);
        const int32_t at = b + block;
        multiply_block<N, T>(w, block, q + at * kQuantBlock, cols, scale + at, offset + at, blocks, sums);
      }
    }
  }
};

// Up to 256 columns of a tile, unpacked; itself a reader.
template <typename Packed>
struct Panel {
  static constexpr int32_t kParts = Packed::kParts;
  static constexpr int32_t kZero = Packed::kZero;
  static constexpr bool kHasOffset = Packed::kHasOffset;

  struct Block {
    __m256i bytes[kGroups];
    __m256i scale[kParts];
    __m256 d;
    __m256 m;
  };
  Block blocks[kPanelBlocks];

  __m256i group(int32_t block, int32_t g) const { return _mm256_load_si256(&blocks[block].bytes[g]); }
  __m256i scales(int32_t block, int32_t part) const { return _mm256_load_si256(&blocks[block].scale[part]); }
  __m256 d(int32_t block) const { return blocks[block].d; }
  __m256 offset(int32_t block) const { return blocks[block].m; }

  // packed: the tile at a file block. What follows it is asked for, since the next panel starts there.
  // PRECOND: count is a multiple of Packed::kBlocks.
  void unpack(const std::byte* packed, int32_t count) {
    constexpr int32_t kBytes = kTileRows * tensor_type_facts(Packed::kType).block_bytes;
    Packed w;
    for (int32_t b = 0; b < count; b += Packed::kBlocks, packed += kBytes) {
      w.open(packed);
      prefetch(packed + kBytes * count / Packed::kBlocks, kBytes);
      for (int32_t block = 0; block < Packed::kBlocks; ++block) {
        Block& into = blocks[b + block];
#pragma GCC unroll 8
        for (int32_t g = 0; g < kGroups; ++g) into.bytes[g] = w.group(block, g);
        for (int32_t part = 0; part < kParts; ++part) into.scale[part] = w.scales(block, part);
        into.d = w.d(block);
        if constexpr (kHasOffset) into.m = w.offset(block);
      }
    }
  }
};

// Rows [first, first + rows) times a panel of `count` blocks from block `begin` on -> sums [T][rows], from sums[.][0].
template <typename Reader, int N, int T>
void panel_rows(const Panel<Reader> (&w)[T], int32_t count, const Activations& x, int32_t begin, int32_t first,
                int32_t rows, __m256 (&sums)[T][kRowsPerPass], int32_t sum) {
  if (rows < N) {
    if constexpr (N > 1) panel_rows<Reader, N - 1, T>(w, count, x, begin, first, rows, sums, sum);
    return;
  }
  const int64_t cols = x.cols;
  const int64_t blocks = x.cols / kQuantBlock;
  const int8_t* q = x.q + first * cols + begin * kQuantBlock;
  const float* scale = x.d + first * blocks + begin;
  const float* offset = x.s + first * blocks + begin;
  __m256 part[T][N];
  for (int t = 0; t < T; ++t) {
    for (int n = 0; n < N; ++n) part[t][n] = sums[t][sum + n];
  }
  for (int32_t b = 0; b < count; ++b) {
    multiply_block<N, T>(w, b, q + b * kQuantBlock, cols, scale + b, offset + b, blocks, part);
  }
  for (int t = 0; t < T; ++t) {
    for (int n = 0; n < N; ++n) sums[t][sum + n] = part[t][n];
  }
}

// Rows [row_begin, row_end), at most kRowsPerPass, times tiles T at a time.
template <typename Reader, int T>
void walk_panels(const Matrix& w, const Activations& x, int32_t row_begin, int32_t row_end, int32_t tile_begin,
                 int32_t tile_end, float* out, int32_t out_stride) {
  constexpr int64_t kBytes = kTileRows * tensor_type_facts(Reader::kType).block_bytes;
  const int64_t tile_bytes = kTileRows * row_bytes(w.type, w.cols);
  const int32_t blocks = x.cols / kQuantBlock;
  const int32_t rows = row_end - row_begin;
  const int32_t groups = (rows + kPanelRows - 1) / kPanelRows;
  int32_t tile = tile_begin;
  for (; tile + T <= tile_end; tile += T) {
    Panel<Reader> panels[T];
    __m256 sums[T][kRowsPerPass];
    for (int t = 0; t < T; ++t) std::fill_n(sums[t], rows, _mm256_setzero_ps());
    for (int32_t b = 0; b < blocks; b += kPanelBlocks) {
      const int32_t count = std::min(kPanelBlocks, blocks - b);
      for (int t = 0; t < T; ++t) {
        panels[t].unpack(w.data + (tile + t) * tile_bytes + b / Reader::kBlocks * kBytes, count);
      }
      for (int32_t group = 0; group < groups; ++group) {
        const int32_t first = rows * group / groups;
        const int32_t next = rows * (group + 1) / groups;
        panel_rows<Reader, kPanelRows, T>(panels, count, x, b, row_begin + first, next - first, sums, first);
      }
    }
    for (int t = 0; t < T; ++t) {
      const int32_t column = (tile + t) * kTileRows;
      const __m256i present = lanes_below(std::min(kTileRows, w.rows - column));
      for (int32_t n = 0; n < rows; ++n) {
        _mm256_maskstore_ps(out + int64_t{row_begin + n} * out_stride + column, present, sums[t][n]);
      }
    }
  }
  if constexpr (T > 1) walk_panels<Reader, 1>(w, x, row_begin, row_end, tile, tile_end, out, out_stride);
}

template <typename Reader>
void multiply_unpacked(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                       int32_t out_stride) {
  if (x.rows < kPanelRowsMin) return multiply<TileDirect<Reader>>(w, x, tile_begin, tile_end, out, out_stride);
  for (int32_t row = 0; row < x.rows; row += kRowsPerPass) {
    walk_panels<Reader, kPanelTiles>(w, x, row, std::min(row + kRowsPerPass, x.rows), tile_begin, tile_end, out,
                                     out_stride);
  }
}

}  // namespace penstock::avx2
