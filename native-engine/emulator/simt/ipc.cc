// Device memory that another process opens: the pages move into a memfd, and the handle names the process and the descriptor.
// Opening works for processes of one user, through /proc. As on a device: only what cudaMalloc made, whole, and not in the
// process that exports it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "simt/arena.h"
#include "simt/report.h"
#include "simt/stream.h"

using simt::api;
using simt::Arena;
using simt::Runtime;

namespace {
constexpr uint64_t kMagic = 0x3170696D74697374;  // no handle of a real device

struct Handle {
  uint64_t magic;
  int32_t process;
  int32_t file;
  uint64_t inode;  // a process number is used again, a file's is not
  uint64_t bytes, offset, mapped_bytes;
};
static_assert(sizeof(Handle) <= sizeof(cudaIpcMemHandle_t));
}  // namespace

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* pointer) {
  return api([&](Runtime& runtime) {
    simt::Allocation found{};
    if (handle == nullptr || !Arena::instance().find(pointer, 0, found)) return cudaErrorInvalidValue;
    runtime.wait_all();  // pages are about to move
    const int file = Arena::instance().share(found.data);
    struct stat status {};
    if (file < 0 || fstat(file, &status) != 0) {
      simt::note("memory at %p cannot be exported: it is not from cudaMalloc", pointer);
      return cudaErrorInvalidValue;
    }
    const Handle made{kMagic,
                      static_cast<int32_t>(getpid()),
                      file,
                      static_cast<uint64_t>(status.st_ino),
                      found.bytes,
                      static_cast<uint64_t>(found.data - found.mapped),
                      found.mapped_bytes};
    *handle = {};
    std::memcpy(handle->reserved, &made, sizeof made);
    return cudaSuccess;
  });
}

cudaError_t cudaIpcOpenMemHandle(void** pointer, cudaIpcMemHandle_t handle, unsigned int flags) {
  return api([&](Runtime&) {
    Handle given{};
    std::memcpy(&given, handle.reserved, sizeof given);
    if (pointer == nullptr || flags != cudaIpcMemLazyEnablePeerAccess || given.magic != kMagic) return cudaErrorInvalidValue;
    if (given.process == getpid()) return cudaErrorDeviceUninitialized;  // what the driver says to this
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%d/fd/%d", given.process, given.file);
    const int file = open(path, O_RDWR | O_CLOEXEC);
    struct stat status {};
    if (file < 0) return cudaErrorInvalidResourceHandle;
    std::byte* mapped = nullptr;
    if (fstat(file, &status) == 0 && static_cast<uint64_t>(status.st_ino) == given.inode &&
        static_cast<uint64_t>(status.st_size) == given.mapped_bytes && given.offset + given.bytes <= given.mapped_bytes) {
      int device = 0;
      cudaGetDevice(&device);
      mapped = Arena::instance().import(file, given.bytes, given.offset, given.mapped_bytes, device);
    }
    close(file);
    if (mapped == nullptr) return cudaErrorInvalidResourceHandle;
    *pointer = mapped;
    return cudaSuccess;
  });
}

cudaError_t cudaIpcCloseMemHandle(void* pointer) {
  return api([&](Runtime& runtime) {
    simt::Allocation found{};
    if (!Arena::instance().find(pointer, 0, found) || found.data != pointer ||
        found.residence != simt::Residence::imported)
      return cudaErrorInvalidValue;
    runtime.wait_all();
    Arena::instance().release(pointer);
    return cudaSuccess;
  });
}
