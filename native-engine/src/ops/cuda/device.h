// The runtime's objects with owners: streams, events, graphs, memory. Owns their lifetimes and what becomes of an error; kernels
// and the order in which they run are others'. Every return code is looked at: check() of platform.h throws CudaError, and
// guarded() makes a DeviceFailure of one after which the device computes nothing more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "model/device.h"
#include "ops/cuda/platform.h"

namespace penstock::cuda {

struct DeviceFacts {
  std::string name;
  int32_t multiprocessors;
  int32_t capability;  // 90: compute capability 9.0
  int64_t total_bytes;
  int64_t free_bytes;
};

// Makes it the calling thread's device. Throws std::invalid_argument when there is none of this number, or none that can run this
// build's kernels.
DeviceFacts open_device(int32_t index);
// For other threads, once it has been opened.
void use_device(int32_t index);

// The lowest compute capability whose instructions the kernels may use: those of sm_80.
inline constexpr int32_t kCapabilityMin = 80;

// What `body` returns; a CudaError that says that the device is lost becomes a DeviceFailure.
template <class Body>
auto guarded(Body&& body) {
  try {
    return body();
  } catch (const CudaError& error) {
    if (error.is_sticky()) throw DeviceFailure(error.what());
    throw;
  }
}

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }
  void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }
  // As synchronize(), behind a call that has failed: what is wrong was thrown by that, or will be by the next one.
  void settle() const noexcept {
    if (cudaStreamSynchronize(stream_) != cudaSuccess) (void)cudaGetLastError();
  }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  // timed: elapsed_ms() may be asked. waited: wait() leaves the core to others meanwhile.
  enum class Use : uint8_t { timed, waited };
  explicit Event(Use use = Use::waited);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(const Stream& stream) const { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  // Until what was recorded last has happened; at once where nothing was.
  void wait() const { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  // From `from` to this one; both have happened.
  float elapsed_ms(const Event& from) const;

 private:
  cudaEvent_t event_ = nullptr;
};

// What a stream was told to do, to be told again at once.
class Graph {
 public:
  // Captures what `body` enqueues on `stream`; nothing runs. Kernels have run before, so that none is loaded meanwhile.
  Graph(const Stream& stream, const std::function<void()>& body);
  ~Graph();
  Graph(Graph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  Graph& operator=(Graph&&) = delete;
  void launch(const Stream& stream) const { check(cudaGraphLaunch(executable_, stream), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

// The processor's memory that the device reads and writes by itself.
class PinnedMemory {
 public:
  explicit PinnedMemory(int64_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <class T>
  std::span<T> as() const {
    return {reinterpret_cast<T*>(data_), static_cast<size_t>(bytes_) / sizeof(T)};
  }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_;
};

// Device memory that is taken from the system once, in the order of a stream, and then cut into pieces that live as long as it
// does: the step loop allocates nothing. A pool without memory only adds up what would be taken.
class DevicePool {
 public:
  // What every piece is aligned to: kernels read 16 bytes at once, and copies are fastest from here.
  static constexpr int64_t kAlignBytes = 256;

  DevicePool() = default;
  // Throws DeviceMemoryShort.
  DevicePool(const Stream& stream, int64_t bytes);
  ~DevicePool();
  DevicePool(const DevicePool&) = delete;
  DevicePool& operator=(const DevicePool&) = delete;

  // nullptr from a pool without memory. Throws std::logic_error when it was counted wrongly.
  std::byte* take_bytes(int64_t bytes);
  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  int64_t taken() const { return taken_; }

 private:
  std::byte* data_ = nullptr;
  cudaStream_t stream_ = nullptr;
  int64_t bytes_ = 0;
  int64_t taken_ = 0;
};

// Enqueued copies. The processor's memory is pinned, or the call waits.
void copy_to_device(const Stream& stream, void* to, const void* from, int64_t bytes);
void copy_to_host(const Stream& stream, void* to, const void* from, int64_t bytes);
void copy_on_device(const Stream& stream, void* to, const void* from, int64_t bytes);
void fill_zero(const Stream& stream, void* to, int64_t bytes);

// Bytes per second that a copy within the device reads and writes, together, over `scratch`, of which half is read.
uint64_t measure_device_bandwidth(const Stream& stream, std::byte* scratch, int64_t bytes);

}  // namespace penstock::cuda
