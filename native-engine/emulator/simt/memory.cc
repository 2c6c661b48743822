// Allocations and copies. In lazy mode a copy to or from pinned memory happens when its stream gets there; pageable memory is
// read when the call is made, and written before it returns, as on a device.
#include <algorithm>
#include <cstring>

#include "simt/arena.h"
#include "simt/device.h"
#include "simt/report.h"
#include "simt/stream.h"

using simt::api;
using simt::Arena;
using simt::ArenaAccess;
using simt::Residence;
using simt::Runtime;

struct CUmemPoolHandle_st {
  int device = 0;
  size_t used_bytes = 0;
  uint64_t threshold_bytes = 0;
};

namespace {
CUmemPoolHandle_st& default_pool() {
  static CUmemPoolHandle_st* const pool = new CUmemPoolHandle_st;
  return *pool;
}

cudaError_t allocate(void** pointer, size_t bytes, Residence residence) {
  if (pointer == nullptr) return cudaErrorInvalidValue;
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  int device = 0;
  cudaGetDevice(&device);
  const bool counts = residence != Residence::pinned;
  if (counts && !simt::take_device_memory(bytes)) return cudaErrorMemoryAllocation;
  *pointer = Arena::instance().allocate(bytes, residence, device);
  if (*pointer != nullptr) return cudaSuccess;
  if (counts) simt::return_device_memory(device, bytes);
  return cudaErrorMemoryAllocation;
}

// Only what one of these has allocated.
cudaError_t release(void* pointer, std::initializer_list<Residence> residences) {
  simt::Allocation found{};
  if (!Arena::instance().find(pointer, 0, found) || found.data != pointer ||
      std::find(residences.begin(), residences.end(), found.residence) == residences.end()) {
    simt::note("free of %p, which is not what was allocated", pointer);
    return cudaErrorInvalidValue;
  }
  Arena::instance().release(pointer);
  if (found.residence == Residence::device || found.residence == Residence::pool)
    simt::return_device_memory(found.device, found.bytes);
  return cudaSuccess;
}

enum class Side : uint8_t { pageable, pinned, device, wrong };

// What a pointer of a copy is; wrong: the bytes leave their allocation, or it is freed.
Side side_of(const void* pointer, size_t bytes, const char* role) {
  Arena& arena = Arena::instance();
  simt::Allocation found{};
  if (arena.find(pointer, bytes, found)) return found.residence == Residence::pinned ? Side::pinned : Side::device;
  if (arena.owns(pointer) || arena.find(pointer, 0, found)) {
    bool freed = false;
    simt::note("a copy's %s, %zu bytes, leaves its allocation: %s", role, bytes, arena.describe(pointer, freed).c_str());
    return Side::wrong;
  }
  return pointer == nullptr ? Side::wrong : Side::pageable;
}

bool agrees(cudaMemcpyKind kind, Side target, Side source) {
  const bool to_device = target == Side::device, from_device = source == Side::device;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

struct Rows {
  std::byte* target;
  size_t target_pitch;
  const std::byte* source;
  size_t source_pitch;
  size_t width, height;

  void copy() const {
    const ArenaAccess access;
    for (size_t row = 0; row < height; ++row)
      std::memmove(target + row * target_pitch, source + row * source_pitch, width);
  }
};

cudaError_t copy(Runtime& runtime, const Rows& rows, cudaMemcpyKind kind, cudaStream_t stream) {
  if (rows.width == 0 || rows.height == 0) return cudaSuccess;
  if (rows.width > rows.target_pitch || rows.width > rows.source_pitch) return cudaErrorInvalidValue;
  const Side target = side_of(rows.target, (rows.height - 1) * rows.target_pitch + rows.width, "target");
  const Side source = side_of(rows.source, (rows.height - 1) * rows.source_pitch + rows.width, "source");
  if (target == Side::wrong || source == Side::wrong) return cudaErrorInvalidValue;
  if (!agrees(kind, target, source)) {
    simt::note("a copy from %p to %p goes another way than it says", static_cast<const void*>(rows.source),
               static_cast<void*>(rows.target));
    return cudaErrorInvalidValue;
  }
  const CUstream_st* const where = runtime.stream(stream);
  if (where == nullptr) return cudaErrorInvalidResourceHandle;
  const bool is_captured = where->capture != nullptr;
  if (source == Side::pageable && runtime.mode != simt::Streams::eager && !is_captured) {
    auto staged = std::make_shared<std::vector<std::byte>>(rows.width * rows.height);
    for (size_t row = 0; row < rows.height; ++row)
      std::memcpy(staged->data() + row * rows.width, rows.source + row * rows.source_pitch, rows.width);
    Rows from_stage = rows;
    from_stage.source = staged->data();
    from_stage.source_pitch = rows.width;
    const cudaError_t error = runtime.enqueue(stream, [from_stage, staged] { from_stage.copy(); });
    if (error != cudaSuccess || target != Side::pageable) return error;
  } else {
    const cudaError_t error = runtime.enqueue(stream, [rows] { rows.copy(); });
    if (error != cudaSuccess || target != Side::pageable) return error;
  }
  if (!is_captured) runtime.wait(simt::Mark(where->last));
  return cudaSuccess;
}

cudaError_t fill(Runtime& runtime, void* target, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const Side side = side_of(target, bytes, "target");
  if (side == Side::wrong || side == Side::pageable) return cudaErrorInvalidValue;
  return runtime.enqueue(stream, [=] {
    const ArenaAccess access;
    std::memset(target, value, bytes);
  });
}
}  // namespace

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return api([&](Runtime& runtime) {
    if (const cudaError_t forbidden = runtime.forbid_in_capture(); forbidden != cudaSuccess) return forbidden;
    return allocate(pointer, bytes, Residence::device);
  });
}
cudaError_t cudaFree(void* pointer) {
  return api([&](Runtime& runtime) {
    if (pointer == nullptr) return cudaSuccess;
    if (const cudaError_t forbidden = runtime.forbid_in_capture(); forbidden != cudaSuccess) return forbidden;
    runtime.wait_all();
    return release(pointer, {Residence::device, Residence::pool});
  });
}

cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  return api([&](Runtime& runtime) {
    const CUstream_st* const where = runtime.stream(stream);
    if (pool == nullptr || where == nullptr) return cudaErrorInvalidValue;
    if (where->capture != nullptr) return cudaErrorStreamCaptureUnsupported;  // memory nodes are not emulated
    const cudaError_t error = allocate(pointer, bytes, Residence::pool);
    if (error == cudaSuccess) pool->used_bytes += bytes;
    return error;
  });
}
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  return cudaMallocFromPoolAsync(pointer, bytes, &default_pool(), stream);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return api([&](Runtime& runtime) {
    if (pointer == nullptr) return cudaSuccess;
    simt::Allocation found{};
    if (!Arena::instance().find(pointer, 0, found) || found.data != pointer) return cudaErrorInvalidValue;
    return runtime.enqueue(
        stream,
        [pointer, bytes = found.bytes] {
          release(pointer, {Residence::device, Residence::pool});
          size_t& used = default_pool().used_bytes;
          used -= std::min(used, bytes);
        },
        false);
  });
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = &default_pool();
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  return api([&](Runtime&) {
    if (pool == nullptr || properties == nullptr) return cudaErrorInvalidValue;
    *pool = new CUmemPoolHandle_st{properties->location.id, 0, 0};
    return cudaSuccess;
  });
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  return api([&](Runtime&) {
    if (pool == nullptr || pool == &default_pool()) return cudaErrorInvalidValue;
    delete pool;
    return cudaSuccess;
  });
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return api([&](Runtime&) {
    if (pool == nullptr || value == nullptr) return cudaErrorInvalidValue;
    if (attribute == cudaMemPoolAttrReleaseThreshold) pool->threshold_bytes = *static_cast<uint64_t*>(value);
    return cudaSuccess;
  });
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return api([&](Runtime&) {
    if (pool == nullptr || value == nullptr) return cudaErrorInvalidValue;
    *static_cast<uint64_t*>(value) = attribute == cudaMemPoolAttrReleaseThreshold ? pool->threshold_bytes : pool->used_bytes;
    return cudaSuccess;
  });
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  return api([&](Runtime&) { return pool == nullptr ? cudaErrorInvalidValue : cudaSuccess; });
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned int) {
  return api([&](Runtime&) { return allocate(pointer, bytes, Residence::pinned); });
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault); }
cudaError_t cudaFreeHost(void* pointer) {
  return api([&](Runtime& runtime) {
    if (pointer == nullptr) return cudaSuccess;
    runtime.wait_all();
    return release(pointer, {Residence::pinned});
  });
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned int) {
  return api([&](Runtime&) {
    if (device == nullptr || !Arena::instance().contains(host, 1)) return cudaErrorInvalidValue;
    *device = host;
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(target, bytes, source, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return api([&](Runtime& runtime) {
    return copy(runtime,
                {static_cast<std::byte*>(target), target_pitch, static_cast<const std::byte*>(source), source_pitch, width,
                 height},
                kind, stream);
  });
}
cudaError_t cudaMemcpyPeerAsync(void* target, int, const void* source, int, size_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(target, source, bytes, kind, nullptr);
  return error != cudaSuccess ? error : api([](Runtime& runtime) {
    runtime.wait(runtime.streams[0].get());
    return cudaSuccess;
  });
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  return api([&](Runtime& runtime) { return fill(runtime, target, value, bytes, stream); });
}
cudaError_t cudaMemset(void* target, int value, size_t bytes) { return cudaMemsetAsync(target, value, bytes, nullptr); }

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return api([&](Runtime&) {
    if (attributes == nullptr) return cudaErrorInvalidValue;
    simt::Allocation found{};
    *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, const_cast<void*>(pointer)};
    if (!Arena::instance().find(pointer, 0, found)) return cudaSuccess;
    const bool pinned = found.residence == Residence::pinned;
    *attributes = {pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice, found.device, const_cast<void*>(pointer),
                   pinned ? const_cast<void*>(pointer) : nullptr};
    return cudaSuccess;
  });
}
