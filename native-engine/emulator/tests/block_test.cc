// Threads, barriers and orders: what a correct block computes, and what is found in wrong ones.
#include <numeric>

#include "device_array.h"

namespace simt_test {
namespace {

// --- Right kernels ---------------------------------------------------------------------------------------------------
__global__ void write_indices(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] += static_cast<int>(block * threads + thread);
}

TEST(Block, EveryThreadOfEveryBlockRunsOnceWithItsIndices) {
  for (const dim3 block : {dim3(1), dim3(33), dim3(4, 3, 5), dim3(1024), dim3(8, 8, 16)}) {
    const dim3 grid(3, 2, 2);
    const size_t count = size_t{12} * block.x * block.y * block.z;
    std::vector<int> expected(count);
    std::iota(expected.begin(), expected.end(), 0);
    const auto result = simt::for_each_order([&] {
      const DeviceArray<int> out(std::vector<int>(count, 0));
      EXPECT_EQ(run(write_indices, {grid, block}, out.data()), cudaSuccess);
      EXPECT_EQ(out.read(), expected);
      return out.read();
    });
    EXPECT_TRUE(result) << result.message;
  }
}

// Each interval shifts the values by one thread; a barrier that lets anybody through early breaks the sum.
__global__ void rotate(int* out, int rounds) {
  SIMT_SHARED(int, values, [2][1024]);
  const unsigned n = blockDim.x;
  values[0][threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  for (int round = 0; round < rounds; ++round) {
    values[(round + 1) % 2][(threadIdx.x + 1) % n] = values[round % 2][threadIdx.x];
    __syncthreads();
  }
  out[threadIdx.x] = values[rounds % 2][threadIdx.x];
}

TEST(Block, BarriersSeparateIntervalsInEveryOrder) {
  for (const unsigned threads : {1u, 31u, 96u, 1000u, 1024u}) {
    const auto result = simt::for_each_order([&] {
      const DeviceArray<int> out(threads);
      EXPECT_EQ(run(rotate, {1, threads}, out.data(), 37), cudaSuccess);
      const std::vector<int> values = out.read();
      for (unsigned i = 0; i < threads; ++i) EXPECT_EQ(values[(i + 37) % threads], static_cast<int>(i));
      return values;
    });
    EXPECT_TRUE(result) << result.message;
  }
}

__global__ void votes(int* out) {
  const int odd = static_cast<int>(threadIdx.x & 1u);
  out[4 * threadIdx.x] = __syncthreads_count(odd);
  out[4 * threadIdx.x + 1] = __syncthreads_and(odd) + 2 * __syncthreads_and(1);
  out[4 * threadIdx.x + 2] = __syncthreads_or(odd) + 2 * __syncthreads_or(0);
  out[4 * threadIdx.x + 3] = __syncthreads_count(1);
}

TEST(Block, BarriersCountPredicates) {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<int> out(4 * 65);
    EXPECT_EQ(run(votes, {1, 65}, out.data()), cudaSuccess);
    const std::vector<int> values = out.read();
    for (size_t i = 0; i < 65; ++i)
      EXPECT_EQ(std::vector<int>(&values[4 * i], &values[4 * i] + 4), (std::vector<int>{32, 2, 1, 65})) << i;
    return values;
  });
  EXPECT_TRUE(result) << result.message;
}

__global__ void leave_early(int* out) {
  SIMT_SHARED(int, seen, [64]);
  if (threadIdx.x % 3 == 0) return;
  seen[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  const unsigned other = threadIdx.x % 3 == 1 ? threadIdx.x + 1 : threadIdx.x - 1;
  out[threadIdx.x] = other < 64 ? seen[other] : -1;
}

TEST(Block, ThreadsThatHaveReturnedCountAsArrived) {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<int> out(std::vector<int>(64, 0));
    EXPECT_EQ(run(leave_early, {1, 64}, out.data()), cudaSuccess);
    EXPECT_EQ(out.read()[32], 31);
    return out.read();
  });
  EXPECT_TRUE(result) << result.message;
}

