// Products of f16 and bf16 on tensor cores (mma.sync m16n8k16, f32 sums), weights being the M side and activations the N side: the
// two kernels, as templates of the tile. Which tile multiplies what is matmul_half.cu.
//
// An element's sum is the same chain of mma over its segments whatever the tile, so its bits do not depend on the batch. (An mma's
// element depends on its own row of A, column of B and sum alone.)
//   split  a warp per segment, each with its own ring of shared memory and no barrier with the others until the sums are added in
//          order. Memory bound; all stages are on their way but the one that is read.
//   wide   a thread block walks all columns. Fragments are read one step of 16 columns ahead of their products, across the ends of
//          stages, and a stage is copied between the products of another: within a stage nothing branches and only its end waits.
//          Sums of finished segments are kept in registers, and where those do not suffice in shared memory that only their own
//          thread reads.
// A stage is kChunks * 8 columns of both operands, copied by cp.async, read by ldmatrix without bank conflicts (matmul_tile.cuh).
// The form is that of cp.async GEMMs of the sm_80 generation (CUTLASS, Marlin).
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "ops/cuda/formats.h"
#include "ops/cuda/matmul.h"
#include "ops/cuda/matmul_tile.cuh"
#include "ops/cuda/platform.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda {

inline constexpr int32_t kMmaCols = 16;  // columns of one mma
inline constexpr int32_t kChunkCols = 8;

// A tile of weights and rows of x, computed by a group of kWarpsM x kWarpsN warps of kM x kN fragments each (16 weight rows x 8 rows
// of x), and the ring of stages that they read.
template <class Type_, int32_t kWarpsM_, int32_t kWarpsN_, int32_t kM_, int32_t kN_, int32_t kChunks_, int32_t kStages_>
struct Tile {
  using Type = Type_;  // F16 or Bf16, as mma wants them told apart
  static constexpr int32_t kWarpsM = kWarpsM_;
  static constexpr int32_t kM = kM_;
  static constexpr int32_t kN = kN_;
  static constexpr int32_t kChunks = kChunks_;
  static constexpr int32_t kStages = kStages_;
  static constexpr int32_t kGroupThreads = kWarpsM * kWarpsN_ * kWarpThreads;
  static constexpr int32_t kRows = 16 * kM * kWarpsM_;  // of weights
  static constexpr int32_t kCols = 8 * kN * kWarpsN_;   // rows of x
  static constexpr int32_t kStageCols = kChunks * kChunkCols;
  static constexpr int32_t kSteps = kStageCols / kMmaCols;  // of a stage
  static constexpr int32_t kRowBytes = kChunks * kChunkBytes;
  static constexpr int32_t kStageX = kRows * kRowBytes;
  static constexpr int32_t kStageBytes = kStageX + kCols * kRowBytes;
  static constexpr int32_t kRingBytes = kStages * kStageBytes;
  // Rows that the group copies at once.
  static constexpr int32_t kCopyRows = kGroupThreads / kChunks;
  static_assert(kRows % kCopyRows == 0 && kCols % kCopyRows == 0, "every thread copies as much as every other");
  static_assert(kCopyRows % 8 == 0 || (kCopyRows == 4 && kChunks == 8), "see Feed");
  static_assert(kPanelCols % kStageCols == 0 && kStageCols % kMmaCols == 0, "segments end with stages");
};

// kKept of kM rows of fragments have their totals in registers. kAnyCols: rows may begin anywhere.
template <class Tile_, int32_t kKept_>
struct Wide : Tile_ {
  static constexpr int32_t kKept = kKept_;
  static constexpr bool kAnyCols = false;
  static constexpr int32_t kGroups = 1;
  // Behind the ring: totals [(kM - kKept) * kN][threads][4].
  static constexpr int32_t shared_bytes(int32_t) {
    return Tile_::kRingBytes + (Tile_::kM - kKept) * Tile_::kN * Tile_::kGroupThreads * 16;
  }
};

