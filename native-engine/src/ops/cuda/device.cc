// Owners of the runtime's objects. See device.h.
#include "ops/cuda/device.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace penstock::cuda {
namespace {

constexpr int kCopiesTimed = 8;

int64_t aligned(int64_t bytes) {
  return (bytes + DevicePool::kAlignBytes - 1) / DevicePool::kAlignBytes * DevicePool::kAlignBytes;
}

std::string mib(int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

DeviceFacts open_device(int32_t index) {
  // Kernels are loaded now and not with their first launch, which may be while a graph is captured. Who has said something else
  // keeps it.
  (void)setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted != cudaSuccess) {
    (void)cudaGetLastError();
    throw std::invalid_argument(std::string("no CUDA device can be used: ") + cudaGetErrorString(counted));
  }
  if (index < 0 || index >= count) {
    throw std::invalid_argument("there is no cuda:" + std::to_string(index) + ": this machine has " + std::to_string(count) +
                                " CUDA devices");
  }
  use_device(index);
  cudaDeviceProp facts{};
  check(cudaGetDeviceProperties(&facts, index), "cudaGetDeviceProperties");
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  const int32_t capability = 10 * facts.major + facts.minor;
  if (capability < kCapabilityMin) {
    throw std::invalid_argument(std::string(facts.name) + " has compute capability " + std::to_string(facts.major) + "." +
                                std::to_string(facts.minor) + "; 8.0 is needed");
  }
  return {facts.name, facts.multiProcessorCount, capability, static_cast<int64_t>(total_bytes),
          static_cast<int64_t>(free_bytes)};
}

void use_device(int32_t index) { check(cudaSetDevice(index), "cudaSetDevice"); }

// Not the legacy default stream's: it would wait for that, and that for it.
Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

// Destructors say nothing: what is wrong with the device by then was thrown before, or will be by the next owner.
Stream::~Stream() { (void)cudaStreamDestroy(stream_); }

Event::Event(Use use) {
  const unsigned flags = use == Use::timed ? cudaEventDefault : cudaEventDisableTiming | cudaEventBlockingSync;
  check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreateWithFlags");
}
Event::~Event() { (void)cudaEventDestroy(event_); }

float Event::elapsed_ms(const Event& from) const {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, from.event_, event_), "cudaEventElapsedTime");
  return ms;
}

Graph::Graph(const Stream& stream, const std::function<void()>& body) {
  // Of this thread alone: the threads that move blocks call the runtime meanwhile.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    (void)cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  const cudaError_t made = cudaGraphInstantiate(&executable_, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(made, "cudaGraphInstantiate");
}

Graph::~Graph() {
  if (executable_ != nullptr) (void)cudaGraphExecDestroy(executable_);
}

PinnedMemory::PinnedMemory(int64_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  check(cudaMallocHost(&data, static_cast<size_t>(bytes)), "cudaMallocHost");
  data_ = static_cast<std::byte*>(data);
}
PinnedMemory::~PinnedMemory() { (void)cudaFreeHost(data_); }

DevicePool::DevicePool(const Stream& stream, int64_t bytes) : stream_(stream), bytes_(bytes) {
  void* data = nullptr;
  const cudaError_t made = cudaMallocAsync(&data, static_cast<size_t>(bytes), stream);
  if (made == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw DeviceMemoryShort("the device has no " + mib(bytes) + " of memory left");
  }
  check(made, "cudaMallocAsync");
  data_ = static_cast<std::byte*>(data);
}

DevicePool::~DevicePool() {
  if (data_ != nullptr) (void)cudaFreeAsync(data_, stream_);
}

std::byte* DevicePool::take_bytes(int64_t bytes) {
  const int64_t at = taken_;
  taken_ += aligned(bytes);
  if (data_ == nullptr) return nullptr;
  if (taken_ > bytes_) throw std::logic_error("more is taken of the device's memory than was counted");
  return data_ + at;
}

void copy_to_device(const Stream& stream, void* to, const void* from, int64_t bytes) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream), "copy to the device");
}
void copy_to_host(const Stream& stream, void* to, const void* from, int64_t bytes) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream), "copy to the host");
}
void copy_on_device(const Stream& stream, void* to, const void* from, int64_t bytes) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream), "copy on the device");
}
void fill_zero(const Stream& stream, void* to, int64_t bytes) {
  check(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), stream), "cudaMemsetAsync");
}

uint64_t measure_device_bandwidth(const Stream& stream, std::byte* scratch, int64_t bytes) {
  const int64_t half = bytes / 2 / DevicePool::kAlignBytes * DevicePool::kAlignBytes;
  if (half == 0) return 0;
  const Event begin(Event::Use::timed), end(Event::Use::timed);
  copy_on_device(stream, scratch + half, scratch, half);
  begin.record(stream);
  for (int i = 0; i < kCopiesTimed; ++i) copy_on_device(stream, scratch + half, scratch, half);
  end.record(stream);
  stream.synchronize();
  const double seconds = static_cast<double>(end.elapsed_ms(begin)) / 1e3;
  return seconds > 0 ? static_cast<uint64_t>(2.0 * kCopiesTimed * static_cast<double>(half) / seconds) : 0;
}

}  // namespace penstock::cuda
