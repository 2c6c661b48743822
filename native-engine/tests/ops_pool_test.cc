// The thread pool under many short regions, and the bandwidth probe that runs on it.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "ops/bandwidth.h"
#include "ops/thread_pool.h"

namespace penstock {
namespace {

TEST(ThreadPool, EveryChunkRunsExactlyOnceInEveryRegion) {
  for (int32_t threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int32_t region = 0; region < 3000; ++region) {
      const int32_t chunks = region % 17;
      std::vector<std::atomic<int>> runs(17);
      pool.run(chunks, [&](int32_t chunk) { runs[static_cast<size_t>(chunk)].fetch_add(1); });
      for (int32_t i = 0; i < 17; ++i)
        ASSERT_EQ(runs[static_cast<size_t>(i)].load(), i < chunks ? 1 : 0) << "region " << region;
    }
  }
}

TEST(ThreadPool, WhatChunksWriteIsVisibleAfterRun) {
  ThreadPool pool(3);
  std::vector<int> plain(64);
  for (int region = 1; region <= 2000; ++region) {
    pool.run(64, [&](int32_t chunk) { plain[static_cast<size_t>(chunk)] = region; });
    for (int value : plain) ASSERT_EQ(value, region);
  }
}

TEST(ThreadPool, WorkersThatWentToSleepComeBack) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> sum{0};
    pool.run(10, [&](int32_t chunk) { sum += chunk; });
    EXPECT_EQ(sum.load(), 45);
  }
}

TEST(ThreadPool, IsDestroyedWithoutEverRunning) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

TEST(ThreadPool, RefusesImpossibleThreadCounts) {
  EXPECT_THROW(ThreadPool(0), std::invalid_argument);
  EXPECT_THROW(ThreadPool(-3), std::invalid_argument);
  EXPECT_THROW(ThreadPool(1 << 20), std::invalid_argument);
}

TEST(Bandwidth, ProbeReportsAPlausibleCeiling) {
  const uint64_t bytes_per_second = measure_memory_bandwidth(2);
  EXPECT_GT(bytes_per_second, uint64_t{100} << 20);
  EXPECT_LT(bytes_per_second, uint64_t{10} << 40);
}

}  // namespace
}  // namespace penstock
