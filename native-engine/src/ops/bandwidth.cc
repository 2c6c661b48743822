#include "ops/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <new>

#include "ops/memory.h"
#include "ops/thread_pool.h"

namespace penstock {

namespace {

// Half as much again as a common 32 MiB last-level cache; most of the time goes into the system supplying the pages.
constexpr int64_t kProbeBytes = int64_t{48} << 20;
constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr auto kProbeTimeMax = std::chrono::milliseconds(60);
constexpr int kPassesMax = 6;

uint64_t sum_words(const std::byte* data) {
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  constexpr int64_t kLanes = 16;  // independent sums, so that loads and not additions are the limit
  uint64_t lanes[kLanes] = {};
  for (int64_t i = 0; i < kChunkBytes / 8; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (uint64_t lane : lanes) sum += lane;
  return sum;
}

}  // namespace

uint64_t measure_memory_bandwidth(int32_t threads) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  try {
    PageMemory memory(kProbeBytes);
    ThreadPool pool(threads);
    constexpr int32_t kChunks = static_cast<int32_t>(kProbeBytes / kChunkBytes);
    pool.run(kChunks, [&](int32_t chunk) { std::memset(memory.data() + chunk * kChunkBytes, 1, kChunkBytes); });
    std::atomic<uint64_t> sink{0};
    double best_seconds = 0;
    for (int pass = 0; pass < kPassesMax; ++pass) {
      const auto pass_start = Clock::now();
      if (pass > 0 && pass_start - start > kProbeTimeMax) break;
      pool.run(kChunks, [&](int32_t chunk) {
        sink.fetch_add(sum_words(memory.data() + chunk * kChunkBytes), std::memory_order_relaxed);
      });
      const double seconds = std::chrono::duration<double>(Clock::now() - pass_start).count();
      best_seconds = pass == 0 ? seconds : std::min(best_seconds, seconds);
    }
    if (best_seconds <= 0 || sink.load() == 0) return 0;
    return static_cast<uint64_t>(static_cast<double>(kProbeBytes) / best_seconds);
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

}  // namespace penstock
