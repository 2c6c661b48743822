// The table of devices, by NVIDIA's data sheets, and the calls about devices and kernels.
#include "simt/device.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <utility>

#include "simt/shared.h"
#include "simt/stream.h"

namespace simt {
namespace {
constexpr size_t kKilo = 1024;
constexpr size_t kGiga = 1024 * 1024 * 1024;
constexpr int kMega = 1024 * 1024;
// Marked as emulated by the name: nobody takes measurements of this for a device's.
constexpr DeviceRow kDevices[] = {
    {80, "Emulated A100", 108, 80 * kGiga, 163 * kKilo, 164 * kKilo, 2048, 40 * kMega, 1410000, 1593000, 5120},
    {86, "Emulated RTX 3090", 82, 24 * kGiga, 99 * kKilo, 100 * kKilo, 1536, 6 * kMega, 1695000, 9751000, 384},
    {89, "Emulated RTX 4090", 128, 24 * kGiga, 99 * kKilo, 100 * kKilo, 1536, 72 * kMega, 2520000, 10501000, 384},
    {90, "Emulated H100", 132, 80 * kGiga, 227 * kKilo, 228 * kKilo, 2048, 50 * kMega, 1980000, 2619000, 5120},
    {100, "Emulated B200", 148, 180 * kGiga, 227 * kKilo, 228 * kKilo, 2048, 126 * kMega, 1965000, 3996000, 8192},
    {120, "Emulated RTX 5090", 170, 32 * kGiga, 99 * kKilo, 100 * kKilo, 1536, 96 * kMega, 2407000, 14001000, 512},
};
constexpr int kRegisters = 65536;
constexpr int kVersion = 13000;

const DeviceRow& row_of(int capability) {
  for (const DeviceRow& row : kDevices)
    if (row.capability == capability) return row;
  return kDevices[1];
}

struct State {
  std::vector<const DeviceRow*> devices{&row_of(86)};
  std::vector<size_t> used{0};
  size_t memory_bytes = 0;
  std::map<std::pair<int, const void*>, size_t> shared;  // of a device and a kernel
};
State& state() {
  static State* const all = new State;
  return *all;
}
constinit thread_local int device_number = 0;
size_t memory_of(int device) {
  const State& all = state();
  return all.memory_bytes > 0 ? all.memory_bytes : all.devices[static_cast<size_t>(device)]->memory_bytes;
}
bool exists(int device) { return device >= 0 && static_cast<size_t>(device) < state().devices.size(); }
}  // namespace

void set_devices(const std::vector<int>& capabilities) {
  State& all = state();
  all.devices.clear();
  for (const int capability : capabilities) all.devices.push_back(&row_of(capability));
  all.used.resize(std::max<size_t>(all.devices.size(), 1));
  device_number = 0;
}
void set_device_memory(size_t bytes) { state().memory_bytes = bytes; }

const DeviceRow& current_device() {
  const State& all = state();
  const size_t number = static_cast<size_t>(device_number);
  return number < all.devices.size() ? *all.devices[number] : kDevices[1];
}
size_t allowed_shared_bytes(const void* function) {
  const auto found = state().shared.find({device_number, function});
  return found == state().shared.end() ? 0 : found->second;
}
bool take_device_memory(size_t bytes) {
  size_t& used = state().used[static_cast<size_t>(device_number)];
  if (bytes > memory_of(device_number) || used > memory_of(device_number) - bytes) return false;
  used += bytes;
  return true;
}
void return_device_memory(int device, size_t bytes) { state().used[static_cast<size_t>(device)] -= bytes; }

}  // namespace simt

using simt::api;
using simt::Runtime;
using simt::state;