// A producer warp and a consumer warp hand a slot back and forth.
__global__ void pipeline(int* out, int steps) {
  SIMT_SHARED(int, slot, [32]);
  const bool produces = threadIdx.x < 32;
  const unsigned lane = threadIdx.x % 32;
  for (int step = 0; step < steps; ++step) {
    if (produces) {
      if (step > 0) simt::named_barrier_sync(2, 64);
      slot[lane] = 100 * step + static_cast<int>(lane);
      simt::named_barrier_arrive(1, 64);
    } else {
      simt::named_barrier_sync(1, 64);
      out[step * 32 + static_cast<int>(lane)] = slot[(lane + 1) % 32];
      if (step + 1 < steps) simt::named_barrier_arrive(2, 64);
    }
  }
}

TEST(Block, NamedBarriersConnectProducersAndConsumers) {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<int> out(5 * 32);
    EXPECT_EQ(run(pipeline, {2, 64}, out.data(), 5), cudaSuccess);
    const std::vector<int> values = out.read();
    for (int i = 0; i < 5 * 32; ++i) EXPECT_EQ(values[static_cast<size_t>(i)], 100 * (i / 32) + (i + 1) % 32);
    return values;
  });
  EXPECT_TRUE(result) << result.message;
}

__global__ void count_blocks(unsigned* counter, unsigned* last, float* sum) {
  atomicAdd(sum, 1.0f);
  if (threadIdx.x == 0 && atomicInc(counter, gridDim.x - 1) == gridDim.x - 1) atomicAdd(last, 1u);
}

TEST(Block, BlocksSpreadOverThreadsCountEveryBlockOnce) {
  for (const int threads : {1, 2, 5}) {
    simt::set_threads(threads);
    const DeviceArray<unsigned> counter(std::vector<unsigned>(1, 0)), last(std::vector<unsigned>(1, 0));
    const DeviceArray<float> sum(std::vector<float>(1, 0));
    for (int repeat = 0; repeat < 20; ++repeat)
      EXPECT_EQ(run(count_blocks, {100, 40}, counter.data(), last.data(), sum.data()), cudaSuccess);
    EXPECT_EQ(counter.read()[0], 0u);
    EXPECT_EQ(last.read()[0], 20u);
    EXPECT_EQ(sum.read()[0], 80000.0f);
  }
  simt::set_threads(1);
}

TEST(Block, AKernelWithoutBarriersNeedsOneSwitch) {
  const DeviceArray<int> out(std::vector<int>(1024, 0));
  const uint64_t before = simt::switches();
  EXPECT_EQ(run(write_indices, {1, 1024}, out.data()), cudaSuccess);
  EXPECT_EQ(simt::switches() - before, 1u);
}

// --- Planted bugs ----------------------------------------------------------------------------------------------------
// One thread writes what all read; in the forward order alone this looks right.
__global__ void broadcast_without_barrier(int* out) {
  SIMT_SHARED(int, value, [1]);
  if (threadIdx.x == 0) value[0] = 7;
  out[threadIdx.x] = value[0];
}

TEST(BlockBugs, AMissingBarrierDiffersFromOrderToOrder) {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<int> out(64);
    EXPECT_EQ(run(broadcast_without_barrier, {1, 64}, out.data()), cudaSuccess);
    return out.read();
  });
  EXPECT_FALSE(result);
  EXPECT_NE(result.message.find("order reverse differs from forward: 63 of 64 elements"), std::string::npos)
      << result.message;
}

__global__ void exchange_without_barrier(int* out, int first) {
  SIMT_SHARED(int, values, [64]);
  values[threadIdx.x] = first + static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[63 - threadIdx.x];
}

TEST(BlockBugs, AMissingBarrierIsFoundInEveryLaunchNotOnlyInTheFirst) {
  for (int launch = 0; launch < 3; ++launch) {
    const auto result = simt::for_each_order([&] {
      const DeviceArray<int> out(64);
      EXPECT_EQ(run(exchange_without_barrier, {1, 64}, out.data(), 5), cudaSuccess);
      return out.read();
    });
    EXPECT_FALSE(result) << launch;
  }
}

// Every block adds its number to what the one before has left.
__global__ void chain_of_blocks(int* total) { *total = *total * 3 + static_cast<int>(blockIdx.x); }

TEST(BlockBugs, BlocksThatDependOnEachOtherDifferFromOrderToOrder) {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<int> total(std::vector<int>(1, 0));
    EXPECT_EQ(run(chain_of_blocks, {8, 1}, total.data()), cudaSuccess);
    return total.read();
  });
  EXPECT_FALSE(result);
}

