// See kv_blocks.h.
#include "model/cuda/kv_blocks.h"

#include <algorithm>
#include <cstring>

namespace penstock::cuda {

KvBlocks::Packed::Packed(DevicePool& pool, const KvShape& shape)
    : bytes(pool.take_bytes(staged_bytes(shape))), blocks(pool.take<int32_t>(kStagedBlocksMax)) {}

void KvBlocks::count(DevicePool& pool, const KvShape& shape) { Packed{pool, shape}; }

KvBlocks::KvBlocks(int32_t device, DevicePool& pool, const KvShape& shape, const DeviceKv& kv)
    : device_(device),
      shape_(shape),
      kv_(kv),
      packed_(pool, shape),
      ids_(kStagedBlocksMax * static_cast<int64_t>(sizeof(int32_t))) {
  pinned_.reserve(kPinnedStagings);
  free_.reserve(kPinnedStagings);
}

KvStaging KvBlocks::staging() {
  const int64_t bytes = staged_bytes(shape_);
  const std::lock_guard lock(staging_mutex_);
  if (free_.empty() && pinned_.size() < static_cast<size_t>(kPinnedStagings)) {
    guarded([&] {
      use_device(device_);
      pinned_.push_back(std::make_unique<PinnedMemory>(bytes));
    });
    free_.push_back(pinned_.back().get());
  }
  if (free_.empty()) return {*this, {new std::byte[static_cast<size_t>(bytes)], static_cast<size_t>(bytes)}};
  PinnedMemory* memory = free_.back();
  free_.pop_back();
  return {*this, memory->as<std::byte>()};
}

void KvBlocks::give_back(std::span<std::byte> staging) {
  const std::lock_guard lock(staging_mutex_);
  for (const auto& memory : pinned_) {
    if (memory->data() == staging.data()) return free_.push_back(memory.get());
  }
  delete[] staging.data();
}

DeviceKv KvBlocks::only(LayerSpan layers) const {
  DeviceKv kv = kv_;
  kv.base += int64_t{layers.first} * kv.blocks_total * kv.block_bytes;
  return kv;
}

// move(first, count) for ranges of `blocks` whose ids are in packed_.blocks by then, and which these layers of fit in packed_.bytes.
template <class Move>
void KvBlocks::in_parts(std::span<const int32_t> blocks, LayerSpan layers, const Move& move) {
  const auto fitting = static_cast<size_t>(staged_bytes(shape_) / (layers.count * shape_.block_bytes()));
  const size_t at_once = std::min(fitting, static_cast<size_t>(kStagedBlocksMax));
  const std::lock_guard lock(device_mutex_);
  guarded([&] {
    use_device(device_);
    for (size_t first = 0; first < blocks.size(); first += at_once) {
      const auto here = blocks.subspan(first, std::min(at_once, blocks.size() - first));
      std::memcpy(ids_.data(), here.data(), here.size_bytes());
      copy_to_device(stream_, packed_.blocks, ids_.data(), static_cast<int64_t>(here.size_bytes()));
      move(first, static_cast<int32_t>(here.size()));
      stream_.synchronize();
    }
  });
}

void KvBlocks::read(std::span<const int32_t> blocks, LayerSpan layers, std::span<std::byte> out) {
  const int64_t block_bytes = layers.count * shape_.block_bytes();
  in_parts(blocks, layers, [&](size_t first, int32_t count) {
    gather_blocks(stream_, only(layers), layers.count, packed_.blocks, count, packed_.bytes);
    copy_to_host(stream_, out.data() + static_cast<int64_t>(first) * block_bytes, packed_.bytes, count * block_bytes);
  });
}

void KvBlocks::write(std::span<const int32_t> blocks, LayerSpan layers, std::span<const std::byte> from) {
  const int64_t block_bytes = layers.count * shape_.block_bytes();
  in_parts(blocks, layers, [&](size_t first, int32_t count) {
    copy_to_device(stream_, packed_.bytes, from.data() + static_cast<int64_t>(first) * block_bytes, count * block_bytes);
    scatter_blocks(stream_, only(layers), layers.count, packed_.blocks, count, packed_.bytes);
  });
}

std::unique_ptr<SharedRing> KvBlocks::make_ring(ArenaHandle& handle) {
  return guarded([&]() -> std::unique_ptr<SharedRing> {
    use_device(device_);
    const std::lock_guard lock(rings_->mutex);
    if (rings_->free.empty() && rings_->all.size() < kRingsMax) {
      std::unique_ptr<ExportedMemory> made = ExportedMemory::make(kRingBytes);
      if (made == nullptr) return nullptr;
      rings_->free.push_back(made.get());
      rings_->all.push_back(std::move(made));
    }
    if (rings_->free.empty()) return nullptr;
    ExportedMemory* memory = rings_->free.back();
    auto ring = std::make_unique<DeviceRing>(device_, memory->data(), kRingBytes, [memory, rings = rings_](uint64_t moved) {
      const std::lock_guard again(rings->mutex);
      rings->moved += moved;
      rings->free.push_back(memory);
    });
    rings_->free.pop_back();
    handle = memory->handle();
    return ring;
  });
}

std::unique_ptr<SharedRing> KvBlocks::take_ring(const ArenaHandle& handle, size_t bytes) {
  return guarded([&] { return DeviceRing::open(device_, handle, bytes); });
}

}  // namespace penstock::cuda
