// The kernels behind matmul() of ops.h, and the choice between them. Owns which kernel multiplies what; all kernels that can
// multiply a matrix give the same bits, so the choice is one of speed alone.
#pragma once

#include "ops/cuda/ops.h"

namespace penstock::cuda {

// How a product is computed.
//   rows  a warp per 32 weight rows and segment, integer dot products or fmaf: few rows of activations
//   split tensor cores, a warp per 16 or 32 weight rows and segment: some rows of activations
//   wide  tensor cores, tiles of 128 weight rows, all segments in turn: many rows of activations
enum class MatmulPath : uint8_t { rows, split, wide };

// What is fastest, from the shape alone.
MatmulPath choose_path(TensorType type, int32_t weight_rows, int32_t rows);

// True where a path exists: f32 has no tensor cores, f16 and bf16 have nothing else, and `rows` takes at most kDotRowsMax.
bool has_path(MatmulPath path, TensorType type, int32_t rows);

// matmul() by a given path, for tests and measurements. PRECOND: has_path.
void matmul_by(MatmulPath path, cudaStream_t stream, const DeviceMatrix& w, const DeviceActivations& x, int32_t rows,
               float* out, int32_t out_stride);

// Rows of the dot-product kernel: two passes over the weights, the second from L2.
inline constexpr int32_t kDotRowsMax = 8;

// Weight rows of a product: 65,535 tiles of the smallest, which have 16 of them, are the most that a grid has in that direction.
inline constexpr int32_t kProductOutputsMax = 65535 * 16;
// Rows of activations that a product of quantised weights takes. The int8 kernel's indices of them have 32 bits, also of the rows
// that fill up its last tile.
int32_t quantised_rows_max(int32_t cols);

// Weight rows, and rows of activations, of a wide tile.
inline constexpr int32_t kInt8TileRows = 128;
inline constexpr int32_t kInt8TileCols = 64;
inline constexpr int32_t kHalfTileRows = 128;

// A product as its kernels take it.
struct Product {
  const std::byte* weights;
  const void* x;           // [rows, cols] in the weights' form
  const float* d;          // [rows, cols / 32], quantised only
  const float* s;
  float* out;              // [rows, out_stride]
  int32_t weight_rows;
  int32_t cols;
  int32_t rows;
  int32_t out_stride;
  int32_t segment_panels;  // of formats.h
};

// matmul_dot.cu: quantised, rows <= kDotRowsMax
void matmul_dot(cudaStream_t stream, TensorType type, const Product& p);
// matmul_int8.cu: quantised
void matmul_int8(cudaStream_t stream, TensorType type, const Product& p, bool split);
// matmul_half.cu: f16 and bf16. Its tiles, of weight rows x rows of x; deep: with more of them on their way.
enum class HalfShape : uint8_t {
  split_16x8,
  split_16x16,
  split_16x32,
  split_32x64,
  wide_128x32,
  wide_128x64,
  wide_128x128,
  wide_128x128_deep,
  wide_128x256,
};
// False where the device has too little shared memory for it, or its copies need rows at multiples of 16 bytes.
bool has_half_shape(HalfShape shape, int32_t cols);
HalfShape choose_half_shape(const Product& p, bool split);
void matmul_half_by(HalfShape shape, cudaStream_t stream, TensorType type, const Product& p);
void matmul_half(cudaStream_t stream, TensorType type, const Product& p, bool split);
// matmul_f32.cu
void matmul_f32(cudaStream_t stream, const Product& p);

}  // namespace penstock::cuda