__global__ void half_reaches_barrier() {
  if (threadIdx.x < 16) __syncthreads();
  __syncwarp();
}
__global__ void different_barriers(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
    out[threadIdx.x] = 1;
  } else {
    __syncthreads();
  }
}
__global__ void barrier_without_partner() { simt::named_barrier_sync(3, 64); }
__global__ void barrier_number(int id, int threads) { simt::named_barrier_sync(id, threads); }
__global__ void barrier_counts() { simt::named_barrier_sync(1, threadIdx.x < 32 ? 64 : 96); }
__global__ void endless(int depth, char* out) {
  char frame[4096];
  for (char& byte : frame) byte = static_cast<char>(depth);
  *out = frame[depth % 4096];
  if (*out != 0) endless(depth + 1, out);
  *out = frame[(depth + 1) % 4096];
}
__global__ void trapped() { __trap(); }
__global__ void waits_unless(unsigned thread) {
  if (threadIdx.x != thread) simt::wait_for_previous();
}

using BlockDeathTest = testing::Test;

TEST(BlockDeathTest, ADivergentBarrierIsReportedWithEveryThreadsState) {
  EXPECT_DEATH(run(half_reaches_barrier, {1, 40}),
               "simt: divergent barrier: 16 threads wait at a barrier.*16 of them in a warp operation(.|\n)*half_reaches_barrier"
               "(.|\n)*threads 0 to 15: at __syncthreads \\(block_test.cc:[0-9]+\\)\n"
               "  threads 16 to 31: at __syncwarp, mask ffffffff \\(block_test.cc:[0-9]+\\)\n  threads 32 to 39: exited");
}
TEST(BlockDeathTest, TwoBarriersAreNotOne) {
  const DeviceArray<int> out(64);
  EXPECT_DEATH(run(different_barriers, {1, 64}, out.data()), "simt: divergent barrier: threads of one block meet at two");
}
TEST(BlockDeathTest, ANamedBarrierThatIsNeverFullIsReported) {
  EXPECT_DEATH(run(barrier_without_partner, {1, 32}), "divergent barrier(.|\n)*threads 0 to 31: at named barrier 3");
}
TEST(BlockDeathTest, NamedBarriersHaveNumbersAndWholeWarps) {
  EXPECT_DEATH(run(barrier_number, {1, 32}, 0, 32), "simt: barrier misuse: named barrier 0");
  EXPECT_DEATH(run(barrier_number, {1, 32}, 16, 32), "simt: barrier misuse: named barrier 16");
  EXPECT_DEATH(run(barrier_number, {1, 32}, 1, 33), "simt: barrier misuse: .*33 threads, which are no whole warps");
  EXPECT_DEATH(run(barrier_counts, {1, 96}), "simt: barrier misuse: .*expects 96 threads, for earlier ones it was 64");
}
TEST(BlockDeathTest, AStackThatIsFullIsReported) {
  const DeviceArray<char> out(1);
  EXPECT_DEATH(run(endless, {1, 1}, 1, out.data()), "simt: stack overflow");
}
TEST(BlockDeathTest, AKernelThatIsLaunchedEarlyWaitsInEveryThread) {
  const auto early = [](unsigned thread) {
    return simt::launch(waits_unless, dim3(2), dim3(40), 0, nullptr, std::tuple(thread), true);
  };
  EXPECT_EQ(early(40), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(run(waits_unless, {1, 40}, 7), cudaSuccess) << "of others nobody asks it";
  EXPECT_DEATH(
      {
        (void)early(39);
        (void)cudaDeviceSynchronize();
      },
      "simt: no wait: (.|\n)*waits_unless");
}
TEST(BlockDeathTest, ATrapIsReported) { EXPECT_DEATH(run(trapped, {1, 1}), "simt: trap: __trap at .*block_test.cc"); }

// --- Launches that are refused ---------------------------------------------------------------------------------------
__global__ void nothing() {}

TEST(Block, ShapesThatNoDeviceTakesAreRefused) {
  EXPECT_EQ(run(nothing, {0, 32}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(nothing, {dim3(1, 65536), 32}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(nothing, {1, 0}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(nothing, {1, 1025}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(nothing, {1, dim3(1, 1, 65)}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(nothing, {1, dim3(32, 33)}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(nothing, {1, 1024}), cudaSuccess);
}

}  // namespace
}  // namespace simt_test
