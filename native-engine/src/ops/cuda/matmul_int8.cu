// Quantised weights times rows of int8 activations on tensor cores (mma.sync s8), weights being the M side and activations the N
// side. Integer sums are exact, and what a block adds to the f32 sum is formats.cuh's accumulate_block in the order of formats.h,
// so the bits are those of matmul_dot.cu.
//
//   weights  [tiles][panels][planes][32 rows][16 bytes]   formats.h
//   x        [rows, cols] int8; d, s [rows, cols / 32] f32
//   out      [rows, out_stride] f32, columns [0, weight_rows)
// Two shapes of one kernel, a warp always computing a tile of 32 weight rows x 8 * kN rows of x:
//   wide   4 x 2 warps (Q6_K: 4 x 4): 128 weight rows x 64 rows of x; walks all columns and adds up at the borders of segments. Grid:
//          (tiles of x, tiles of weights): neighbours share weights, and x stays in L2. A stage is four blocks (128 columns).
//   split  a warp per segment, each with its own ring of shared memory and no barrier with the others until the sums are added in
//          order: 32 weight rows x 8, 16 or 32 rows of x, for few rows, which are a matter of reading weights.
//          A stage is two blocks.
// A stage is weights, x, d and s of its blocks; kStages are on their way (cp.async). What serves a whole panel of weights (scales,
// minimums, fifth bits) travels with its first stage, in two buffers. A tile's planes of a stage lie in a line, in memory as in the
// stage, so a copy costs an addition; 8 rows of a plane are 128 bytes in a line, and nibbles of word t are just
// the two registers of an m16n8k32 fragment.
// PRECOND: cols % 32 == 0, rows <= quantised_rows_max(cols).
// Bytes: per block of the grid, its weights once and its x once, from L2 or memory. Operations: 2 * rows * weight_rows * cols. An
// mma of 4096 multiply-adds leaves 4 integers per lane, each of which costs 3 (Q8_0) to 6 more instructions: issuing them is what
// bounds the wide shape, at a quarter of what mma alone could do. Counted instructions per mma: 15 (Q8_0), 20 (Q4_0).
// The swizzled ring is the common form of cp.async GEMMs (CUTLASS, Marlin); scaling per block of 32 inside the loop is ggml's mmq;
// integers that are floats already by a large number in the accumulator are from FasterTransformer's dequantisation.
#include <algorithm>

#include "ops/cuda/formats.cuh"
#include "ops/cuda/matmul.h"
#include "ops/cuda/matmul_tile.cuh"
#include "ops/cuda/platform.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda {

namespace {

// What a thread block may have on every chip from sm_80 on (sm_86, 89 and 120: 99 KB).
constexpr int32_t kSharedMax = 99 * 1024;

// A shape, its shared memory per group of warps that walks columns together, and where things lie in it.
template <class Format_, int32_t kWarpsM_, int32_t kWarpsN_, int32_t kN_, int32_t kStageBlocks_, bool kSplit_>
struct Shape {
  using Format = Format_;
  static constexpr bool kSplit = kSplit_;
  static constexpr int32_t kStageBlocks = kStageBlocks_;
  static constexpr int32_t kPanelStages = kPanelBlocks / kStageBlocks;
  static constexpr int32_t kStageCols = kStageBlocks * kQuantBlock;
  static constexpr int32_t kStageChunks = kStageCols / kChunkBytes;
  static constexpr int32_t kScaleBytes = 4 * kStageBlocks;  // d, or s, of a row in a stage
  static constexpr int32_t kWarpsM = kWarpsM_;  // of a group, each with a tile of weights
  static constexpr int32_t kWarpsN = kWarpsN_;
  static constexpr int32_t kN = kN_;  // fragments of 8 rows of x per warp
  static constexpr int32_t kTileThreads = kWarpsN * kWarpThreads;
  static constexpr int32_t kGroupThreads = kWarpsM * kTileThreads;
  static constexpr int32_t kGroupsMax = kSplit ? kSegmentsMax : 1;
  static constexpr int32_t kThreadsMax = kGroupsMax * kGroupThreads;
  static constexpr int32_t kResidentBlocks = 512 / kThreadsMax;  // of one SM: bounds a thread to 128 registers
  static constexpr int32_t kRows = kPanelRows * kWarpsM;         // of weights
  static constexpr int32_t kCols = 8 * kN * kWarpsN;             // rows of x
  static constexpr bool kUsesS = Format::zero != 0 || Format::has_min;