template <class Tile_>
struct Split : Tile_ {
  static constexpr bool kAnyCols = true;
  static constexpr int32_t kGroups = kSegmentsMax;
  // In place of the rings, at the end: partial sums [segment][row of x][kPartialRow]. The four rows of x that a warp writes at once
  // are in different banks.
  static constexpr int32_t kPartialRow = Tile_::kRows + 4;
  static constexpr int32_t shared_bytes(int32_t groups) {
    return groups * std::max(Tile_::kRingBytes, Tile_::kCols * kPartialRow * 4);
  }
};

// What a thread copies of every stage: its chunk of each kCopyRows-th row, of the weights and then of x. Stages come in order.
template <class S>
class Feed {
 public:
  __device__ __forceinline__ Feed(const Product& p, int32_t weight_row, int32_t x_row, int32_t begin, int32_t thread)
      : row_(thread / S::kChunks),
        column_(begin * S::kStageCols + thread % S::kChunks * kChunkCols),
        weights_left_(p.weight_rows - weight_row - row_),
        x_left_(p.rows - x_row - row_),
        place_(swizzled<S::kChunks>(row_, thread % S::kChunks)),
        weights_(reinterpret_cast<const uint16_t*>(p.weights) + int64_t{weight_row + row_} * p.cols + column_),
        x_(static_cast<const uint16_t*>(p.x) + int64_t{x_row + row_} * p.cols + column_) {}

  // The next stage to `stage`; zeros behind the last.
  __device__ __forceinline__ void copy(const Product& p, std::byte* stage) {
    if (S::kAnyCols && p.cols % kChunkCols != 0) {
      copy_values<S::kRows>(p, weights_, weights_left_, stage);
      copy_values<S::kCols>(p, x_, x_left_, stage + S::kStageX);
    } else {
      copy_chunks<0, kCopies>(p, stage);
    }
    advance();
  }

  // The same in pieces, all of them before advance(): chunks [kBegin, kEnd) of kCopies.
  static constexpr int32_t kCopies = (S::kRows + S::kCols) / S::kCopyRows;
  template <int32_t kBegin, int32_t kEnd>
  __device__ __forceinline__ void copy_chunks(const Product& p, std::byte* stage) const {
    constexpr int32_t kOfWeights = S::kRows / S::kCopyRows;
#pragma unroll
    for (int32_t i = kBegin; i < kEnd; ++i) {
      const int32_t row = (i < kOfWeights ? i : i - kOfWeights) * S::kCopyRows;
      const uint16_t* from = (i < kOfWeights ? weights_ : x_) + int64_t{row} * p.cols;
      cp_async_16(place(stage + (i < kOfWeights ? 0 : S::kStageX), row), from,
                  row < (i < kOfWeights ? weights_left_ : x_left_) && column_ < p.cols);
    }
  }
  __device__ __forceinline__ void advance() {
    column_ += S::kStageCols;
    weights_ += S::kStageCols;
    x_ += S::kStageCols;
  }

 private:
  // Of the row that is `more` rows behind the thread's first.
  __device__ __forceinline__ std::byte* place(std::byte* to, int32_t more) const {
    // Another place in the swizzle only where rows are copied by fours.
    const int32_t mixed = S::kChunks == 8 ? more % 8 * kChunkBytes : 0;
    return to + (place_ ^ mixed) + more * S::kRowBytes;
  }
  template <int32_t kRows>
  __device__ __forceinline__ void copy_values(const Product& p, const uint16_t* from, int32_t left, std::byte* to) const {
#pragma unroll 1
    for (int32_t more = 0; more < kRows; more += S::kCopyRows) {
      auto* values = reinterpret_cast<uint16_t*>(place(to, more));
      const uint16_t* row = from + int64_t{more} * p.cols;
      for (int32_t c = 0; c < kChunkCols; ++c) values[c] = more < left && column_ + c < p.cols ? row[c] : uint16_t{0};
    }
  }

  int32_t row_;
  int32_t column_;
  int32_t weights_left_;  // rows from the thread's first on
  int32_t x_left_;
  int32_t place_;
  const uint16_t* weights_;
  const uint16_t* x_;
};

// Operands of 16 columns, as mma takes them.
template <class S>
struct Fragments {
  uint32_t a[S::kM][4];
  uint32_t b[S::kN][2];
};

