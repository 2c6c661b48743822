// What the tensor-core products share: rows of 16-byte chunks in shared memory that neither cp.async nor ldmatrix meets a bank
// conflict in, and where a lane's numbers are in them. Owns the swizzle, how segments of the int8 product become totals, and the
// launch of its shapes.
//
// A tile is [rows][kChunks * 16 bytes], chunk c of row r in place of chunk c ^ f(r): any 8 consecutive rows have a chunk in 8
// different groups of 4 banks, and so have the 8 chunks that 8 consecutive lanes write.
#pragma once

#include "ops/cuda/formats.h"
#include "ops/cuda/matmul.h"
#include "ops/cuda/platform.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda {

inline constexpr int32_t kWarpThreads = 32;
inline constexpr int32_t kChunkBytes = 16;

template <int32_t kChunks>
__device__ __forceinline__ int32_t swizzled(int32_t row, int32_t chunk) {
  static_assert(kChunks == 4 || kChunks == 8, "half or all of the banks");
  const int32_t mixed = chunk ^ ((kChunks == 8 ? row : row / 2) & (kChunks - 1));
  return (row * kChunks + mixed) * kChunkBytes;
}

// One chunk of a row on its way to shared memory. `width` is the bytes of a value; where rows do not begin at multiples of 16
// bytes (aligned: false) values are copied one by one, which the barrier after cp_async_wait covers as well. from: a row of
// `cols` values, `column` the chunk's first; what lies behind the row, and rows that are not `valid`, become zeros.
template <class Value>
__device__ __forceinline__ void copy_chunk(std::byte* to, const Value* from, int32_t column, int32_t cols, bool valid, bool aligned) {
  constexpr int32_t kValues = kChunkBytes / static_cast<int32_t>(sizeof(Value));
  if (aligned) {
    const bool present = valid && column < cols;
    cp_async_16(to, present ? from + column : from, present);
    return;
  }
  auto* values = reinterpret_cast<Value*>(to);
  for (int32_t i = 0; i < kValues; ++i) values[i] = valid && column + i < cols ? from[column + i] : Value{};
}

// The warps that fill a ring of stages meet: one warp of a split product, the whole thread block otherwise.
template <bool kSplit>
__device__ __forceinline__ void group_barrier() {
  if constexpr (kSplit) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

// What a warp computes: kM x kN fragments of 16 weight rows x 8 rows of x, as mma leaves them to its lanes.
template <int32_t kM, int32_t kN>
using WarpSums = float[kM][kN][4];

// Weight row and row of x of a lane's number e in fragment (m, n), from the warp's first.
__device__ __forceinline__ int32_t weight_row_of(int32_t m, int32_t e, int32_t lane) { return 16 * m + lane / 4 + 8 * (e / 2); }
__device__ __forceinline__ int32_t x_row_of(int32_t n, int32_t e, int32_t lane) { return 8 * n + 2 * (lane % 4) + e % 2; }

// A segment is done: its sums go to the thread's own totals, `stride` floats apart in shared memory, and begin again from 0.
// There are at most kSegmentsMax of these; as registers the totals would double what a thread needs.
template <int32_t kM, int32_t kN>
__device__ __forceinline__ void add_segment(WarpSums<kM, kN>& sums, float* totals, int32_t stride) {
#pragma unroll
  for (int32_t i = 0; i < kM * kN * 4; ++i) {
    float& sum = sums[i / 4 / kN][i / 4 % kN][i % 4];
    totals[i * stride] += sum;
    sum = 0.0f;
  }
}

// Totals to out. weight_row, x_row: the warp's first.
template <int32_t kM, int32_t kN>
__device__ __forceinline__ void store_totals(const Product& p, const float* totals, int32_t stride, int32_t weight_row,
                                             int32_t x_row, int32_t lane) {
#pragma unroll
  for (int32_t i = 0; i < kM * kN * 4; ++i) {
    const int32_t row = x_row + x_row_of(i / 4 % kN, i % 4, lane);
    const int32_t column = weight_row + weight_row_of(i / 4 / kN, i % 4, lane);
    if (row < p.rows && column < p.weight_rows) p.out[int64_t{row} * p.out_stride + column] = totals[i * stride];
  }
}

// Floats between rows of x in the partial sums of a split product, [segment][row of x][kPartialStride] in shared memory. 36 and
// not 32: the four rows that a warp writes at once are then in different banks.
inline constexpr int32_t kPartialStride = 36;

// The end of a split product: every warp's sums are a segment's of the same 32 weight rows and 8 * kN rows of x; out is their sum
// in order. `shared` is the whole block's, and what it held is done with.
template <int32_t kN>
__device__ __forceinline__ void finish_split(const Product& p, const WarpSums<2, kN>& sums, float* shared, int32_t segment,
                                             int32_t weight_row, int32_t x_row, int32_t lane) {
  constexpr int32_t kRows = 8 * kN;
  __syncthreads();
#pragma unroll
  for (int32_t i = 0; i < 8 * kN; ++i) {
    const int32_t m = i / 4 / kN, n = i / 4 % kN, e = i % 4;
    shared[(segment * kRows + x_row_of(n, e, lane)) * kPartialStride + weight_row_of(m, e, lane)] = sums[m][n][e];
  }
  __syncthreads();
  const auto threads = static_cast<int32_t>(blockDim.x);
  for (auto i = static_cast<int32_t>(threadIdx.x); i < kRows * kPanelRows; i += threads) {
    const int32_t n = i / kPanelRows, r = i % kPanelRows;
    float total = 0.0f;
    for (int32_t part = 0; part < threads / kWarpThreads; ++part) total += shared[(part * kRows + n) * kPartialStride + r];
    if (x_row + n < p.rows && weight_row + r < p.weight_rows) p.out[int64_t{x_row + n} * p.out_stride + weight_row + r] = total;
  }
}

// One thread block per kRows weight rows and kCols rows of x; a split shape has a group of threads per segment. `kernel` is that of
// the shape S, and waits for the previous one.
template <class S>
void launch_shape(void (*kernel)(Product), cudaStream_t stream, const Product& p) {
  static PerDevice allowed;
  allow_shared(allowed, kernel, S::shared_bytes(S::kGroupsMax));
  const int32_t groups = S::kSplit ? segments_of(p.cols) : 1;
  const LaunchShape shape{dim3(static_cast<uint32_t>(ceil_div(p.rows, S::kCols)),
                               static_cast<uint32_t>(ceil_div(p.weight_rows, S::kRows))),
                          dim3(static_cast<uint32_t>(groups * S::kGroupThreads)),
                          static_cast<size_t>(S::shared_bytes(groups)), stream};
  launch_early(p.rows, kernel, shape, p);
}

}  // namespace penstock::cuda
