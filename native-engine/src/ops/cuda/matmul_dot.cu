// Quantised weights times up to 8 rows of activations with integer dot products. Memory bound: reads each weight once per 4 rows.
//
//   weights  [tiles][panels][planes][32 rows][16 bytes]   formats.h
//   x        [rows, cols] int8; d, s [rows, cols / 32] f32
//   out      [rows, out_stride] f32, columns [0, weight_rows)
// Grid: (tiles of 32 weight rows, up to 4 rows of x); in a thread block a warp per segment of the columns. A lane is a weight
// row: its sums need no other lane, weights are read 16 bytes per lane and 512 per warp, and a warp's activations are a
// broadcast from shared memory.
// Half a panel (128 columns) of weights, in registers, and the next panel's activations are on their way while one is computed.
// PRECOND: cols % 32 == 0, blockDim = 32 * segments.
// Bytes: weight_rows * row_bytes + rows * (cols * 1.25 per tile, from L2) + 4 * rows * weight_rows. Operations:
// 2 * rows * weight_rows * cols, 8 dp4a and about 5 more instructions per row, lane and block. Oracle: reference.cc, in segments.
// The idea of int8 activations and dp4a against repacked weights is ggml's mmvq.cu; a lane per row is the CPU kernels' layout.
#include "ops/cuda/formats.cuh"
#include "ops/cuda/matmul.h"
#include "ops/cuda/matmul_tile.cuh"
#include "ops/cuda/platform.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda {

namespace {

constexpr int32_t kHalfBlocks = kPanelBlocks / 2;
constexpr int32_t kPanelChunks = kPanelCols / 16;  // of a row of activations
// Of one SM: bounds a thread to 128 registers. Two are 16 warps with half a panel each on the way.
constexpr int32_t kResidentBlocks = 2;

__device__ __forceinline__ int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
}

// One row of half a panel.
template <class Format>
struct HalfPanel {
  static constexpr int32_t kValues = kHalfBlocks * Format::layout.planes_per_block;
  static constexpr int32_t kHigh = Format::layout.high_planes / 2;

  uint4 values[kValues];
  uint4 high[kHigh > 0 ? kHigh : 1];

  // row: the lane's 16 bytes of the panel's first plane.
  __device__ __forceinline__ void load(const std::byte* row, int32_t half) {
#pragma unroll
    for (int32_t i = 0; i < kValues; ++i) {
      values[i] = __ldg(reinterpret_cast<const uint4*>(row + (Format::layout.values() + half * kValues + i) * kPlaneBytes));
    }
#pragma unroll
    for (int32_t i = 0; i < kHigh; ++i) {
      high[i] = __ldg(reinterpret_cast<const uint4*>(row + (Format::layout.high() + half * kHigh + i) * kPlaneBytes));
    }
  }

  // Block b of the half, as eight words of four int8: columns 0..15, then 16..31.
  __device__ __forceinline__ void unpack(int32_t b, uint32_t (&words)[8]) const {
    if constexpr (Format::is_bytes) {
      const uint4 first = values[2 * b], second = values[2 * b + 1];
      words[0] = first.x, words[1] = first.y, words[2] = first.z, words[3] = first.w;
      words[4] = second.x, words[5] = second.y, words[6] = second.z, words[7] = second.w;
    } else {
      uint2 upper{0, 0};
      if constexpr (Format::has_fifth_bits) upper.x = b == 0 ? high[0].x : b == 1 ? high[0].y : b == 2 ? high[0].z : high[0].w;
      if constexpr (Format::has_high_pairs) {
        upper = b % 2 == 0 ? uint2{high[b / 2].x, high[b / 2].y} : uint2{high[b / 2].z, high[b / 2].w};
      }
      unpack_nibbles<Format>(values[b].x, upper, 0, words[0], words[4]);
      unpack_nibbles<Format>(values[b].y, upper, 1, words[1], words[5]);
      unpack_nibbles<Format>(values[b].z, upper, 2, words[2], words[6]);
      unpack_nibbles<Format>(values[b].w, upper, 3, words[3], words[7]);
    }
  }
};

// The scales of one row of a panel, as they are; a half's blocks are always those of `words` that block_scale finds for 0..3.
template <class Format>
struct PanelHeader {
  uint4 scales;
  uint4 mins;
  uint16_t super_d;

