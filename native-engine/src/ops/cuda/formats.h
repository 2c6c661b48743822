// How weights lie in device memory, and in which order their products are summed. Owns the geometry only: pack.cc writes it,
// formats.cuh reads it. Sizes are those of the file, apart from padding of the last rows and columns.
//
// Quantised: a matrix is tiles of 32 rows, a tile is panels of 256 columns, a panel is planes of [32 rows][16 bytes]. So a warp
// whose lanes are the rows of a tile reads every plane with one 16-byte load per lane, 512 bytes in a line; and 8 rows of a plane
// are what ldmatrix, or a 4-byte load per lane, reads from shared memory without bank conflicts. The planes, in this order:
//   scales  d of the 8 blocks, f16                          Q8_0, Q4_0, Q4_1, Q5_0, Q5_1
//           d, dmin f16; 12 bytes of levels, see below      Q4_K, Q5_K
//           the 16 int8 scales                              Q6_K
//   mins    m of the 8 blocks, f16                          Q4_1, Q5_1
//   high    2 planes of 4 blocks' fifth bits                Q5_0, Q5_1, Q5_K: bit g of byte k is of column 4g + k
//           4 planes of 2 blocks' high pairs                Q6_K: bits 2j.. of byte k of word h are of column 16h + 4j + k
//   values  16 planes: block b, columns 0..15 and 16..31    Q8_0
//           8 planes: block b's nibbles                     all others: low of byte i is column i, high is column 16 + i
// and behind the planes of Q6_K: d [32 rows] f16. Levels of sub-block j: byte j has the low 4 bits of its scale, and of its
// minimum above them; nibble j of the last 4 bytes has the upper 2 bits of the scale, and of the minimum above them. Unlike in
// the file, no sub-block is a special case. Rows and columns that pad the last tile and panel are zero.
//
// f16, bf16: [rows][cols] as in the file. f32: tiles of 32 rows, [cols / 4][32 rows][4], padded with zeros.
//
// Order of summation: the columns are cut into at most kSegmentsMax segments of whole panels, by the number of columns alone. A
// segment is summed in order of its columns, from 0, and the segments are added in order, to 0. The GEMV has a warp for each
// segment, the GEMM walks them one after the other: the same bits. In a segment
//   quantised  acc = fma(d_w * d_x, float(integer sum), acc) per block of 32 columns, then the offset or minimum with another
//              fma: what reference.cc does, so a product of one segment has the reference's bits
//   f16, bf16  mma.m16n8k16 per 16 columns, accumulated in f32
//   f32        one fma per column
#pragma once

#include <cstdint>

#include "ops/tensor_type.h"

namespace penstock::cuda {

inline constexpr int32_t kPanelRows = 32;
inline constexpr int32_t kPanelCols = kSuperBlock;
inline constexpr int32_t kPanelBlocks = kPanelCols / kQuantBlock;
inline constexpr int32_t kPlaneRowBytes = 16;
inline constexpr int32_t kPlaneBytes = kPanelRows * kPlaneRowBytes;

// Warps of a GEMV's thread block. Eight of them with 2 to 4 KB each on the way are what one SM needs to saturate its share of
// an H100's memory (3.35 TB/s * 0.8 us / 132 = 20 KB); more would only add partial sums, and nothing below 2304 columns.
inline constexpr int32_t kSegmentsMax = 8;

inline constexpr int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }

inline constexpr int32_t panels_of(int32_t cols) { return ceil_div(cols, kPanelCols); }
inline constexpr int32_t segment_panels(int32_t cols) { return ceil_div(panels_of(cols), kSegmentsMax); }
inline constexpr int32_t segments_of(int32_t cols) { return ceil_div(panels_of(cols), segment_panels(cols)); }

// Planes of a panel by what they hold; `high` etc. are the index of the first.
struct PanelLayout {
  int32_t min_planes;
  int32_t high_planes;
  int32_t planes_per_block;  // of values
  bool has_super_d;          // d of 32 rows behind the planes

  constexpr int32_t mins() const { return 1; }
  constexpr int32_t high() const { return mins() + min_planes; }
  constexpr int32_t values() const { return high() + high_planes; }
  constexpr int32_t planes() const { return values() + kPanelBlocks * planes_per_block; }
  constexpr int32_t bytes() const { return planes() * kPlaneBytes + (has_super_d ? 2 * kPanelRows : 0); }
};

// PRECOND: is_quantized(type).
inline constexpr PanelLayout panel_layout(TensorType type) {
  switch (type) {
    case TensorType::q8_0:
      return {0, 0, 2, false};
    case TensorType::q4_1:
      return {1, 0, 1, false};
    case TensorType::q5_0:
    case TensorType::q5_k:
      return {0, 2, 1, false};
    case TensorType::q5_1:
      return {1, 2, 1, false};
    case TensorType::q6_k:
      return {0, 4, 1, true};
    default:
      return {0, 0, 1, false};  // Q4_0, Q4_K
  }
}

constexpr bool costs_what_the_file_costs(TensorType type) {
  return panel_layout(type).bytes() == kPanelRows * row_bytes(type, kPanelCols);
}
static_assert(costs_what_the_file_costs(TensorType::q8_0) && costs_what_the_file_costs(TensorType::q4_0) &&
              costs_what_the_file_costs(TensorType::q4_1) && costs_what_the_file_costs(TensorType::q5_0) &&
              costs_what_the_file_costs(TensorType::q5_1) && costs_what_the_file_costs(TensorType::q4_k) &&
              costs_what_the_file_costs(TensorType::q5_k) && costs_what_the_file_costs(TensorType::q6_k));

}  // namespace penstock::cuda
