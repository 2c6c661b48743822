// f32 weights times rows of f32 activations: small models and oracles, not speed. One fma per column, in order within a segment.
//
//   weights  [tiles][cols / 4][32 rows][4]   formats.h
//   x        [rows, cols]
//   out      [rows, out_stride] f32, columns [0, weight_rows)
// Grid: (tiles of 32 weight rows, 8 rows of x); a warp per segment, a lane per weight row, 16 bytes per lane and load. Activations
// are the same for all lanes: one load that the cache answers. Memory bound up to some 8 rows.
// PRECOND: blockDim = 32 * segments.
// Bytes: the weights once per 8 rows of x. Operations: 2 * rows * weight_rows * cols. Oracle: reference.cc, in segments.
#include "ops/cuda/formats.h"
#include "ops/cuda/matmul.h"
#include "ops/cuda/platform.h"

namespace penstock::cuda {

namespace {

constexpr int32_t kWarp = 32;
constexpr int32_t kPlaneCols = 4;
constexpr int32_t kRowsPerPass = 8;

template <int32_t kRows>
__global__ void __launch_bounds__(kWarp* kSegmentsMax) f32_kernel(Product p) {
  PENSTOCK_SHARED(float, partials, [kSegmentsMax][kRows][kPanelRows]);
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const auto segment = static_cast<int32_t>(threadIdx.x) / kWarp;
  const auto tile = static_cast<int32_t>(blockIdx.x);
  const auto first_row = static_cast<int32_t>(blockIdx.y) * kRows;
  const int32_t planes = (p.cols + kPlaneCols - 1) / kPlaneCols;
  const auto* weights = reinterpret_cast<const float4*>(p.weights) + int64_t{tile} * planes * kPanelRows + lane;
  const auto* x = static_cast<const float*>(p.x);
  const int32_t segment_planes = p.segment_panels * (kPanelCols / kPlaneCols);
  const int32_t end = min((segment + 1) * segment_planes, planes);

  float sums[kRows] = {};
#pragma unroll 4
  for (int32_t plane = segment * segment_planes; plane < end; ++plane) {
    const float4 four = __ldg(weights + int64_t{plane} * kPanelRows);
    const float w[kPlaneCols] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int32_t n = 0; n < kRows; ++n) {
      if (first_row + n >= p.rows) break;
      const float* row = x + int64_t{first_row + n} * p.cols;
#pragma unroll
      for (int32_t i = 0; i < kPlaneCols; ++i) {
        const int32_t column = plane * kPlaneCols + i;
        if (column < p.cols) sums[n] = fmaf(w[i], __ldg(row + column), sums[n]);
      }
    }
  }

#pragma unroll
  for (int32_t n = 0; n < kRows; ++n) partials[segment][n][lane] = sums[n];
  __syncthreads();
  const auto threads = static_cast<int32_t>(blockDim.x);
  for (auto i = static_cast<int32_t>(threadIdx.x); i < kRows * kPanelRows; i += threads) {
    const int32_t n = first_row + i / kPanelRows;
    const int32_t row = tile * kPanelRows + i % kPanelRows;
    float total = 0.0f;
    for (int32_t part = 0; part < threads / kWarp; ++part) total += partials[part][i / kPanelRows][i % kPanelRows];
    if (n < p.rows && row < p.weight_rows) p.out[int64_t{n} * p.out_stride + row] = total;
  }
}

template <int32_t kRows>
void launch_f32(cudaStream_t stream, const Product& p) {
  const LaunchShape shape{dim3(static_cast<uint32_t>(ceil_div(p.weight_rows, kPanelRows)),
                               static_cast<uint32_t>(ceil_div(p.rows, kRows))),
                          dim3(static_cast<uint32_t>(kWarp * segments_of(p.cols))), 0, stream};
  launch(f32_kernel<kRows>, shape, p);
}

}  // namespace

void matmul_f32(cudaStream_t stream, const Product& p) {
  if (p.rows == 1) return launch_f32<1>(stream, p);
  launch_f32<kRowsPerPass>(stream, p);
}

}  // namespace penstock::cuda
