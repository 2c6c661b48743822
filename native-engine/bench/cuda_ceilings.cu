// What this device can do at most, measured. See cuda_ceilings.h.
#include "cuda_ceilings.h"

#include <algorithm>

#include "ops/cuda/platform.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda::bench {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kBlocksPerMultiprocessor = 8;
// Loads of a thread that are on their way at once: with fewer a thread waits for memory, not for its rate.
constexpr int32_t kLoads = 4;
// Independent sums of a warp: one product takes as long as several can be started in.
constexpr int32_t kSums = 8;
constexpr int32_t kRounds = 5;
// Calls in a graph; a kernel that takes a microsecond is measured over milliseconds.
constexpr int32_t kCallsMax = 2000;

// from [count] -> to [count]
__global__ void __launch_bounds__(kThreads) copy_kernel(const uint4* from, uint4* to, int64_t count) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; at + (kLoads - 1) * stride < count; at += kLoads * stride) {
    uint4 values[kLoads];
#pragma unroll
    for (int32_t i = 0; i < kLoads; ++i) values[i] = __ldcs(from + at + i * stride);
#pragma unroll
    for (int32_t i = 0; i < kLoads; ++i) to[at + i * stride] = values[i];
  }
  for (; at < count; at += stride) to[at] = from[at];
}

// from [count]; found [1] is written only for a pattern that does not occur, so that nothing can be left out.
__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* from, int64_t count, uint32_t* found) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  uint32_t sum = 0;
  int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; at + (kLoads - 1) * stride < count; at += kLoads * stride) {
    uint4 values[kLoads];
#pragma unroll
    for (int32_t i = 0; i < kLoads; ++i) values[i] = __ldcs(from + at + i * stride);
#pragma unroll
    for (int32_t i = 0; i < kLoads; ++i) sum |= values[i].x & values[i].y & values[i].z & values[i].w;
  }
  for (; at < count; at += stride) sum |= from[at].x;
  if (sum == 0xffffffffu) *found = sum;
}

// Products of registers; out as `found` above.
__global__ void __launch_bounds__(kThreads) multiply_f16_kernel(int32_t loops, float* out) {
  float sums[kSums][4] = {};
  const uint32_t one = 0x3c003c00u + threadIdx.x;
  const uint32_t a[4] = {one, one, one, one};
  const uint32_t b[2] = {one, one};
  for (int32_t i = 0; i < loops; ++i) {
#pragma unroll
    for (int32_t j = 0; j < kSums; ++j) mma_m16n8k16(sums[j], a, b, F16{});
  }
  float total = 0;
#pragma unroll
  for (int32_t j = 0; j < kSums; ++j) total += sums[j][0] + sums[j][1] + sums[j][2] + sums[j][3];
  if (total == -1.0f) *out = total;
}

__global__ void __launch_bounds__(kThreads) multiply_s8_kernel(int32_t loops, int32_t* out) {
  int32_t sums[kSums][4] = {};
  const uint32_t one = 0x01010101u + threadIdx.x;
  const uint32_t a[4] = {one, one, one, one};
  const uint32_t b[2] = {one, one};
  for (int32_t i = 0; i < loops; ++i) {
#pragma unroll
    for (int32_t j = 0; j < kSums; ++j) mma_m16n8k32_s8(sums[j], a, b);
  }
  int32_t total = 0;
#pragma unroll
  for (int32_t j = 0; j < kSums; ++j) total |= sums[j][0] | sums[j][1] | sums[j][2] | sums[j][3];
  if (total == -1) *out = total;
}

double round_ms(const Stream& stream, const Graph& graph) {
  const Event begin(Event::Use::timed);
  const Event end(Event::Use::timed);
  begin.record(stream);
  graph.launch(stream);
  end.record(stream);
  stream.synchronize();
  return static_cast<double>(end.elapsed_ms(begin));
}

}  // namespace

double seconds_per_call(const Stream& stream, double round_seconds, const std::function<void(int32_t)>& body) {
  body(0);  // loads the kernel
  stream.synchronize();
  const auto graph_of = [&](int32_t calls) {
    return Graph(stream, [&] {
      for (int32_t i = 0; i < calls; ++i) body(i);
    });
  };
  const Graph probe = graph_of(4);
  (void)round_ms(stream, probe);
  const double once = std::max(1e-7, round_ms(stream, probe) / 1e3 / 4);
  const auto calls = static_cast<int32_t>(std::clamp(round_seconds / once, 1.0, double{kCallsMax}));
  const Graph graph = graph_of(calls);
  (void)round_ms(stream, graph);
  double best = round_ms(stream, graph);
  for (int32_t round = 1; round < kRounds; ++round) best = std::min(best, round_ms(stream, graph));
  return best / 1e3 / calls;
}

CudaCeilings measure_ceilings(const Stream& stream, std::byte* memory, int64_t bytes, int32_t multiprocessors,
                              int32_t loops, double round_seconds) {
  const int64_t count = bytes / 2 / static_cast<int64_t>(sizeof(uint4));
  auto* from = reinterpret_cast<uint4*>(memory);
  const auto blocks = static_cast<unsigned>(multiprocessors * kBlocksPerMultiprocessor);
  const LaunchShape shape{dim3(blocks), dim3(kThreads), 0, stream};
  const double moved = 2.0 * static_cast<double>(count) * sizeof(uint4);
  CudaCeilings found{};
  const double copied =
      seconds_per_call(stream, round_seconds, [&](int32_t) { launch(copy_kernel, shape, from, from + count, count); });
  found.copy_bytes_per_second = moved / copied;
  const double read = seconds_per_call(stream, round_seconds, [&](int32_t) {
    launch(read_kernel, shape, from, 2 * count, reinterpret_cast<uint32_t*>(memory));
  });
  found.read_bytes_per_second = moved / read;
  const double products = static_cast<double>(blocks) * (kThreads / 32) * kSums * loops;
  const double f16 = seconds_per_call(stream, round_seconds, [&](int32_t) {
    launch(multiply_f16_kernel, shape, loops, reinterpret_cast<float*>(memory));
  });
  found.f16_per_second = products * 2 * 16 * 8 * 16 / f16;
  const double s8 = seconds_per_call(stream, round_seconds, [&](int32_t) {
    launch(multiply_s8_kernel, shape, loops, reinterpret_cast<int32_t*>(memory));
  });
  found.s8_per_second = products * 2 * 16 * 8 * 32 / s8;
  return found;
}

}  // namespace penstock::cuda::bench
