// f16 and bf16 weights times rows of activations of the same type on tensor cores (mma.sync m16n8k16, f32 sums), weights being
// the M side and activations the N side. One kernel for one row and for thousands: an element's sum is the same chain of mma
// over its segments whatever the shape, so its bits do not depend on the batch. (An mma's element depends on its own row of A,
// column of B and sum alone.)
//
//   weights  [weight_rows, cols] as in the file
//   x        [rows, cols]
//   out      [rows, out_stride] f32, columns [0, weight_rows)
// Two shapes of one kernel:
//   wide   2 x 2 or 2 x 4 warps of 64 weight rows x 32 rows of x: tiles of 128 x 64 or 128 x 128; walks all columns. An mma needs
//          6 ldmatrix per 16, so shared memory keeps up with the tensor cores. Finished segments are added to totals in shared
//          memory that only their own thread reads: as registers they would double the 64 of the running sums. Grid: (tiles of
//          x, tiles of weights): neighbours share weights, and x stays in L2.
//   split  a warp per segment, each with its own ring of shared memory and no barrier with the others until the sums are added in
//          order: 32 weight rows x 8 or 16 rows of x. Memory bound: 128 bytes in a line per row and stage.
// A stage is kChunks * 8 columns of both operands, copied by cp.async, read by ldmatrix without bank conflicts (matmul_tile.cuh).
// PRECOND: none on sizes; rows that do not begin at multiples of 16 bytes (cols % 8 != 0) are copied value by value.
// Bytes: per block of the grid, its weights and its x once. Operations: 2 * rows * weight_rows * cols. Oracle: reference.cc within
// f32 rounding. The form is that of cp.async GEMMs of the sm_80 generation (CUTLASS, Marlin).
#include <algorithm>

#include "ops/cuda/formats.h"
#include "ops/cuda/matmul.h"
#include "ops/cuda/matmul_tile.cuh"
#include "ops/cuda/platform.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda {

