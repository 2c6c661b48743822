// Memory of a GPU that two processes of one host have in common (CUDA IPC). Owns its mapping on either side and the copies through
// it; when it may be offered is kv/shared_memory.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "kv/access.h"
#include "ops/cuda/device.h"

namespace penstock::cuda {

// As kArenaBytes, but that a copy between devices costs some microseconds however short it is: an eighth of this, which is told
// at a time, takes as long over NVLink.
inline constexpr size_t kRingBytes = 8 << 20;

// Memory that can be exported; never given back while the process lives, since others may still have it mapped.
class ExportedMemory {
 public:
  // nullopt: the device, or the system, cannot.
  static std::unique_ptr<ExportedMemory> make(size_t bytes);
  std::byte* data() const { return data_; }
  const ArenaHandle& handle() const { return handle_; }

 private:
  std::byte* data_ = nullptr;
  ArenaHandle handle_{};
};

class DeviceRing final : public SharedRing {
 public:
  // `end` is called when it is no longer used, with the bytes that it has moved: it gives `data` back, or unmaps it.
  using End = std::function<void(uint64_t moved)>;
  DeviceRing(int32_t device, std::byte* data, size_t bytes, End end);
  ~DeviceRing() override;

  // Maps what another process has made. nullptr: it cannot be mapped.
  static std::unique_ptr<DeviceRing> open(int32_t device, const ArenaHandle& handle, size_t bytes);

  size_t bytes() const override { return bytes_; }
  bool reaches_device() const override { return true; }
  size_t copy(size_t& at, std::span<const iovec> parts, size_t limit, bool to_ring, Checksum* sum) override;

 private:
  int32_t device_;
  std::byte* data_;
  size_t bytes_;
  End end_;
  uint64_t moved_ = 0;
  Stream stream_;
  unsigned long long* sum_ = nullptr;  // on the device
  PinnedMemory sum_host_;
};

}  // namespace penstock::cuda
