// The device's KV cache for the threads that move blocks between engines. Owns the copy stream, the pinned memory through which
// blocks go, and the device memory in which they are packed; which blocks are whose is the scheduler's.
//
// Copies run on a stream of their own, beside the steps: what moves is not written to by one. What is told to be complete was stored
// by kernels that the processor has waited for (layer_events.h), so no event has to pass between the two streams.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kv/access.h"
#include "kv/cache.h"
#include "model/cuda/kv_ring.h"
#include "ops/cuda/device.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

// What is packed, or fetched, at once: enough bytes that a copy costs what its bytes do, and so few that pinned memory is not missed
// elsewhere. At least one block with all its layers.
inline constexpr int64_t kStagedBytes = 4 << 20;
inline constexpr int32_t kStagedBlocksMax = 64;
// Transfers that have pinned memory at a time; those beyond have ordinary memory, which the driver copies once more.
inline constexpr int32_t kPinnedStagings = 8;

// Transfers at a time that go through memory of the device; those beyond have the processor's.
inline constexpr size_t kRingsMax = 4;

inline int64_t staged_bytes(const KvShape& shape) {
  const int64_t block = shape.layers * shape.block_bytes();
  return std::max(std::min(kStagedBytes, kStagedBlocksMax * block), block);
}

class KvBlocks final : public KvAccess {
 public:
  // Takes its device memory from the pool.
  KvBlocks(int32_t device, DevicePool& pool, const KvShape& shape, const DeviceKv& kv);

  KvStaging staging() override;
  void read(std::span<const int32_t> blocks, LayerSpan layers, std::span<std::byte> out) override;
  void write(std::span<const int32_t> blocks, LayerSpan layers, std::span<const std::byte> from) override;
  std::unique_ptr<SharedRing> make_ring(ArenaHandle& handle) override;
  std::unique_ptr<SharedRing> take_ring(const ArenaHandle& handle, size_t bytes) override;

  // What other processes have handed over through memory of the device, in transfers that are over.
  uint64_t bytes_through_rings() const { return rings_->moved; }

  // Device memory that a pool must have for one.
  static void count(DevicePool& pool, const KvShape& shape);

 private:
  struct Packed {
    std::byte* bytes;  // [blocks][layers][block_bytes] of a part
    int32_t* blocks;   // [kStagedBlocksMax]
    Packed(DevicePool& pool, const KvShape& shape);
  };
  void give_back(std::span<std::byte> staging) override;
  // The cache as if it had these layers alone.
  DeviceKv only(LayerSpan layers) const;
  template <class Move>
  void in_parts(std::span<const int32_t> blocks, LayerSpan layers, const Move& move);

  int32_t device_;
  KvShape shape_;
  DeviceKv kv_;
  std::mutex device_mutex_;  // of the stream and what is behind it
  Stream stream_;
  Packed packed_;
  PinnedMemory ids_;
  std::mutex staging_mutex_;
  std::vector<std::unique_ptr<PinnedMemory>> pinned_;  // made when first needed, kept
  std::vector<PinnedMemory*> free_;
  // Made when first needed, kept. Shared with their rings, which a transfer may outlive by a moment.
  struct Rings {
    std::mutex mutex;
    std::vector<std::unique_ptr<ExportedMemory>> all;
    std::vector<ExportedMemory*> free;
    std::atomic<uint64_t> moved{0};
  };
  std::shared_ptr<Rings> rings_ = std::make_shared<Rings>();
};

}  // namespace penstock::cuda
