// See kv_ring.h.
#include "model/cuda/kv_ring.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/cuda/ops.h"

namespace penstock::cuda {

static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(ArenaHandle));

std::unique_ptr<ExportedMemory> ExportedMemory::make(size_t bytes) {
  auto made = std::make_unique<ExportedMemory>();
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) {
    (void)cudaGetLastError();
    return nullptr;
  }
  cudaIpcMemHandle_t handle;
  if (cudaIpcGetMemHandle(&handle, data) != cudaSuccess) {
    (void)cudaGetLastError();
    (void)cudaFree(data);
    return nullptr;
  }
  made->data_ = static_cast<std::byte*>(data);
  std::memcpy(made->handle_.data(), &handle, sizeof handle);
  return made;
}

DeviceRing::DeviceRing(int32_t device, std::byte* data, size_t bytes, End end)
    : device_(device), data_(data), bytes_(bytes), end_(std::move(end)), sum_host_(sizeof(unsigned long long)) {
  void* sum = nullptr;
  check(cudaMallocAsync(&sum, sizeof(unsigned long long), stream_), "cudaMallocAsync");
  sum_ = static_cast<unsigned long long*>(sum);
}

DeviceRing::~DeviceRing() {
  (void)cudaSetDevice(device_);
  (void)cudaFreeAsync(sum_, stream_);
  end_(moved_);
}

std::unique_ptr<DeviceRing> DeviceRing::open(int32_t device, const ArenaHandle& handle, size_t bytes) {
  use_device(device);
  cudaIpcMemHandle_t name;
  std::memcpy(&name, handle.data(), sizeof name);
  void* data = nullptr;
  if (cudaIpcOpenMemHandle(&data, name, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess) {
    (void)cudaGetLastError();
    return nullptr;
  }
  return std::make_unique<DeviceRing>(device, static_cast<std::byte*>(data), bytes,
                                      [data](uint64_t) { (void)cudaIpcCloseMemHandle(data); });
}

size_t DeviceRing::copy(size_t& at, std::span<const iovec> parts, size_t limit, bool to_ring, Checksum* sum) {
  return guarded([&] {
    use_device(device_);
    if (sum != nullptr) fill_zero(stream_, sum_, sizeof *sum_);
    size_t done = 0;
    for (const iovec& part : parts) {
      for (size_t offset = 0; offset < part.iov_len && done < limit;) {
        const size_t here = std::min({part.iov_len - offset, limit - done, bytes_ - at});
        std::byte* const place = static_cast<std::byte*>(part.iov_base) + offset;
        std::byte* const to = to_ring ? data_ + at : place;
        // Heads are in the processor's memory, blocks are not.
        check(cudaMemcpyAsync(to, to_ring ? place : data_ + at, here, cudaMemcpyDefault, stream_), "copy through a ring");
        // Of what was written: the sender may change the ring meanwhile, and what it meant it has summed in its own blocks.
        if (sum != nullptr)
          byte_sum(stream_, to_ring ? place : to, static_cast<int64_t>(here),
                   static_cast<int64_t>(sum->device_bytes() + done), sum_);
        at = (at + here) % bytes_;
        offset += here;
        done += here;
      }
    }
    if (sum != nullptr) copy_to_host(stream_, sum_host_.data(), sum_, sizeof *sum_);
    stream_.synchronize();
    moved_ += done;
    if (sum != nullptr) sum->take_sum(sum_host_.as<unsigned long long>()[0], done);
    return done;
  });
}

}  // namespace penstock::cuda