// Where in a stage a lane finds its part of the fragments of the first 16 columns. Later ones differ in the chunk's number alone,
// which the swizzle leaves to be mixed in: see load_fragments.
struct FragmentPlaces {
  int32_t a;
  int32_t b;
};

template <class S>
__device__ __forceinline__ FragmentPlaces fragment_places(int32_t row, int32_t column, int32_t lane) {
  const int32_t pair = S::kN == 1 ? 0 : lane / 16 * 8;
  return {swizzled<S::kChunks>(row + lane % 16, lane / 16),
          S::kStageX + swizzled<S::kChunks>(column + pair + lane % 8, lane / 8 % 2)};
}

template <class S>
__device__ __forceinline__ void load_fragments(Fragments<S>& to, const std::byte* stage, const FragmentPlaces& places, int32_t step) {
  const std::byte* a = stage + (places.a ^ step * 2 * kChunkBytes);
  const std::byte* b = stage + (places.b ^ step * 2 * kChunkBytes);
#pragma unroll
  for (int32_t m = 0; m < S::kM; ++m) ldmatrix_x4(to.a[m], a + m * 16 * S::kRowBytes);
  if constexpr (S::kN == 1) {
    ldmatrix_x2(to.b[0], b);
  } else {
    static_assert(S::kN % 2 == 0, "loaded in pairs");
#pragma unroll
    for (int32_t n = 0; n < S::kN; n += 2) {
      uint32_t pair[4];
      ldmatrix_x4(pair, b + n * 8 * S::kRowBytes);
      to.b[n][0] = pair[0], to.b[n][1] = pair[1], to.b[n + 1][0] = pair[2], to.b[n + 1][1] = pair[3];
    }
  }
}

// after(m): once a row of fragments is on its way.
template <class S, class After>
__device__ __forceinline__ void multiply(WarpSums<S::kM, S::kN>& sums, const Fragments<S>& f, After&& after) {
  const auto row = [&](auto m) {
#pragma unroll
    for (int32_t n = 0; n < S::kN; ++n) mma_m16n8k16(sums[m][n], f.a[m], f.b[n], typename S::Type{});
    after(m);
  };
  [&]<int32_t... kM>(std::integer_sequence<int32_t, kM...>) { (row(std::integral_constant<int32_t, kM>{}), ...); }
  (std::make_integer_sequence<int32_t, S::kM>{});
}

template <class S>
__device__ __forceinline__ void multiply(WarpSums<S::kM, S::kN>& sums, const Fragments<S>& f) {
  multiply<S>(sums, f, [](auto) {});
}

// As many of a stage's steps as there are columns left.
template <class S>
__device__ __forceinline__ void add_stage(WarpSums<S::kM, S::kN>& sums, const std::byte* stage, const FragmentPlaces& places,
                                          int32_t cols_left) {
#pragma unroll
  for (int32_t step = 0; step < S::kSteps; ++step) {
    if (step * kMmaCols >= cols_left) break;
    Fragments<S> f;
    load_fragments<S>(f, stage, places, step);
    multiply<S>(sums, f);
  }
}

// Sums of finished segments, each thread its own.
template <class S>
struct Totals {
  float kept[S::kKept > 0 ? S::kKept : 1][S::kN][4];
  float4* parked;  // [(kM - kKept) * kN][threads]

  // The total of fragment (m, n) with its newest segment. first: there is none before.
  __device__ __forceinline__ float4 with(int32_t m, int32_t n, const float (&sum)[4], bool first) const {
    float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (m < S::kKept) {
      total = make_float4(kept[m][n][0], kept[m][n][1], kept[m][n][2], kept[m][n][3]);
    } else if (!first) {
      total = parked[((m - S::kKept) * S::kN + n) * S::kGroupThreads];
    }
    return make_float4(total.x + sum[0], total.y + sum[1], total.z + sum[2], total.w + sum[3]);
  }
  // A segment is done: its sums begin again from 0.
  __device__ __forceinline__ void add(WarpSums<S::kM, S::kN>& sums, bool first) {
#pragma unroll
    for (int32_t m = 0; m < S::kM; ++m) {
#pragma unroll
      for (int32_t n = 0; n < S::kN; ++n) {
        const float4 total = with(m, n, sums[m][n], first);
        if (m < S::kKept) {
          kept[m][n][0] = total.x, kept[m][n][1] = total.y, kept[m][n][2] = total.z, kept[m][n][3] = total.w;
        } else {
          parked[((m - S::kKept) * S::kN + n) * S::kGroupThreads] = total;
        }
#pragma unroll
        for (int32_t e = 0; e < 4; ++e) sums[m][n][e] = 0.0f;
      }
    }
  }
};

