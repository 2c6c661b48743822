// Quantised weights times rows of int8 activations on tensor cores (mma.sync s8), weights being the M side and activations the N
// side. Integer sums are exact, and what a block adds to the f32 sum is formats.cuh's accumulate_block in the order of formats.h,
// so the bits are those of matmul_dot.cu.
//
//   weights  [tiles][panels][planes][32 rows][16 bytes]   formats.h
//   x        [rows, cols] int8; d, s [rows, cols / 32] f32
//   out      [rows, out_stride] f32, columns [0, weight_rows)
// Two shapes of one kernel, a warp always computing 32 weight rows x 8 * kN rows of x:
//   wide   2 x 2 warps: 64 weight rows x 64 rows of x; walks all columns and adds up at the borders of segments. Grid:
//          (tiles of x, tiles of weights): neighbours share weights, and x stays in L2.
//   split  a warp per segment, each with its own ring of shared memory and no barrier with the others until the sums are added in
//          order: 32 weight rows x 8 or 16 rows of x, for grids that would leave processors idle otherwise.
// A stage is two blocks (64 columns) of weights and x; kStages are on their way (cp.async). What serves a whole panel (scales,
// fifth bits, d and s) travels with its first stage, in two buffers. Planes are copied as they are: word t of 8 rows is 128
// bytes in a line, and nibbles of word t are just the two registers of an m16n8k32 fragment.
// PRECOND: cols % 32 == 0.
// Bytes: per block of the grid, its weights once and its x once, from L2 or memory. Operations: 2 * rows * weight_rows * cols; an
// mma of 4096 multiply-adds costs 4 elements per lane times about 4 instructions of scaling, which bounds the wide shape.
// The swizzled ring is the common form of cp.async GEMMs (CUTLASS, Marlin); scaling per block of 32 inside the loop is ggml's mmq.
#include <algorithm>

#include "ops/cuda/formats.cuh"
#include "ops/cuda/matmul.h"
#include "ops/cuda/matmul_tile.cuh"
#include "ops/cuda/platform.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda {

namespace {

constexpr int32_t kStageBlocks = 2;
constexpr int32_t kPanelStages = kPanelBlocks / kStageBlocks;
constexpr int32_t kStageCols = kStageBlocks * kQuantBlock;
constexpr int32_t kStageChunks = kStageCols / kChunkBytes;
// Floats between rows of d or s in shared memory: 8 blocks, and 4 so that the rows that a warp reads at once differ in banks.
constexpr int32_t kScaleStride = kPanelBlocks + 4;
// What a thread block may have on every chip from sm_80 on (sm_86, 89 and 120: 99 KB).
constexpr int32_t kSharedMax = 99 * 1024;

// A shape, its shared memory per group of warps that walks columns together, and where things lie in it.
template <class Format_, int32_t kWarpsM_, int32_t kWarpsN_, int32_t kN_, bool kSplit_>
struct Shape {
  using Format = Format_;
  static constexpr bool kSplit = kSplit_;
  static constexpr int32_t kWarpsM = kWarpsM_;  // of a group
  static constexpr int32_t kWarpsN = kWarpsN_;
  static constexpr int32_t kN = kN_;  // fragments of 8 rows of x per warp
  static constexpr int32_t kGroupThreads = kWarpsM * kWarpsN * kWarpThreads;
  static constexpr int32_t kGroupsMax = kSplit ? kSegmentsMax : 1;
  static constexpr int32_t kThreadsMax = kGroupsMax * kGroupThreads;
  static constexpr int32_t kResidentBlocks = kSplit ? 2 : 3;  // of one SM: bounds a thread to 128 or 168 registers
  static constexpr int32_t kRows = kPanelRows * kWarpsM;  // of weights
  static constexpr int32_t kCols = 8 * kN * kWarpsN;      // rows of x

  // A stage: value planes of its blocks, Q6_K's plane of high pairs, x.
  static constexpr int32_t kValuePlanes = kStageBlocks * Format::layout.planes_per_block;
  static constexpr int32_t kStagePlanes = kValuePlanes + (Format::has_high_pairs ? 1 : 0);
  static constexpr int32_t kPlane = kRows * kPlaneRowBytes;
  static constexpr int32_t kStageX = kStagePlanes * kPlane;
  static constexpr int32_t kStageBytes = kStageX + kCols * kStageCols;
  // A header: planes of scales, minimums and fifth bits, Q6_K's d, then d and s of x.
  static constexpr int32_t kHeaderPlanes = Format::has_high_pairs ? 1 : Format::layout.values();
  static constexpr int32_t kSuperD = kHeaderPlanes * kPlane;
  static constexpr int32_t kHeaderX = kSuperD + (Format::layout.has_super_d ? 2 * kRows : 0);
  static constexpr int32_t kHeaderS = kHeaderX + 4 * kScaleStride * kCols;
  static constexpr int32_t kHeaderBytes = kHeaderS + 4 * kScaleStride * kCols;

