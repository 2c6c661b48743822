// matmul() of ops.h: checks what it is given and chooses the kernel.
#include "ops/cuda/matmul.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "ops/cuda/formats.h"

namespace penstock::cuda {

namespace {

// Up to here dot products win: 4 rows are one pass of theirs. On an H100 5 rows of Q4_0 take two passes of 12 us, or one of 19.
constexpr int32_t kDotRows = 4;
// Of int8: rows, and thread blocks of the wide grid, from which it beats as many passes of the split one as those rows need. Measured
// on an H100 (Q8_0): 128 rows x 14336 take 79 us wide and 94 split, 128 rows x 4096 take 46 and 28, since few thread blocks leave
// multiprocessors idle for a whole walk of the columns.
constexpr int32_t kInt8WideRows = 96;
constexpr int32_t kInt8WideBlocks = 200;
// Of f16 and bf16: rows that the split shape takes in one pass over the weights,
constexpr int32_t kSplitRows = 16;
// rows from which tiles of 128 are filled well enough, whatever the grid,
constexpr int32_t kWideRows = 64;
// and tiles of weight rows from which a wide grid keeps most processors of the chips we know (82 to 170) busy.
constexpr int32_t kWideTiles = 80;

MatmulPath choose_int8_path(int32_t weight_rows, int32_t rows) {
  if (rows <= kDotRows) return MatmulPath::rows;
  const int32_t blocks = ceil_div(weight_rows, kInt8TileRows) * ceil_div(rows, kInt8TileCols);
  return rows > kInt8WideRows && blocks >= kInt8WideBlocks ? MatmulPath::wide : MatmulPath::split;
}

MatmulPath choose_half_path(int32_t weight_rows, int32_t rows) {
  if (rows <= kSplitRows) return MatmulPath::split;
  if (rows > kWideRows) return MatmulPath::wide;
  return ceil_div(weight_rows, kHalfTileRows) >= kWideTiles ? MatmulPath::wide : MatmulPath::split;
}

}  // namespace

int32_t quantised_rows_max(int32_t cols) {
  return std::numeric_limits<int32_t>::max() / std::max(cols, 1) / kInt8TileCols * kInt8TileCols;
}

MatmulPath choose_path(TensorType type, int32_t weight_rows, int32_t rows) {
  if (type == TensorType::f32) return MatmulPath::rows;
  return is_quantized(type) ? choose_int8_path(weight_rows, rows) : choose_half_path(weight_rows, rows);
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
  // Whoever loads a model has refused what could come to it (model/cuda/kernel_limits.h).
  if (w.rows > kProductOutputsMax || (is_quantized(w.type) && rows > quantised_rows_max(w.cols))) {
    throw std::length_error("matmul: " + std::to_string(w.rows) + " x " + std::to_string(w.cols) + " weights of type " +
                            tensor_type_facts(w.type).name + " times " + std::to_string(rows) +
                            " rows: beyond what the kernels' indices reach");
  }
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