  // A stage: per tile the value planes of its blocks and Q6_K's planes of high pairs; then x, swizzled; d and s [kCols][kStageBlocks].
  static constexpr int32_t kValueBytes = kStageBlocks * Format::layout.planes_per_block * kPlaneBytes;
  static constexpr int32_t kHighBytes = Format::has_high_pairs ? kStageBlocks / 2 * kPlaneBytes : 0;
  static constexpr int32_t kTileStage = kValueBytes + kHighBytes;
  static constexpr int32_t kStageX = kWarpsM * kTileStage;
  static constexpr int32_t kStageD = kStageX + kCols * kStageCols;
  static constexpr int32_t kStageS = kStageD + kCols * kScaleBytes;
  static constexpr int32_t kStageBytes = kStageS + (kUsesS ? kCols * kScaleBytes : 0);
  // A header: per tile the planes of scales, minimums and fifth bits, Q6_K's d.
  static constexpr int32_t kPlanesBytes = (Format::has_high_pairs ? 1 : Format::layout.values()) * kPlaneBytes;
  static constexpr int32_t kSuperBytes = Format::layout.has_super_d ? 2 * kPanelRows : 0;
  static constexpr int32_t kTileHeader = kPlanesBytes + kSuperBytes;
  static constexpr int32_t kHeaderBytes = kWarpsM * kTileHeader;