  static constexpr int32_t group_bytes(int32_t stages) { return stages * kStageBytes + 2 * kHeaderBytes; }
  static constexpr int32_t stages_that_fit() {
    int32_t stages = kSplit ? 4 : 3;  // the last one's header may be the next panel's, not the one after
    while (stages > 2 && kGroupsMax * group_bytes(stages) > kSharedMax) --stages;
    return stages;
  }
  static constexpr int32_t kStages = stages_that_fit();
  static constexpr int32_t kGroupBytes = group_bytes(kStages);
  static constexpr int32_t kSums = 2 * kN * 4;  // per thread
  // Behind the rings: totals [kSums][threads]. In place of the rings, at the end of a split product: partial sums.
  static constexpr int32_t kTotalBytes = kSplit ? 0 : 4 * kSums * kGroupThreads;
  static constexpr int32_t kPartialBytes = kSplit ? 4 * kPartialStride * kCols : 0;
  static constexpr int32_t shared_bytes(int32_t groups) { return groups * std::max(kGroupBytes + kTotalBytes, kPartialBytes); }
  static_assert(shared_bytes(kGroupsMax) <= kSharedMax && kStages <= kPanelStages);
};

// Where a group is in the product.
struct Place {
  int32_t tile;    // first tile of 32 weight rows
  int32_t tiles;   // of the matrix
  int32_t column;  // first row of x
  int32_t blocks;  // of 32 columns
  int32_t panels;
};

// Weights and x of stage `index` (kPanelStages of them are a panel) to `stage`, and with a panel's first its header to `header`.
template <class S>
__device__ __forceinline__ void load_stage(const Product& p, const Place& at, int32_t index, int32_t thread, std::byte* stage,
                                           std::byte* header) {
  using Format = typename S::Format;
  const int32_t panel = index / kPanelStages;
  const int32_t part = index % kPanelStages;
  // Plane `plane` of the panel, all rows of the group's tile, as chunks of 16 bytes.
  const auto copy_plane_row = [&](std::byte* to, int32_t plane, int32_t row) {
    const int32_t tile = at.tile + row / kPanelRows;
    const int64_t offset = (int64_t{tile < at.tiles ? tile : 0} * at.panels + panel) * Format::layout.bytes() + plane * kPlaneBytes;
    cp_async_16(to, p.weights + offset + row % kPanelRows * kPlaneRowBytes, tile < at.tiles);
  };
  for (int32_t i = thread; i < S::kStagePlanes * S::kRows; i += S::kGroupThreads) {
    const int32_t plane = i / S::kRows;
    const int32_t from = plane < S::kValuePlanes ? Format::layout.values() + part * S::kValuePlanes + plane : Format::layout.high() + part;
    copy_plane_row(stage + i * kPlaneRowBytes, from, i % S::kRows);
  }
  for (int32_t i = thread; i < S::kCols * kStageChunks; i += S::kGroupThreads) {
    const int32_t n = i / kStageChunks;
    const bool live = at.column + n < p.rows;
    const int8_t* row = static_cast<const int8_t*>(p.x) + int64_t{live ? at.column + n : 0} * p.cols;
    copy_chunk(stage + S::kStageX + swizzled<kStageChunks>(n, i % kStageChunks), row,
               index * kStageCols + i % kStageChunks * kChunkBytes, p.cols, live, true);
  }
  if (part != 0) return;
  for (int32_t i = thread; i < S::kHeaderPlanes * S::kRows; i += S::kGroupThreads) {
    copy_plane_row(header + i * kPlaneRowBytes, i / S::kRows, i % S::kRows);
  }
  if constexpr (Format::layout.has_super_d) {
    constexpr int32_t kTileChunks = 2 * kPanelRows / kChunkBytes;
    for (int32_t i = thread; i < S::kWarpsM * kTileChunks; i += S::kGroupThreads) {
      const int32_t tile = at.tile + i / kTileChunks;
      const int64_t offset = (int64_t{tile < at.tiles ? tile : 0} * at.panels + panel) * Format::layout.bytes() +
                             Format::layout.planes() * kPlaneBytes + i % kTileChunks * kChunkBytes;
      cp_async_16(header + S::kSuperD + i * kChunkBytes, p.weights + offset, tile < at.tiles);
    }
  }
  constexpr int32_t kScaleChunks = 4 * kPanelBlocks / kChunkBytes;  // of a row of d
  for (int32_t i = thread; i < 2 * S::kCols * kScaleChunks; i += S::kGroupThreads) {
    const int32_t chunk = i % kScaleChunks;
    const int32_t n = i / kScaleChunks % S::kCols;
    const bool is_s = i >= S::kCols * kScaleChunks;
    const bool live = at.column + n < p.rows;
    const float* row = (is_s ? p.s : p.d) + int64_t{live ? at.column + n : 0} * at.blocks;
    std::byte* to = header + (is_s ? S::kHeaderS : S::kHeaderX) + 4 * n * kScaleStride + chunk * kChunkBytes;
    copy_chunk(to, row, panel * kPanelBlocks + chunk * 4, at.blocks, live, at.blocks % 4 == 0);
  }
}

// The A operand of block b of a stage: rows [row, row + 16) of the group's tile. upper_planes: where the fifth bits or high pairs
// of the block lie, per row.
template <class S>
__device__ __forceinline__ void load_weights(uint32_t (&a)[4], const std::byte* stage, const std::byte* upper_bits, int32_t row,
                                             int32_t b, int32_t lane) {
  using Format = typename S::Format;
  if constexpr (Format::is_bytes) {
    ldmatrix_x4(a, stage + (2 * b + lane / 16) * S::kPlane + (row + lane % 16) * kPlaneRowBytes);
  } else {
    const int32_t t = lane % 4;
#pragma unroll
    for (int32_t h = 0; h < 2; ++h) {
      const int32_t at = (row + lane / 4 + 8 * h) * kPlaneRowBytes;
      uint2 upper{0, 0};
      if constexpr (Format::has_fifth_bits) upper.x = *reinterpret_cast<const uint32_t*>(upper_bits + at);
      if constexpr (Format::has_high_pairs) upper = *reinterpret_cast<const uint2*>(upper_bits + at);
      const uint32_t nibbles = *reinterpret_cast<const uint32_t*>(stage + b * S::kPlane + at + 4 * t);
      unpack_nibbles<Format>(nibbles, upper, t, a[h], a[2 + h]);
    }
  }
}

// Adds the blocks of a stage, as far as there are any, to the sums of one warp. row, column: of the warp in the group's tile.
template <class S>
__device__ __forceinline__ void add_stage(WarpSums<2, S::kN>& sums, const std::byte* stage, const std::byte* header, int32_t index,
                                          int32_t blocks, int32_t row, int32_t column, int32_t lane) {
  using Format = typename S::Format;
  const int32_t part = index % kPanelStages;
  const int32_t g = lane / 4, t = lane % 4;
  const auto* d = reinterpret_cast<const float*>(header + S::kHeaderX);
  const auto* s = reinterpret_cast<const float*>(header + S::kHeaderS);
#pragma unroll 1  // the second block's operands in registers as well would halve the warps that fit
  for (int32_t b = 0; b < kStageBlocks; ++b) {
    if (index * kStageBlocks + b >= blocks) break;
    const int32_t slot = part * kStageBlocks + b;
    const std::byte* upper = nullptr;
    if constexpr (Format::has_fifth_bits) upper = header + (Format::layout.high() + slot / 4) * S::kPlane + slot % 4 * 4;
    if constexpr (Format::has_high_pairs) upper = stage + S::kValuePlanes * S::kPlane + b * 8;
    uint32_t a[2][4];
    BlockScale scale[2][2];
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
      load_weights<S>(a[m], stage, upper, row + 16 * m, b, lane);
#pragma unroll
      for (int32_t h = 0; h < 2; ++h) {
        const int32_t r = row + 16 * m + g + 8 * h;
        const auto* scales = reinterpret_cast<const uint32_t*>(header + r * kPlaneRowBytes);
        const auto* mins = reinterpret_cast<const uint32_t*>(header + Format::layout.mins() * S::kPlane + r * kPlaneRowBytes);
        float super_d = 0.0f;
        if constexpr (Format::layout.has_super_d) super_d = f16_value(reinterpret_cast<const uint16_t*>(header + S::kSuperD)[r]);
        scale[m][h] = block_scale<Format>(scales, mins, super_d, slot);
      }
    }
#pragma unroll
    for (int32_t n = 0; n < S::kN; ++n) {
      const int32_t at = (column + 8 * n + 2 * t) * kScaleStride + slot;
      const float d_of[2] = {d[at], d[at + kScaleStride]};
      const float s_of[2] = {s[at], s[at + kScaleStride]};
      uint32_t x[2];
      load_b<kStageChunks>(x, stage + S::kStageX, column + 8 * n, 2 * b, lane);
#pragma unroll
      for (int32_t m = 0; m < 2; ++m) {
        int32_t first[4] = {}, second[4] = {};
        if constexpr (Format::has_half_scales) {
          const uint32_t lower[2] = {a[m][0], a[m][1]}, higher[2] = {a[m][2], a[m][3]};
          mma_m16n8k16_s8(first, lower, x[0]);
          mma_m16n8k16_s8(second, higher, x[1]);
        } else {
          mma_m16n8k32_s8(first, a[m], x);
        }
#pragma unroll
        for (int32_t e = 0; e < 4; ++e) {
          sums[m][n][e] = accumulate_block<Format>(sums[m][n][e], scale[m][e / 2], first[e], second[e], d_of[e % 2], s_of[e % 2]);
        }
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreadsMax, S::kResidentBlocks) int8_kernel(Product p) {
  auto* shared = dynamic_shared<std::byte>();
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarpThreads;
  const int32_t group = static_cast<int32_t>(threadIdx.x) / S::kGroupThreads;
  const int32_t thread = static_cast<int32_t>(threadIdx.x) % S::kGroupThreads;
  const int32_t warp = thread / kWarpThreads;
  const int32_t row = warp % S::kWarpsM * kPanelRows;
  const int32_t column = warp / S::kWarpsM * 8 * S::kN;
  Place at;
  at.tile = static_cast<int32_t>(blockIdx.y) * S::kWarpsM;
  at.tiles = (p.weight_rows + kPanelRows - 1) / kPanelRows;
  at.column = static_cast<int32_t>(blockIdx.x) * S::kCols;
  at.blocks = p.cols / kQuantBlock;
  at.panels = (at.blocks + kPanelBlocks - 1) / kPanelBlocks;

  const int32_t segment_stages = p.segment_panels * kPanelStages;
  const int32_t all_stages = (at.blocks + kStageBlocks - 1) / kStageBlocks;
  const int32_t begin = S::kSplit ? group * segment_stages : 0;
  const int32_t end = S::kSplit ? min(begin + segment_stages, all_stages) : all_stages;
  std::byte* headers = shared + group * S::kGroupBytes;
  std::byte* stages = headers + 2 * S::kHeaderBytes;
  auto* totals = reinterpret_cast<float*>(shared + S::kGroupBytes) + thread;
  const auto load = [&](int32_t index) {
    if (index < end) {
      load_stage<S>(p, at, index, thread, stages + (index - begin) % S::kStages * S::kStageBytes,
                    headers + index / kPanelStages % 2 * S::kHeaderBytes);
    }
    cp_async_commit();
  };

  WarpSums<2, S::kN> sums = {};
  if constexpr (!S::kSplit) {
#pragma unroll
    for (int32_t i = 0; i < S::kSums; ++i) totals[i * S::kGroupThreads] = 0.0f;
  }
  const bool live = at.column + column < p.rows;  // of the warp: others only help to load
#pragma unroll 1
  for (int32_t i = 0; i < S::kStages - 1; ++i) load(begin + i);
  for (int32_t index = begin; index < end; ++index) {
    cp_async_wait<S::kStages - 2>();
    group_barrier<S::kSplit>();  // stage `index` is there for all, and the one before it may be overwritten
    load(index + S::kStages - 1);
    if (!live) continue;
    add_stage<S>(sums, stages + (index - begin) % S::kStages * S::kStageBytes, headers + index / kPanelStages % 2 * S::kHeaderBytes,
                 index, at.blocks, row, column, lane);
    if constexpr (!S::kSplit) {
      if ((index + 1) % segment_stages == 0 || index + 1 == end) add_segment<2, S::kN>(sums, totals, S::kGroupThreads);
    }
  }
  if constexpr (S::kSplit) {
    finish_split<S::kN>(p, sums, reinterpret_cast<float*>(shared), group, at.tile * kPanelRows, at.column, lane);
  } else {
    store_totals<2, S::kN>(p, totals, S::kGroupThreads, at.tile * kPanelRows + row, at.column + column, lane);
  }
}

template <class S>
void launch_int8(cudaStream_t stream, const Product& p) {
  launch_shape<S>(int8_kernel<S>, stream, p);
}

}  // namespace

void matmul_int8(cudaStream_t stream, TensorType type, const Product& p, bool split) {
  with_format(type, [&](auto format) {
    using Format = decltype(format);
    if (!split) return launch_int8<Shape<Format, kInt8TileRows / kPanelRows, 2, 4, false>>(stream, p);
    if (p.rows <= 8) return launch_int8<Shape<Format, 1, 1, 1, true>>(stream, p);
    launch_int8<Shape<Format, 1, 1, 2, true>>(stream, p);
  });
}

}  // namespace penstock::cuda
