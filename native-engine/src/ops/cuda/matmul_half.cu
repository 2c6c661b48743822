// f16 and bf16 weights times rows of activations of the same type: the tiles that there are, and which is taken when.
//
//   weights  [weight_rows, cols] as in the file
//   x        [rows, cols]
//   out      [rows, out_stride] f32, columns [0, weight_rows)
// Two kernels (matmul_half.cuh), each in several tiles of weight rows x rows of x, all with the same bits:
//   split  memory bound: up to 16 rows of x, and up to 64 where weights have so few rows that larger tiles would leave
//          multiprocessors idle.
//   wide   up to 64 rows of x memory bound, with four stages on their way; then bound by tensor cores and the shared memory that
//          feeds them. Warps of 64 weight rows x 64 rows of x read least of it; their tiles of 128 x 256 need 224 KB.
//          Grid: (tiles of x, tiles of weights): neighbours share weights, and x stays in L2.
// PRECOND: none on sizes; rows that do not begin at multiples of 16 bytes (cols % 8 != 0) are copied value by value, by the split
// kernel. Bytes: per block of the grid, its weights and its x once. Operations: 2 * rows * weight_rows * cols. Oracle: reference.cc
// within f32 rounding.
#include "ops/cuda/matmul_half.cuh"

#include <limits>

namespace penstock::cuda {

namespace {

// Of a thread block, on every architecture: what sm_86, 89 and 120 have. sm_80 has 163 KB, sm_90 and 100 have 227.
constexpr int32_t kSharedEverywhere = 99 * 1024;

// `call` with the shape's type, in which Type is F16 or Bf16.
template <class Type, class Call>
auto with_half_shape(HalfShape shape, Call&& call) {
  switch (shape) {
    case HalfShape::split_16x8:
      return call(Split<Tile<Type, 1, 1, 1, 1, 8, 4>>{});
    case HalfShape::split_16x16:
      return call(Split<Tile<Type, 1, 1, 1, 2, 8, 3>>{});
    case HalfShape::split_16x32:
      return call(Split<Tile<Type, 1, 1, 1, 4, 8, 2>>{});
    case HalfShape::split_32x64:
      return call(Split<Tile<Type, 1, 1, 2, 8, 8, 2>>{});
    case HalfShape::wide_128x32:
      return call(Wide<Tile<Type, 4, 2, 2, 2, 8, 4>, 2>{});
    case HalfShape::wide_128x64:
      return call(Wide<Tile<Type, 4, 2, 2, 4, 8, 4>, 2>{});
    case HalfShape::wide_128x128:
      return call(Wide<Tile<Type, 2, 4, 4, 4, 8, 3>, 4>{});
    case HalfShape::wide_128x128_deep:
      return call(Wide<Tile<Type, 2, 4, 4, 4, 8, 4>, 4>{});
    default:  // wide_128x256
      return call(Wide<Tile<Type, 2, 4, 4, 8, 4, 4>, 0>{});
  }
}

// One thread block per tile; a split shape has a warp per segment.
template <class S>
void launch_half(void (*kernel)(Product), cudaStream_t stream, const Product& p) {
  static PerDevice allowed;
  allow_shared(allowed, kernel, static_cast<size_t>(S::shared_bytes(S::kGroups)));
  const int32_t groups = S::kGroups == 1 ? 1 : segments_of(p.cols);
  const LaunchShape shape{
      dim3(static_cast<uint32_t>(ceil_div(p.rows, S::kCols)), static_cast<uint32_t>(ceil_div(p.weight_rows, S::kRows))),
      dim3(static_cast<uint32_t>(groups * S::kGroupThreads)), static_cast<size_t>(S::shared_bytes(groups)), stream};
  launch_early(p.rows, kernel, shape, p);
}

template <class Type>
void launch_half_shape(HalfShape shape, cudaStream_t stream, const Product& p) {
  with_half_shape<Type>(shape, [&](auto s) {
    using S = decltype(s);
    if constexpr (S::kGroups == 1) {
      launch_half<S>(half_kernel<S>, stream, p);
    } else {
      launch_half<S>(half_split_kernel<S>, stream, p);
    }
  });
}

int32_t device_attribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

// What a tile of many rows takes, against one of 128 x 128. Measured on an H100 with one block on each multiprocessor: 28, 41 and
// 77 us for 4096 columns.
struct TileCost {
  HalfShape shape;
  int32_t cols;
  double cost;
};
constexpr TileCost kTileCosts[] = {
    {HalfShape::wide_128x64, 64, 0.75}, {HalfShape::wide_128x128, 128, 1.0}, {HalfShape::wide_128x256, 256, 1.87}};

}  // namespace

bool has_half_shape(HalfShape shape, int32_t cols) {
  return with_half_shape<F16>(shape, [&](auto s) {
    using S = decltype(s);
    constexpr int32_t kBytes = S::shared_bytes(S::kGroups);
    return (S::kAnyCols || cols % kChunkCols == 0) &&
           (kBytes <= kSharedEverywhere || kBytes <= device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  });
}

HalfShape choose_half_shape(const Product& p, bool split) {
  const int32_t multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
  if (split || p.cols % kChunkCols != 0) {
    if (p.rows <= 8) return HalfShape::split_16x8;
    if (p.rows <= 16) return HalfShape::split_16x16;
    // 32 x 64 reads the weights once where 16 x 32 reads them twice, and has half as many blocks.
    const bool enough_blocks = 4 * ceil_div(p.weight_rows, 32) >= 3 * multiprocessors;
    if (p.rows > 32 && enough_blocks && has_half_shape(HalfShape::split_32x64, p.cols)) return HalfShape::split_32x64;
    return HalfShape::split_16x32;
  }
  if (p.rows <= 32) return HalfShape::wide_128x32;
  if (p.rows <= 64) return HalfShape::wide_128x64;
  // Blocks come in waves of one per multiprocessor; the last wave takes as long as the others.
  HalfShape best = HalfShape::wide_128x64;
  double least = std::numeric_limits<double>::infinity();
  for (const TileCost& tile : kTileCosts) {
    if (!has_half_shape(tile.shape, p.cols)) continue;
    const int64_t tiles = int64_t{ceil_div(p.weight_rows, kHalfTileRows)} * ceil_div(p.rows, tile.cols);
    const double cost = tile.cost * static_cast<double>((tiles + multiprocessors - 1) / multiprocessors);
    if (cost < least) best = tile.shape, least = cost;
  }
  const bool deep = best == HalfShape::wide_128x128 && has_half_shape(HalfShape::wide_128x128_deep, p.cols);
  return deep ? HalfShape::wide_128x128_deep : best;
}

void matmul_half_by(HalfShape shape, cudaStream_t stream, TensorType type, const Product& p) {
  if (type == TensorType::f16) return launch_half_shape<F16>(shape, stream, p);
  launch_half_shape<Bf16>(shape, stream, p);
}

void matmul_half(cudaStream_t stream, TensorType type, const Product& p, bool split) {
  matmul_half_by(choose_half_shape(p, split), stream, type, p);
}

}  // namespace penstock::cuda
