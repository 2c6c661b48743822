// Whole blocks of the cache: to and from one contiguous buffer, which is what travels between engines and tiers, and
// from block to block. Owns no layout: a block of a layer is block_bytes that belong together.
//
// One contiguous buffer per transfer, as vLLM's cache kernels do it: a copy per block and layer would be thousands of
// small ones.
#include <stdexcept>

#include "ops/cuda/ops.h"

namespace penstock::cuda {

namespace {

constexpr int kCopyThreads = 256;
// 16-byte accesses in flight per thread, enough to cover the latency of memory at half the occupancy.
constexpr int kCopyVectors = 4;
constexpr int64_t kCopyBytes = int64_t{kCopyThreads} * kCopyVectors * 16;  // per thread block

// bytes of one layer's block, starting at this thread block's share.
__device__ inline void copy_share(const std::byte* from, std::byte* to, int64_t bytes) {
  const auto* source = reinterpret_cast<const uint4*>(from);
  auto* target = reinterpret_cast<uint4*>(to);
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kCopyThreads * kCopyVectors + threadIdx.x;
  uint4 held[kCopyVectors];
  PENSTOCK_UNROLL
  for (int i = 0; i < kCopyVectors; ++i) {
    if ((first + i * kCopyThreads) * 16 < bytes) held[i] = source[first + i * kCopyThreads];
  }
  PENSTOCK_UNROLL
  for (int i = 0; i < kCopyVectors; ++i) {
    if ((first + i * kCopyThreads) * 16 < bytes) target[first + i * kCopyThreads] = held[i];
  }
}

__device__ inline std::byte* block_of(const DeviceKv& kv, int64_t layer, int32_t block) {
  return kv.base + (layer * kv.blocks_total + block) * kv.block_bytes;
}

// packed [count][layers][block_bytes]; grid (count * layers, ceil(block_bytes / kCopyBytes)). PRECOND: block_bytes % 16
// == 0.
// Memory bound: reads and writes count * layers * block_bytes.
__global__ void __launch_bounds__(kCopyThreads)
    gather_blocks_kernel(DeviceKv kv, int32_t layers, const int32_t* blocks, std::byte* packed) {
  const auto piece = static_cast<int64_t>(blockIdx.x);
  copy_share(block_of(kv, piece % layers, __ldg(blocks + piece / layers)), packed + piece * kv.block_bytes,
             kv.block_bytes);
}

__global__ void __launch_bounds__(kCopyThreads)
    scatter_blocks_kernel(DeviceKv kv, int32_t layers, const int32_t* blocks, const std::byte* packed) {
  const auto piece = static_cast<int64_t>(blockIdx.x);
  copy_share(packed + piece * kv.block_bytes, block_of(kv, piece % layers, __ldg(blocks + piece / layers)),
             kv.block_bytes);
}

// PRECOND: no target is also a source, or another target.
__global__ void __launch_bounds__(kCopyThreads)
    copy_blocks_kernel(DeviceKv kv, int32_t layers, const int32_t* source, const int32_t* target) {
  const auto piece = static_cast<int64_t>(blockIdx.x);
  const int64_t layer = piece % layers;
  copy_share(block_of(kv, layer, __ldg(source + piece / layers)), block_of(kv, layer, __ldg(target + piece / layers)),
             kv.block_bytes);
}

LaunchShape copy_shape(const DeviceKv& kv, int32_t layers, int32_t count, cudaStream_t stream) {
  if (kv.block_bytes % 16 != 0) throw std::logic_error("blocks: block_bytes are a multiple of 16");
  const auto shares = static_cast<unsigned>((kv.block_bytes + kCopyBytes - 1) / kCopyBytes);
  return {dim3(static_cast<unsigned>(count) * static_cast<unsigned>(layers), shares), dim3(kCopyThreads), 0, stream};
}

}  // namespace

void gather_blocks(cudaStream_t stream, const DeviceKv& kv, int32_t layers, const int32_t* blocks, int32_t count,
                   std::byte* packed) {
  if (count > 0) launch(gather_blocks_kernel, copy_shape(kv, layers, count, stream), kv, layers, blocks, packed);
}

void scatter_blocks(cudaStream_t stream, const DeviceKv& kv, int32_t layers, const int32_t* blocks, int32_t count,
                    const std::byte* packed) {
  if (count > 0) launch(scatter_blocks_kernel, copy_shape(kv, layers, count, stream), kv, layers, blocks, packed);
}

void copy_blocks(cudaStream_t stream, const DeviceKv& kv, int32_t layers, const int32_t* source, const int32_t* target,
                 int32_t count) {
  if (count > 0) launch(copy_blocks_kernel, copy_shape(kv, layers, count, stream), kv, layers, source, target);
}

}  // namespace penstock::cuda