namespace {

constexpr int32_t kMmaCols = 16;  // columns of one mma
constexpr int32_t kChunkCols = 8;

// kM x kN fragments of 16 weight rows x 8 rows of x per warp.
template <class Type_, int32_t kWarpsM_, int32_t kWarpsN_, int32_t kM_, int32_t kN_, int32_t kChunks_, int32_t kStages_, bool kSplit_>
struct Shape {
  using Type = Type_;  // F16 or Bf16, as mma wants them told apart
  static constexpr bool kSplit = kSplit_;
  static constexpr int32_t kWarpsM = kWarpsM_;
  static constexpr int32_t kM = kM_;
  static constexpr int32_t kN = kN_;
  static constexpr int32_t kChunks = kChunks_;
  static constexpr int32_t kStages = kStages_;
  static constexpr int32_t kGroupThreads = kWarpsM_ * kWarpsN_ * kWarpThreads;
  static constexpr int32_t kGroupsMax = kSplit ? kSegmentsMax : 1;
  static constexpr int32_t kThreadsMax = kGroupsMax * kGroupThreads;
  static constexpr int32_t kRows = 16 * kM * kWarpsM_;  // of weights
  static constexpr int32_t kCols = 8 * kN * kWarpsN_;   // rows of x
  static constexpr int32_t kStageCols = kChunks * kChunkCols;
  static constexpr int32_t kStageX = kRows * kChunks * kChunkBytes;
  static constexpr int32_t kStageBytes = kStageX + kCols * kChunks * kChunkBytes;
  static constexpr int32_t kGroupBytes = kStages * kStageBytes;
  static constexpr int32_t kSums = kM * kN * 4;  // per thread
  // Behind the rings: totals [kSums][threads]. In place of the rings, at the end of a split product: partial sums.
  static constexpr int32_t kTotalBytes = kSplit ? 0 : 4 * kSums * kGroupThreads;
  static constexpr int32_t kPartialBytes = kSplit ? 4 * kPartialStride * kCols : 0;
  static constexpr int32_t shared_bytes(int32_t groups) { return groups * std::max(kGroupBytes + kTotalBytes, kPartialBytes); }
  static_assert(shared_bytes(kGroupsMax) <= 99 * 1024, "what sm_86, 89 and 120 give a thread block");
  static_assert(kPanelCols % kStageCols == 0 && kStageCols % kMmaCols == 0, "segments end with stages");
};

template <class S>
__device__ __forceinline__ void load_stage(const Product& p, int32_t weight_row, int32_t x_row, int32_t index, int32_t thread,
                                           std::byte* stage) {
  const bool aligned = p.cols % kChunkCols == 0;
  const auto* weights = reinterpret_cast<const uint16_t*>(p.weights);
  const auto* x = static_cast<const uint16_t*>(p.x);
  for (int32_t i = thread; i < (S::kRows + S::kCols) * S::kChunks; i += S::kGroupThreads) {
    const bool is_x = i >= S::kRows * S::kChunks;
    const int32_t r = is_x ? i / S::kChunks - S::kRows : i / S::kChunks;
    const int32_t chunk = i % S::kChunks;
    const int32_t from_row = (is_x ? x_row : weight_row) + r;
    const bool live = from_row < (is_x ? p.rows : p.weight_rows);
    copy_chunk(stage + (is_x ? S::kStageX : 0) + swizzled<S::kChunks>(r, chunk),
               (is_x ? x : weights) + int64_t{live ? from_row : 0} * p.cols, index * S::kStageCols + chunk * kChunkCols, p.cols, live,
               aligned);
  }
}

// row, column: of the warp in the group's tile.
template <class S>
__device__ __forceinline__ void add_stage(WarpSums<S::kM, S::kN>& sums, const std::byte* stage, int32_t index, int32_t cols,
                                          int32_t row, int32_t column, int32_t lane) {
#pragma unroll
  for (int32_t k = 0; k < S::kStageCols / kMmaCols; ++k) {
    if (index * S::kStageCols + k * kMmaCols >= cols) break;
    uint32_t b[S::kN][2];
    load_all_b<S::kChunks, S::kN>(b, stage + S::kStageX, column, 2 * k, lane);
#pragma unroll
    for (int32_t m = 0; m < S::kM; ++m) {
      uint32_t a[4];
      load_a<S::kChunks>(a, stage, row + 16 * m, 2 * k, lane);
#pragma unroll
      for (int32_t n = 0; n < S::kN; ++n) mma_m16n8k16(sums[m][n], a, b[n], typename S::Type{});
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreadsMax) half_kernel(Product p) {
  auto* shared = dynamic_shared<std::byte>();
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarpThreads;
  const int32_t group = static_cast<int32_t>(threadIdx.x) / S::kGroupThreads;
  const int32_t thread = static_cast<int32_t>(threadIdx.x) % S::kGroupThreads;
  const int32_t warp = thread / kWarpThreads;
  const int32_t row = warp % S::kWarpsM * 16 * S::kM;
  const int32_t column = warp / S::kWarpsM * 8 * S::kN;
  const int32_t weight_row = static_cast<int32_t>(blockIdx.y) * S::kRows;
  const int32_t x_row = static_cast<int32_t>(blockIdx.x) * S::kCols;

  const int32_t segment_stages = p.segment_panels * (kPanelCols / S::kStageCols);
  const int32_t all_stages = (p.cols + S::kStageCols - 1) / S::kStageCols;
  const int32_t begin = S::kSplit ? group * segment_stages : 0;
  const int32_t end = S::kSplit ? min(begin + segment_stages, all_stages) : all_stages;
  std::byte* stages = shared + group * S::kGroupBytes;
  auto* totals = reinterpret_cast<float*>(shared + S::kGroupBytes) + thread;
  const auto load = [&](int32_t index) {
    if (index < end) load_stage<S>(p, weight_row, x_row, index, thread, stages + (index - begin) % S::kStages * S::kStageBytes);
    cp_async_commit();
  };

  WarpSums<S::kM, S::kN> sums = {};
  if constexpr (!S::kSplit) {
#pragma unroll
    for (int32_t i = 0; i < S::kSums; ++i) totals[i * S::kGroupThreads] = 0.0f;
  }
  const bool live = x_row + column < p.rows && weight_row + row < p.weight_rows;  // of the warp: others only help to load
#pragma unroll 1
  for (int32_t i = 0; i < S::kStages - 1; ++i) load(begin + i);
  for (int32_t index = begin; index < end; ++index) {
    cp_async_wait<S::kStages - 2>();
    group_barrier<S::kSplit>();  // stage `index` is there for all, and the one before it may be overwritten
    load(index + S::kStages - 1);
    if (!live) continue;
    add_stage<S>(sums, stages + (index - begin) % S::kStages * S::kStageBytes, index, p.cols, row, column, lane);
    if constexpr (!S::kSplit) {
      if ((index + 1) % segment_stages == 0 || index + 1 == end) add_segment<S::kM, S::kN>(sums, totals, S::kGroupThreads);
    }
  }
  if constexpr (S::kSplit) {
    finish_split<S::kN>(p, sums, reinterpret_cast<float*>(shared), group, weight_row, x_row, lane);
  } else {
    store_totals<S::kM, S::kN>(p, totals, S::kGroupThreads, weight_row + row, x_row + column, lane);
  }
}

template <class S>
void launch_half(cudaStream_t stream, const Product& p) {
  launch_shape<S>(half_kernel<S>, stream, p);
}

template <class Type>
void matmul_half_of(cudaStream_t stream, const Product& p, bool split) {
  if (split && p.rows <= 8) return launch_half<Shape<Type, 1, 1, 2, 1, 8, 2, true>>(stream, p);
  if (split) return launch_half<Shape<Type, 1, 1, 2, 2, 8, 2, true>>(stream, p);
  constexpr int32_t kWarpsM = kHalfTileRows / 64;
  if (p.rows <= 64) return launch_half<Shape<Type, kWarpsM, 2, 4, 4, 4, 3, false>>(stream, p);
  launch_half<Shape<Type, kWarpsM, 4, 4, 4, 4, 2, false>>(stream, p);
}

}  // namespace

void matmul_half(cudaStream_t stream, TensorType type, const Product& p, bool split) {
  if (type == TensorType::f16) return matmul_half_of<F16>(stream, p, split);
  matmul_half_of<Bf16>(stream, p, split);
}

}  // namespace penstock::cuda