cudaError_t cudaGetDeviceCount(int* count) {
  return api([&](Runtime&) {
    *count = static_cast<int>(state().devices.size());
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
  });
}
cudaError_t cudaGetDevice(int* device) {
  *device = simt::device_number;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return api([&](Runtime&) {
    if (!simt::exists(device)) return state().devices.empty() ? cudaErrorNoDevice : cudaErrorInvalidDevice;
    simt::device_number = device;
    return cudaSuccess;
  });
}
cudaError_t cudaSetDeviceFlags(unsigned int) {
  return api([](Runtime&) { return cudaSuccess; });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return api([&](Runtime&) {
    if (properties == nullptr || !simt::exists(device)) return cudaErrorInvalidDevice;
    const simt::DeviceRow& row = *state().devices[static_cast<size_t>(device)];
    cudaDeviceProp& p = *properties;
    p = {};
    std::snprintf(p.name, sizeof p.name, "%s", row.name);
    std::snprintf(p.uuid.bytes, sizeof p.uuid.bytes, "emulated-%d", device % 100);
    p.totalGlobalMem = simt::memory_of(device);
    p.sharedMemPerBlock = simt::kStaticSharedBytesMax;
    p.sharedMemPerBlockOptin = row.shared_optin_bytes;
    p.sharedMemPerMultiprocessor = row.shared_bytes;
    p.regsPerBlock = p.regsPerMultiprocessor = simt::kRegisters;
    p.warpSize = 32;
    p.maxThreadsPerBlock = 1024;
    p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024, p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 0x7FFFFFFF, p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.totalConstMem = 64 * simt::kKilo;
    p.major = row.capability / 10, p.minor = row.capability % 10;
    p.multiProcessorCount = row.multiprocessors;
    p.canMapHostMemory = p.concurrentKernels = p.unifiedAddressing = p.managedMemory = p.memoryPoolsSupported = 1;
    p.pciBusID = device + 1;
    p.asyncEngineCount = 3;
    p.memoryBusWidth = row.bus_bits;
    p.l2CacheSize = row.l2_bytes;
    p.maxThreadsPerMultiProcessor = row.threads;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return api([&](Runtime&) {
    if (value == nullptr) return cudaErrorInvalidValue;
    if (!simt::exists(device)) return cudaErrorInvalidDevice;
    const simt::DeviceRow& row = *state().devices[static_cast<size_t>(device)];
    switch (attribute) {
      case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        return cudaSuccess;
      case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = static_cast<int>(simt::kStaticSharedBytesMax);
        return cudaSuccess;
      case cudaDevAttrWarpSize:
        *value = 32;
        return cudaSuccess;
      case cudaDevAttrMaxRegistersPerBlock:
      case cudaDevAttrMaxRegistersPerMultiprocessor:
        *value = simt::kRegisters;
        return cudaSuccess;
      case cudaDevAttrClockRate:
        *value = row.clock_khz;
        return cudaSuccess;
      case cudaDevAttrMultiProcessorCount:
        *value = row.multiprocessors;
        return cudaSuccess;
      case cudaDevAttrIntegrated:
        *value = 0;
        return cudaSuccess;
      case cudaDevAttrCanMapHostMemory:
      case cudaDevAttrConcurrentKernels:
      case cudaDevAttrUnifiedAddressing:
      case cudaDevAttrManagedMemory:
      case cudaDevAttrMemoryPoolsSupported:
        *value = 1;
        return cudaSuccess;
      case cudaDevAttrMemoryClockRate:
        *value = row.memory_clock_khz;
        return cudaSuccess;
      case cudaDevAttrGlobalMemoryBusWidth:
        *value = row.bus_bits;
        return cudaSuccess;
      case cudaDevAttrL2CacheSize:
        *value = row.l2_bytes;
        return cudaSuccess;
      case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = row.threads;
        return cudaSuccess;
      case cudaDevAttrAsyncEngineCount:
        *value = 3;
        return cudaSuccess;
      case cudaDevAttrComputeCapabilityMajor:
        *value = row.capability / 10;
        return cudaSuccess;
      case cudaDevAttrComputeCapabilityMinor:
        *value = row.capability % 10;
        return cudaSuccess;
      case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = static_cast<int>(row.shared_bytes);
        return cudaSuccess;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(row.shared_optin_bytes);
        return cudaSuccess;
    }
    return cudaErrorInvalidValue;
  });
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
  return api([&](Runtime&) {
    if (id == nullptr || !simt::exists(device)) return cudaErrorInvalidDevice;
    std::snprintf(id, static_cast<size_t>(bytes), "0000:%02X:00.0", device + 1);
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceReset() {
  return api([](Runtime& runtime) {
    runtime.wait_all();
    return cudaSuccess;
  });
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = simt::kVersion;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = simt::kVersion;
  return cudaSuccess;
}

// Devices reach each other's memory only through copies.
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  return api([&](Runtime&) {
    if (!simt::exists(device) || !simt::exists(peer)) return cudaErrorInvalidDevice;
    *can = 0;
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int) {
  return api([&](Runtime&) { return simt::exists(peer) ? cudaErrorPeerAccessUnsupported : cudaErrorInvalidDevice; });
}
cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  return api([&](Runtime&) { return simt::exists(peer) ? cudaErrorPeerAccessNotEnabled : cudaErrorInvalidDevice; });
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return api([&](Runtime&) {
    *total_bytes = simt::memory_of(simt::device_number);
    const size_t used = state().used[static_cast<size_t>(simt::device_number)];
    *free_bytes = *total_bytes > used ? *total_bytes - used : 0;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return api([&](Runtime&) {
    if (function == nullptr) return cudaErrorInvalidDeviceFunction;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || static_cast<size_t>(value) > simt::current_device().shared_optin_bytes) return cudaErrorInvalidValue;
    state().shared[{simt::device_number, function}] = static_cast<size_t>(value);
    return cudaSuccess;
  });
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  return api([&](Runtime&) {
    if (attributes == nullptr || function == nullptr) return cudaErrorInvalidValue;
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    attributes->ptxVersion = attributes->binaryVersion = simt::current_device().capability;
    attributes->maxDynamicSharedSizeBytes =
        static_cast<int>(std::max(simt::allowed_shared_bytes(function), simt::kStaticSharedBytesMax));
    return cudaSuccess;
  });
}
