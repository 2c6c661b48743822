// matmul() of ops.h: checks what it is given and chooses the kernel.
#include "ops/cuda/matmul.h"

#include <stdexcept>
#include <string>

#include "ops/cuda/formats.h"

namespace penstock::cuda {

namespace {

// Up to here dot products win: one row costs the dot kernel some 13 instructions per 32 columns and lane, and 8 rows cost the
// tensor-core kernel some 50, at the same bytes. Counted, not yet measured.
constexpr int32_t kDotRows = 4;
// Rows that the split shape takes in one pass over the weights.
constexpr int32_t kSplitRows = 16;
// Rows from which tiles of 64 or 128 are filled well enough, whatever the grid.
constexpr int32_t kWideRows = 64;
// Tiles of weight rows from which a wide grid keeps most processors of the chips we know (82 to 170) busy.
constexpr int32_t kWideTiles = 80;

}  // namespace

MatmulPath choose_path(TensorType type, int32_t weight_rows, int32_t rows) {
  if (type == TensorType::f32 || (is_quantized(type) && rows <= kDotRows)) return MatmulPath::rows;
  if (rows <= kSplitRows) return MatmulPath::split;
  if (rows > kWideRows) return MatmulPath::wide;
  const int32_t tile_rows = is_quantized(type) ? kInt8TileRows : kHalfTileRows;
  return ceil_div(weight_rows, tile_rows) >= kWideTiles ? MatmulPath::wide : MatmulPath::split;
}

bool has_path(MatmulPath path, TensorType type, int32_t rows) {
  if (type == TensorType::f32) return path == MatmulPath::rows;
  return path != MatmulPath::rows || (is_quantized(type) && rows <= kDotRowsMax);
}

void matmul_by(MatmulPath path, cudaStream_t stream, const DeviceMatrix& w, const DeviceActivations& x, int32_t rows,
               float* out, int32_t out_stride) {
  if (x.form != activation_form(w.type) || x.cols != w.cols || !has_path(path, w.type, rows)) {
    throw std::invalid_argument(std::string("matmul: activations or path do not fit weights of type ") +
                                tensor_type_facts(w.type).name);
  }
  if (rows == 0 || w.rows == 0) return;
  const Product p{w.data, x.values, x.d, x.s, out, w.rows, w.cols, rows, out_stride, segment_panels(w.cols)};
  if (w.type == TensorType::f32) return matmul_f32(stream, p);
  if (!is_quantized(w.type)) return matmul_half(stream, w.type, p, path == MatmulPath::split);
  if (path == MatmulPath::rows) return matmul_dot(stream, w.type, p);
  matmul_int8(stream, w.type, p, path == MatmulPath::split);
}

void matmul(cudaStream_t stream, const DeviceMatrix& w, const DeviceActivations& x, int32_t rows, float* out,
            int32_t out_stride) {
  matmul_by(choose_path(w.type, w.rows, rows), stream, w, x, rows, out, out_stride);
}

}  // namespace penstock::cuda