  __device__ __forceinline__ void load(const std::byte* panel, int32_t r) {
    const std::byte* row = panel + r * kPlaneRowBytes;
    scales = __ldg(reinterpret_cast<const uint4*>(row));
    mins = uint4{0, 0, 0, 0};
    super_d = 0;
    if constexpr (Format::layout.min_planes > 0) {
      mins = __ldg(reinterpret_cast<const uint4*>(row + Format::layout.mins() * kPlaneBytes));
    }
    if constexpr (Format::layout.has_super_d) {
      super_d = __ldg(reinterpret_cast<const uint16_t*>(panel + Format::layout.planes() * kPlaneBytes) + r);
    }
  }

  // The second half's scales take the place of the first's, so that no index depends on the half and all stay registers.
  __device__ __forceinline__ void advance() {
    if constexpr (Format::has_levels) {
      scales.y = scales.z;
      scales.w >>= 16;
    } else {
      scales.x = scales.z, scales.y = scales.w;
      mins.x = mins.z, mins.y = mins.w;
    }
  }

  __device__ __forceinline__ BlockScale scale(int32_t b) const {
    const uint32_t scale_words[4] = {scales.x, scales.y, scales.z, scales.w};
    const uint32_t min_words[4] = {mins.x, mins.y, mins.z, mins.w};
    return product_scale<Format>(scale_words, min_words, f16_value(super_d), b);
  }
};

// A panel's columns of a few rows of activations in shared memory, of one warp.
template <int32_t kRows>
struct PanelInputs {
  uint4 values[kRows][kPanelChunks];
  float d[kRows][kPanelBlocks];
  float s[kRows][kPanelBlocks];
};

// Columns of panel `panel` of rows [first, first + kRows), on their way by cp.async; of rows and columns that are not there: zeros.
template <int32_t kRows>
__device__ __forceinline__ void load_inputs(const Product& p, int32_t first, int32_t panel, int32_t lane, PanelInputs<kRows>& to) {
  const auto* x = static_cast<const int8_t*>(p.x);
  for (int32_t i = lane; i < kRows * kPanelChunks; i += kWarpThreads) {
    const int32_t n = i / kPanelChunks;
    const bool live = first + n < p.rows;
    copy_chunk(reinterpret_cast<std::byte*>(&to.values[n][i % kPanelChunks]), x + int64_t{live ? first + n : 0} * p.cols,
               panel * kPanelCols + i % kPanelChunks * kChunkBytes, p.cols, live, true);
  }
  const int32_t blocks = p.cols / kQuantBlock;
  constexpr int32_t kFours = kPanelBlocks / 4;
  for (int32_t i = lane; i < 2 * kRows * kFours; i += kWarpThreads) {
    const bool is_s = i >= kRows * kFours;
    const int32_t n = i / kFours % kRows;
    const bool live = first + n < p.rows;
    copy_chunk(reinterpret_cast<std::byte*>((is_s ? to.s[n] : to.d[n]) + i % kFours * 4),
               (is_s ? p.s : p.d) + int64_t{live ? first + n : 0} * blocks, panel * kPanelBlocks + i % kFours * 4, blocks, live,
               blocks % 4 == 0);
  }
  cp_async_commit();
}

