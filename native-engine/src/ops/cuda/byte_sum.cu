// A checksum of bytes on the device, for blocks that go from one GPU to another without passing the processor. Owns its definition:
// the sum, modulo 2^64, over the words at position i of mix(word + i * golden), with the finisher of SplitMix64 (Steele, Lea,
// Flood 2014). A sum has no order, so parts may be cut and added as they come; the position makes words that change places show.
#include <stdexcept>

#include "ops/cuda/ops.h"

namespace penstock::cuda {

namespace {

constexpr int kSumThreads = 256;
constexpr int kSumWarps = kSumThreads / 32;
// Words of a thread: enough to hide the wait for memory, and so few that a megabyte keeps many multiprocessors busy.
constexpr int kSumWords = 16;

__device__ inline unsigned long long mixed(unsigned long long word, unsigned long long index) {
  unsigned long long x = word + index * 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// words [count]; grid (ceil(count / (kSumThreads * kSumWords))). Memory bound: reads 8 * count bytes. Oracle: the sum in order, in
// the test.
__global__ void __launch_bounds__(kSumThreads)
    byte_sum_kernel(const unsigned long long* words, int64_t count, int64_t first, unsigned long long* sum) {
  const auto thread = static_cast<int64_t>(threadIdx.x);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kSumThreads * kSumWords + thread;
  unsigned long long mine = 0;
  for (int i = 0; i < kSumWords; ++i) {
    const int64_t at = begin + static_cast<int64_t>(i) * kSumThreads;
    if (at < count) mine += mixed(words[at], static_cast<unsigned long long>(first + at));
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) mine += __shfl_xor_sync(0xFFFFFFFFu, mine, lanes);
  PENSTOCK_SHARED(unsigned long long, warps, [kSumWarps]);
  if (thread % 32 == 0) warps[thread / 32] = mine;
  __syncthreads();
  if (thread != 0) return;
  unsigned long long all = 0;
  for (int warp = 0; warp < kSumWarps; ++warp) all += warps[warp];
  atomicAdd(sum, all);
}

}  // namespace

void byte_sum(cudaStream_t stream, const std::byte* data, int64_t bytes, int64_t position, unsigned long long* sum) {
  if (reinterpret_cast<uintptr_t>(data) % 8 != 0 || bytes % 8 != 0 || position % 8 != 0)
    throw std::logic_error("byte_sum: multiples of 8");
  if (bytes == 0) return;
  const int64_t words = bytes / 8;
  constexpr int64_t kBlockWords = int64_t{kSumThreads} * kSumWords;
  const dim3 grid(static_cast<unsigned>((words + kBlockWords - 1) / kBlockWords));
  launch(byte_sum_kernel, LaunchShape{grid, dim3(kSumThreads), 0, stream}, reinterpret_cast<const unsigned long long*>(data),
         words, position / 8, sum);
}

}  // namespace penstock::cuda