// out, of a warp whose first element is out[x_row][weight_row]. kWhole: all of its rows and columns are the product's.
template <bool kWhole, class S>
__device__ __forceinline__ void store(const Product& p, const WarpSums<S::kM, S::kN>& sums, const Totals<S>& totals, bool first,
                                      int32_t weight_row, int32_t x_row, int32_t lane) {
  float* out = p.out + int64_t{x_row + x_row_of(0, 0, lane)} * p.out_stride + weight_row + weight_row_of(0, 0, lane);
  const int32_t rows_left = p.rows - x_row - x_row_of(0, 0, lane);
  const int32_t columns_left = p.weight_rows - weight_row - weight_row_of(0, 0, lane);
#pragma unroll
  for (int32_t n = 0; n < S::kN; ++n) {
    float* next = out + p.out_stride;
#pragma unroll
    for (int32_t m = 0; m < S::kM; ++m) {
      const float4 total = totals.with(m, n, sums[m][n], first);
      const bool left = kWhole || 16 * m < columns_left, right = kWhole || 16 * m + 8 < columns_left;
      const bool here = kWhole || 8 * n < rows_left, below = kWhole || 8 * n + 1 < rows_left;
      if (here && left) out[16 * m] = total.x;
      if (below && left) next[16 * m] = total.y;
      if (here && right) out[16 * m + 8] = total.z;
      if (below && right) next[16 * m + 8] = total.w;
    }
    out += int64_t{8} * p.out_stride;
  }
}

template <class S>
__global__ void __launch_bounds__(S::kGroupThreads) half_kernel(Product p) {
  wait_for_previous();
  auto* ring = dynamic_shared<std::byte>();
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t lane = thread % kWarpThreads;
  const int32_t warp = thread / kWarpThreads;
  const int32_t row = warp % S::kWarpsM * 16 * S::kM;  // of the warp in the tile
  const int32_t column = warp / S::kWarpsM * 8 * S::kN;
  const int32_t weight_row = static_cast<int32_t>(blockIdx.y) * S::kRows;
  const int32_t x_row = static_cast<int32_t>(blockIdx.x) * S::kCols;
  const int32_t segment_stages = p.segment_panels * (kPanelCols / S::kStageCols);
  const int32_t all_stages = (p.cols + S::kStageCols - 1) / S::kStageCols;
  const int32_t full_stages = p.cols / S::kStageCols;
  Feed<S> feed(p, weight_row, x_row, 0, thread);
  const FragmentPlaces places = fragment_places<S>(row, column, lane);

#pragma unroll 1
  for (int32_t i = 0; i < S::kStages; ++i) {
    feed.copy(p, ring + i * S::kStageBytes);
    cp_async_commit();
  }
  WarpSums<S::kM, S::kN> sums = {};
  Totals<S> totals = {{}, reinterpret_cast<float4*>(ring + S::kRingBytes) + thread};
  Fragments<S> fragments[2];
  static_assert(S::kSteps % 2 == 0, "a stage begins with the same fragments");
  cp_async_wait<S::kStages - 1>();
  __syncthreads();
  load_fragments<S>(fragments[0], ring, places, 0);
  std::byte* stage = ring;
  int32_t index = 0;
  for (int32_t border = segment_stages;; border += segment_stages) {
    const int32_t until = min(border, full_stages);
    // No branch within a turn: where one ends the compiler waits for all products and loads.
#pragma unroll 1
    for (; index < until; ++index) {
      std::byte* next = stage + S::kStageBytes == ring + S::kRingBytes ? ring : stage + S::kStageBytes;
#pragma unroll
      for (int32_t step = 0; step < S::kSteps; ++step) {
        const bool last = step == S::kSteps - 1;
        if (last) {
          cp_async_wait<S::kStages - 2>();
          __syncthreads();  // the next stage is there for all, and this one has been read
        }
        load_fragments<S>(fragments[(step + 1) % 2], last ? next : stage, places, (step + 1) % S::kSteps);
        multiply<S>(sums, fragments[step % 2], [&](auto m) {
          if (last) feed.template copy_chunks<m * Feed<S>::kCopies / S::kM, (m + 1) * Feed<S>::kCopies / S::kM>(p, stage);
        });
        if (last) {
          feed.advance();
          cp_async_commit();
        }
      }
      stage = next;
    }
    if (border >= all_stages) break;
    totals.add(sums, border == segment_stages);
  }
  if (full_stages < all_stages) add_stage<S>(sums, stage, places, p.cols - full_stages * S::kStageCols);
  const bool first = all_stages <= segment_stages;
  if (x_row + column + 8 * S::kN <= p.rows && weight_row + row + 16 * S::kM <= p.weight_rows) {
    store<true>(p, sums, totals, first, weight_row + row, x_row + column, lane);
  } else {
    store<false>(p, sums, totals, first, weight_row + row, x_row + column, lane);
  }
}