template <class Format, int32_t kRows>
__global__ void __launch_bounds__(kWarpThreads* kSegmentsMax, kResidentBlocks) dot_kernel(Product p) {
  PENSTOCK_SHARED(PanelInputs<kRows>, inputs, [kSegmentsMax][2]);
  PENSTOCK_SHARED(float, partials, [kSegmentsMax][kRows][kPanelRows]);

  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarpThreads;
  const auto segment = static_cast<int32_t>(threadIdx.x) / kWarpThreads;
  const auto tile = static_cast<int32_t>(blockIdx.x);
  const auto first = static_cast<int32_t>(blockIdx.y) * kRows;
  const int32_t blocks = p.cols / kQuantBlock;
  const int32_t panels = (blocks + kPanelBlocks - 1) / kPanelBlocks;
  const int32_t begin = segment * p.segment_panels;
  const int32_t end = min(begin + p.segment_panels, panels);
  const std::byte* panel = p.weights + (int64_t{tile} * panels + begin) * Format::layout.bytes();

  float sums[kRows] = {};
  PanelHeader<Format> header = {}, next_header;
  HalfPanel<Format> next;
  next_header.load(panel, lane);
  next.load(panel + lane * kPlaneRowBytes, 0);
  wait_for_previous();  // for x
  load_inputs<kRows>(p, first, begin, lane, inputs[segment][begin % 2]);
#pragma unroll 1
  for (int32_t half = 2 * begin; half < 2 * end; ++half) {
    const HalfPanel<Format> weights = next;
    if (half % 2 == 0) {
      header = next_header;
      cp_async_wait<0>();
      __syncwarp();  // all lanes' copies are there, and all are done with the panel before
      next.load(panel + lane * kPlaneRowBytes, 1);
    } else {
      header.advance();
      panel += Format::layout.bytes();
      if (half + 1 < 2 * end) {
        next_header.load(panel, lane);
        next.load(panel + lane * kPlaneRowBytes, 0);
        load_inputs<kRows>(p, first, (half + 1) / 2, lane, inputs[segment][(half + 1) / 2 % 2]);
      }
    }
    const PanelInputs<kRows>& x = inputs[segment][half / 2 % 2];
#pragma unroll
    for (int32_t b = 0; b < kHalfBlocks; ++b) {
      if (half * kHalfBlocks + b >= blocks) break;
      const int32_t slot = half % 2 * kHalfBlocks + b;
      uint32_t words[8];
      weights.unpack(b, words);
      const BlockScale scale = header.scale(b);
#pragma unroll
      for (int32_t n = 0; n < kRows; ++n) {
        if constexpr (kRows > (Format::is_bytes ? 1 : 2)) {
          if (n % 2 == 0) __syncwarp();  // or the compiler loads all rows of all blocks first, and spills
        }
        const uint4 x0 = x.values[n][2 * slot], x1 = x.values[n][2 * slot + 1];
        int32_t lower = dot4(words[3], x0.w, dot4(words[2], x0.z, dot4(words[1], x0.y, dot4(words[0], x0.x, 0))));
        int32_t upper = Format::has_half_scales ? 0 : lower;
        upper = dot4(words[7], x1.w, dot4(words[6], x1.z, dot4(words[5], x1.y, dot4(words[4], x1.x, upper))));
        if constexpr (!Format::has_half_scales) lower = upper;
        const float total = block_total<Format>(scale, static_cast<float>(lower), static_cast<float>(upper));
        sums[n] = accumulate_block<Format>(sums[n], scale, total, x.d[n][slot], x.s[n][slot]);
      }
    }
  }

#pragma unroll
  for (int32_t n = 0; n < kRows; ++n) partials[segment][n][lane] = sums[n];
  __syncthreads();
  const auto threads = static_cast<int32_t>(blockDim.x);
  for (auto i = static_cast<int32_t>(threadIdx.x); i < kRows * kPanelRows; i += threads) {
    const int32_t n = i / kPanelRows;
    const int32_t row = tile * kPanelRows + i % kPanelRows;
    float total = 0.0f;
    for (int32_t part = 0; part < threads / kWarpThreads; ++part) total += partials[part][n][i % kPanelRows];
    if (first + n < p.rows && row < p.weight_rows) p.out[int64_t{first + n} * p.out_stride + row] = total;
  }
}

template <class Format, int32_t kRows>
void launch_dot(cudaStream_t stream, const Product& p) {
  const LaunchShape shape{dim3(static_cast<uint32_t>(ceil_div(p.weight_rows, kPanelRows)),
                               static_cast<uint32_t>(ceil_div(p.rows, kRows))),
                          dim3(static_cast<uint32_t>(kWarpThreads * segments_of(p.cols))), 0, stream};
  launch_early(p.rows, dot_kernel<Format, kRows>, shape, p);
}

}  // namespace

void matmul_dot(cudaStream_t stream, TensorType type, const Product& p) {
  with_format(type, [&](auto format) {
    using Format = decltype(format);
    if (p.rows == 1) return launch_dot<Format, 1>(stream, p);
    if (p.rows == 2) return launch_dot<Format, 2>(stream, p);
    launch_dot<Format, 4>(stream, p);
  });
}

}  // namespace penstock::cuda
