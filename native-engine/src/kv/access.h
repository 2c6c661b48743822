// Blocks of K and V that lie in a device's memory, for the threads that move them between engines. Owns the interface;
// model/cuda/kv_blocks.h implements it. Safe from any thread; calls wait for the device and touch only the blocks that are
// named: forward() goes on meanwhile.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "kv/checksum.h"
#include "kv/view.h"

namespace penstock {

class KvAccess;

// Names memory of one process to another one on the same host.
using ArenaHandle = std::array<std::byte, 64>;

// A ring that two engines of one host have in common, see shared_memory.h.
class SharedRing {
 public:
  virtual ~SharedRing() = default;
  virtual size_t bytes() const = 0;
  // Parts may lie in a device's memory.
  virtual bool reaches_device() const = 0;
  // Between the ring, from `at` on, which moves on, and as much of the parts as `limit` allows. Returns how much, and has copied
  // it by then. `sum` takes in what was written, wherever to.
  virtual size_t copy(size_t& at, std::span<const iovec> parts, size_t limit, bool to_ring, Checksum* sum) = 0;
};

// Memory of the processor through which blocks go, quick for the device to reach: room for some whole ones, for as long as this
// lives.
class KvStaging {
 public:
  KvStaging() = default;
  KvStaging(KvAccess& owner, std::span<std::byte> bytes) : owner_(&owner), bytes_(bytes) {}
  KvStaging(KvStaging&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)), bytes_(std::exchange(other.bytes_, {})) {}
  KvStaging& operator=(KvStaging&& other) noexcept {
    std::swap(owner_, other.owner_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  inline ~KvStaging();

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  KvAccess* owner_ = nullptr;
  std::span<std::byte> bytes_;
};

class KvAccess {
 public:
  virtual ~KvAccess() = default;

  virtual KvStaging staging() = 0;
  // blocks of the cache -> out [blocks][layers][block_bytes], and back; of other layers nothing is touched. Throw DeviceFailure when
  // the device is lost.
  virtual void read(std::span<const int32_t> blocks, LayerSpan layers, std::span<std::byte> out) = 0;
  virtual void write(std::span<const int32_t> blocks, LayerSpan layers, std::span<const std::byte> from) = 0;

  // Memory of the device that another process may map: the receiver's, and its name. nullptr: there is none, or none left.
  virtual std::unique_ptr<SharedRing> make_ring([[maybe_unused]] ArenaHandle& handle) { return nullptr; }
  // The sender's. nullptr: it cannot be mapped here.
  virtual std::unique_ptr<SharedRing> take_ring([[maybe_unused]] const ArenaHandle& handle, [[maybe_unused]] size_t bytes) {
    return nullptr;
  }

 private:
  friend class KvStaging;
  virtual void give_back(std::span<std::byte> staging) = 0;
};

inline KvStaging::~KvStaging() {
  if (owner_ != nullptr) owner_->give_back(bytes_);
}

}  // namespace penstock
