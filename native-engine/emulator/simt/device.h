// The devices that can be emulated, and which are; internal to the emulator.
#pragma once

#include <cstddef>

namespace simt {

struct DeviceRow {
  int capability;  // 10 * major + minor
  const char* name;
  int multiprocessors;
  size_t memory_bytes;
  size_t shared_optin_bytes;  // per block
  size_t shared_bytes;        // per multiprocessor
  int threads;                // per multiprocessor
  int l2_bytes;
  int clock_khz, memory_clock_khz, bus_bits;
};
const DeviceRow& current_device();
// What cudaFuncSetAttribute has allowed a kernel on the current device; 0: nothing.
size_t allowed_shared_bytes(const void* function);
// Of the current device. false: it has no so many.
bool take_device_memory(size_t bytes);
void return_device_memory(int device, size_t bytes);

}  // namespace simt