  static constexpr int32_t kSums = 2 * kN * 4;  // per thread
  // Behind the rings: totals [kSums][threads]. In place of the rings, at the end of a split product: partial sums.
  static constexpr int32_t kTotalBytes = kSplit ? 0 : 4 * kSums * kGroupThreads;
  static constexpr int32_t kPartialBytes = kSplit ? 4 * kPartialStride * kCols : 0;
  static constexpr int32_t group_bytes(int32_t stages) { return stages * kStageBytes + 2 * kHeaderBytes; }
  static constexpr int32_t shared_bytes(int32_t groups, int32_t stages) {
    return groups * std::max(group_bytes(stages) + kTotalBytes, kPartialBytes);
  }
  static constexpr int32_t stages_that_fit() {
    // The last one's header may be the next panel's, not the one after.
    int32_t stages = kSplit ? 4 : std::min(3, kPanelStages);
    while (stages > 2 && shared_bytes(kGroupsMax, stages) > kSharedMax) --stages;
    return stages;
  }
  static constexpr int32_t kStages = stages_that_fit();
  static constexpr int32_t kGroupBytes = group_bytes(kStages);
  static constexpr int32_t shared_bytes(int32_t groups) { return shared_bytes(groups, kStages); }
  static_assert(shared_bytes(kGroupsMax) <= kSharedMax && kStages <= kPanelStages);
  static_assert(kCols * kStageChunks % kGroupThreads == 0, "every thread copies as many chunks of x");
};

// What a thread copies, and where its warp is in the product.
struct Place {
  const std::byte* tile;  // the warp's, of panel 0
  int32_t tile_in_group;
  int32_t tile_thread;  // of those that share the tile
  int32_t column;       // the group's first row of x
  int32_t blocks;       // of 32 columns
  uint32_t x;           // where the thread's first chunk of x begins, of stage 0
};

// `kBytes` in a line, by the threads of a tile.
template <int32_t kThreads, int32_t kBytes>
__device__ __forceinline__ void copy_line(std::byte* to, const std::byte* from, int32_t thread) {
#pragma unroll
  for (int32_t i = 0; i < kBytes; i += kThreads * kChunkBytes) {
    const int32_t at = i + thread * kChunkBytes;
    if (kBytes % (kThreads * kChunkBytes) == 0 || at < kBytes) cp_async_16(to + at, from + at);
  }
}

// d or s of a row in a stage, whose numbers begin at a multiple of their bytes only where a row has a multiple of as many.
template <int32_t kCount>
__device__ __forceinline__ void copy_scales(std::byte* to, const float* row, int32_t block, int32_t blocks, bool live) {
  static_assert(kCount == 2 || kCount == 4, "8 or 16 bytes");
  if (blocks % kCount == 0) {
    const float* from = live ? row + block : row;
    if constexpr (kCount == 4) {
      cp_async_16(to, from, live);
    } else {
      cp_async_8(to, from, live);
    }
    return;
  }
#pragma unroll
  for (int32_t i = 0; i < kCount; ++i) {
    const bool there = live && block + i < blocks;
    cp_async_4(to + 4 * i, there ? row + block + i : row, there);
  }
}

// Weights, x, d and s of stage `index` (kPanelStages of them are a panel) to `stage`, and with a panel's first its header to
// `header`. Rows of x that are not there become zeros.
template <class S>
__device__ __forceinline__ void load_stage(const Product& p, const Place& at, int32_t index, int32_t thread, std::byte* stage,
                                           std::byte* header) {
  using Format = typename S::Format;
  const int32_t part = index % S::kPanelStages;
  const std::byte* panel = at.tile + index / S::kPanelStages * Format::layout.bytes();
  std::byte* tile = stage + at.tile_in_group * S::kTileStage;
  copy_line<S::kTileThreads, S::kValueBytes>(tile, panel + Format::layout.values() * kPlaneBytes + part * S::kValueBytes,
                                             at.tile_thread);
  if constexpr (Format::has_high_pairs) {
    copy_line<S::kTileThreads, S::kHighBytes>(tile + S::kValueBytes, panel + Format::layout.high() * kPlaneBytes + part * S::kHighBytes,
                                              at.tile_thread);
  }
  constexpr int32_t kRowsAtOnce = S::kGroupThreads / S::kStageChunks;
  const int32_t chunk = thread % S::kStageChunks;
  const int32_t column = index * S::kStageCols + chunk * kChunkBytes;
  const auto* x = static_cast<const int8_t*>(p.x);
#pragma unroll
  for (int32_t first = 0; first < S::kCols; first += kRowsAtOnce) {
    const int32_t n = first + thread / S::kStageChunks;
    const bool live = at.column + n < p.rows && column < p.cols;
    const uint32_t from = at.x + static_cast<uint32_t>(first * p.cols + index * S::kStageCols);
    cp_async_16(stage + S::kStageX + swizzled<S::kStageChunks>(n, chunk), x + (live ? from : 0), live);
  }
#pragma unroll
  for (int32_t first = 0; first < (S::kUsesS ? 2 : 1) * S::kCols; first += S::kGroupThreads) {
    const int32_t i = first + thread;
    if (i >= (S::kUsesS ? 2 : 1) * S::kCols) break;
    const int32_t n = i % S::kCols;
    const bool live = at.column + n < p.rows;
    copy_scales<S::kStageBlocks>(
        stage + S::kStageD + i * S::kScaleBytes,
        (i < S::kCols ? p.d : p.s) + static_cast<uint32_t>((live ? at.column + n : 0) * at.blocks), index * S::kStageBlocks,
        at.blocks, live);
  }
  if (part != 0) return;
  std::byte* to = header + at.tile_in_group * S::kTileHeader;
  copy_line<S::kTileThreads, S::kPlanesBytes>(to, panel, at.tile_thread);
  if constexpr (S::kSuperBytes > 0) {
    copy_line<S::kTileThreads, S::kSuperBytes>(to + S::kPlanesBytes, panel + Format::layout.planes() * kPlaneBytes, at.tile_thread);
  }
}

// The A operand of a stage's block b: rows [row, row + 16) of a tile. slot: of the block in its panel.
template <class S>
__device__ __forceinline__ void load_weights(uint32_t (&a)[4], const std::byte* tile, const std::byte* header, int32_t row,
                                             int32_t b, int32_t slot, int32_t lane) {
  using Format = typename S::Format;
  if constexpr (Format::is_bytes) {
    ldmatrix_x4(a, tile + (2 * b + lane / 16) * kPlaneBytes + (row + lane % 16) * kPlaneRowBytes);
  } else {
    const int32_t t = lane % 4;
#pragma unroll
    for (int32_t h = 0; h < 2; ++h) {
      const int32_t at = (row + lane / 4 + 8 * h) * kPlaneRowBytes;
      uint2 upper{0, 0};
      if constexpr (Format::has_fifth_bits) {
        upper.x = *reinterpret_cast<const uint32_t*>(header + (Format::layout.high() + slot / 4) * kPlaneBytes + at + slot % 4 * 4);
      }
      if constexpr (Format::has_high_pairs) {
        upper = *reinterpret_cast<const uint2*>(tile + S::kValueBytes + b / 2 * kPlaneBytes + at + b % 2 * 8);
      }
      const uint32_t nibbles = *reinterpret_cast<const uint32_t*>(tile + b * kPlaneBytes + at + 4 * t);
      unpack_nibbles<Format>(nibbles, upper, t, a[h], a[2 + h]);
    }
  }
}

// Integers below 2^22 behind 1.5 * 2^23 are the last bits of a float, so that one subtraction makes a float of each, where
// conversions are issued at a quarter of the rate or half of it.
constexpr int32_t kShift = 0x4B400000;
constexpr float kShiftValue = 12582912.0f;

// What a block comes to. scale: of the lane's two weight rows; shift: four times kShift, in registers.
template <class Format>
__device__ __forceinline__ void multiply_block(const uint32_t (&a)[4], uint32_t x0, uint32_t x1, const BlockScale (&scale)[2],
                                               const int32_t (&shift)[4], float (&totals)[4]) {
  int32_t sums[4];
  if constexpr (Format::has_half_scales) {
    const uint32_t lower[2] = {a[0], a[1]}, higher[2] = {a[2], a[3]};
    float first[4];
    mma_m16n8k16_s8(sums, lower, x0, shift);
#pragma unroll
    for (int32_t e = 0; e < 4; ++e) first[e] = __int_as_float(sums[e]) - kShiftValue;
    mma_m16n8k16_s8(sums, higher, x1, shift);
#pragma unroll
    for (int32_t e = 0; e < 4; ++e) totals[e] = block_total<Format>(scale[e / 2], first[e], __int_as_float(sums[e]) - kShiftValue);
  } else {
    const uint32_t x[2] = {x0, x1};
    mma_m16n8k32_s8(sums, a, x, shift);
#pragma unroll
    for (int32_t e = 0; e < 4; ++e) totals[e] = block_total<Format>(scale[e / 2], __int_as_float(sums[e]) - kShiftValue, 0.0f);
  }
}

// Adds the first `blocks` of a stage to the sums of one warp. tile, header: of its weights; slot: of the first in its panel; column:
// the warp's first row of x in the group.
template <class S>
__device__ __forceinline__ void add_stage(WarpSums<2, S::kN>& sums, const std::byte* stage, const std::byte* tile,
                                          const std::byte* header, int32_t slot, int32_t blocks, int32_t column, int32_t lane,
                                          const int32_t (&shift)[4]) {
  using Format = typename S::Format;
  const int32_t g = lane / 4, t = lane % 4;
#pragma unroll 1  // more blocks' operands in registers as well would halve the warps that fit
  for (int32_t b = 0; b < blocks; ++b) {
    uint32_t a[2][4];
    BlockScale scale[2][2];
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
      load_weights<S>(a[m], tile, header, 16 * m, b, slot + b, lane);
#pragma unroll
      for (int32_t h = 0; h < 2; ++h) {
        const int32_t r = 16 * m + g + 8 * h;
        const auto* scales = reinterpret_cast<const uint32_t*>(header + r * kPlaneRowBytes);
        const auto* mins = reinterpret_cast<const uint32_t*>(header + Format::layout.mins() * kPlaneBytes + r * kPlaneRowBytes);
        float super_d = 0.0f;
        if constexpr (Format::layout.has_super_d) super_d = f16_value(reinterpret_cast<const uint16_t*>(header + S::kPlanesBytes)[r]);
        scale[m][h] = product_scale<Format>(scales, mins, super_d, slot + b);
      }
    }
    // Eight rows further, the swizzle is the same.
    const std::byte* rows = stage + S::kStageX + swizzled<S::kStageChunks>(column + lane % 8, 2 * b + lane / 8 % 2);
    const auto* d = reinterpret_cast<const float*>(stage + S::kStageD) + (column + 2 * t) * S::kStageBlocks + b;
    const auto* s = d + S::kCols * S::kStageBlocks;
#pragma unroll
    for (int32_t n = 0; n < S::kN; ++n) {
      const int32_t at = 8 * n * S::kStageBlocks;
      const float d_of[2] = {d[at], d[at + S::kStageBlocks]};
      const float s_of[2] = {S::kUsesS ? s[at] : 0.0f, S::kUsesS ? s[at + S::kStageBlocks] : 0.0f};
      uint32_t x[2];
      ldmatrix_x2(x, rows + 8 * n * S::kStageCols);
#pragma unroll
      for (int32_t m = 0; m < 2; ++m) {
        float totals[4];
        multiply_block<Format>(a[m], x[0], x[1], scale[m], shift, totals);
#pragma unroll
        for (int32_t e = 0; e < 4; ++e) {
          sums[m][n][e] = accumulate_block<Format>(sums[m][n][e], scale[m][e / 2], totals[e], d_of[e % 2], s_of[e % 2]);
        }
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreadsMax, S::kResidentBlocks) int8_kernel(Product p) {
  using Format = typename S::Format;
  auto* shared = dynamic_shared<std::byte>();
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarpThreads;
  const int32_t group = static_cast<int32_t>(threadIdx.x) / S::kGroupThreads;
  const int32_t thread = static_cast<int32_t>(threadIdx.x) % S::kGroupThreads;
  const int32_t warp = thread / kWarpThreads;
  const int32_t column = warp / S::kWarpsM * 8 * S::kN;
  const int32_t tile = static_cast<int32_t>(blockIdx.y) * S::kWarpsM + warp % S::kWarpsM;
  const int32_t tiles = (p.weight_rows + kPanelRows - 1) / kPanelRows;
  Place at;
  at.tile_in_group = warp % S::kWarpsM;
  at.tile_thread = warp / S::kWarpsM * kWarpThreads + lane;
  at.column = static_cast<int32_t>(blockIdx.x) * S::kCols;
  at.blocks = p.cols / kQuantBlock;
  at.x = static_cast<uint32_t>((at.column + thread / S::kStageChunks) * p.cols + thread % S::kStageChunks * kChunkBytes);
  const int32_t panels = (at.blocks + kPanelBlocks - 1) / kPanelBlocks;
  // Of the last tile again where there are no more: what comes of it is not stored.
  at.tile = p.weights + int64_t{min(tile, tiles - 1)} * panels * Format::layout.bytes();

  const int32_t segment_stages = p.segment_panels * S::kPanelStages;
  const int32_t all_stages = (at.blocks + S::kStageBlocks - 1) / S::kStageBlocks;
  const int32_t begin = S::kSplit ? group * segment_stages : 0;
  const int32_t end = S::kSplit ? min(begin + segment_stages, all_stages) : all_stages;
  std::byte* headers = shared + group * S::kGroupBytes;
  std::byte* stages = headers + 2 * S::kHeaderBytes;
  auto* totals = reinterpret_cast<float*>(shared + S::kGroupBytes) + thread;
  wait_for_previous();
  const auto load = [&](int32_t index) {
    if (index < end) {
      load_stage<S>(p, at, index, thread, stages + (index - begin) % S::kStages * S::kStageBytes,
                    headers + index / S::kPanelStages % 2 * S::kHeaderBytes);
    }
    cp_async_commit();
  };

  WarpSums<2, S::kN> sums = {};
  if constexpr (!S::kSplit) {
#pragma unroll
    for (int32_t i = 0; i < S::kSums; ++i) totals[i * S::kGroupThreads] = 0.0f;
  }
  int32_t shift[4];
#pragma unroll
  for (int32_t& each : shift) each = kept_register(kShift);
  const bool live = at.column + column < p.rows;  // of the warp: others only help to load
#pragma unroll 1
  for (int32_t i = 0; i < S::kStages - 1; ++i) load(begin + i);
#pragma unroll 1
  for (int32_t index = begin; index < end; ++index) {
    cp_async_wait<S::kStages - 2>();
    group_barrier<S::kSplit>();  // stage `index` is there for all, and the one before it may be overwritten
    load(index + S::kStages - 1);
    if (!live) continue;
    const std::byte* stage = stages + (index - begin) % S::kStages * S::kStageBytes;
    const std::byte* tile_stage = stage + at.tile_in_group * S::kTileStage;
    const std::byte* header = headers + index / S::kPanelStages % 2 * S::kHeaderBytes + at.tile_in_group * S::kTileHeader;
    const int32_t slot = index % S::kPanelStages * S::kStageBlocks;
    add_stage<S>(sums, stage, tile_stage, header, slot, min(S::kStageBlocks, at.blocks - index * S::kStageBlocks), column, lane, shift);
    if constexpr (!S::kSplit) {
      if ((index + 1) % segment_stages == 0 || index + 1 == end) add_segment<2, S::kN>(sums, totals, S::kGroupThreads);
    }
  }
  if constexpr (S::kSplit) {
    finish_split<S::kN>(p, sums, reinterpret_cast<float*>(shared), group, tile * kPanelRows, at.column, lane);
  } else {
    store_totals<2, S::kN>(p, totals, S::kGroupThreads, tile * kPanelRows, at.column + column, lane);
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
    // Two scales per block take the registers of two more fragments.
    constexpr int32_t kN = Format::has_half_scales ? 2 : 4;
    if (!split) return launch_int8<Shape<Format, kInt8TileRows / kPanelRows, kInt8TileCols / 8 / kN, kN, 4, false>>(stream, p);
    if (p.rows <= 8) return launch_int8<Shape<Format, 1, 1, 1, 2, true>>(stream, p);
    if (p.rows <= 16) return launch_int8<Shape<Format, 1, 1, 2, 2, true>>(stream, p);
    launch_int8<Shape<Format, 1, 1, kN, 2, true>>(stream, p);
  });
}

}  // namespace penstock::cuda