template <class S>
__global__ void __launch_bounds__(S::kGroups * S::kGroupThreads) half_split_kernel(Product p) {
  wait_for_previous();
  auto* shared = dynamic_shared<std::byte>();
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarpThreads;
  const int32_t segment = static_cast<int32_t>(threadIdx.x) / kWarpThreads;
  const int32_t weight_row = static_cast<int32_t>(blockIdx.y) * S::kRows;
  const int32_t x_row = static_cast<int32_t>(blockIdx.x) * S::kCols;
  const int32_t segment_stages = p.segment_panels * (kPanelCols / S::kStageCols);
  const int32_t begin = segment * segment_stages;
  const int32_t end = min(begin + segment_stages, (p.cols + S::kStageCols - 1) / S::kStageCols);
  std::byte* ring = shared + segment * S::kRingBytes;
  Feed<S> feed(p, weight_row, x_row, begin, lane);
  const FragmentPlaces places = fragment_places<S>(0, 0, lane);
  const auto load = [&](int32_t index, std::byte* stage) {
    if (index < end) feed.copy(p, stage);
    cp_async_commit();
  };

#pragma unroll 1
  for (int32_t i = 0; i < S::kStages; ++i) load(begin + i, ring + i * S::kStageBytes);
  WarpSums<S::kM, S::kN> sums = {};
  std::byte* stage = ring;
#pragma unroll 1
  for (int32_t index = begin; index < end; ++index) {
    cp_async_wait<S::kStages - 1>();
    __syncwarp();
    add_stage<S>(sums, stage, places, p.cols - index * S::kStageCols);
    __syncwarp();  // all lanes have read it
    load(index + S::kStages, stage);
    stage = stage + S::kStageBytes == ring + S::kRingBytes ? ring : stage + S::kStageBytes;
  }

  // The segments' sums in order. What the rings held is done with.
  auto* partial = reinterpret_cast<float*>(shared);
  __syncthreads();
#pragma unroll
  for (int32_t i = 0; i < S::kM * S::kN * 4; ++i) {
    const int32_t m = i / 4 / S::kN, n = i / 4 % S::kN, e = i % 4;
    partial[(segment * S::kCols + x_row_of(n, e, lane)) * S::kPartialRow + weight_row_of(m, e, lane)] = sums[m][n][e];
  }
  __syncthreads();
  const auto threads = static_cast<int32_t>(blockDim.x);
  for (auto i = static_cast<int32_t>(threadIdx.x); i < S::kCols * S::kRows; i += threads) {
    const int32_t n = i / S::kRows, r = i % S::kRows;
    if (x_row + n >= p.rows || weight_row + r >= p.weight_rows) continue;
    float total = 0.0f;
    for (int32_t part = 0; part < threads / kWarpThreads; ++part) total += partial[(part * S::kCols + n) * S::kPartialRow + r];
    p.out[int64_t{x_row + n} * p.out_stride + weight_row + r] = total;
  }
}

}  // namespace penstock::cuda
