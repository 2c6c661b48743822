// Splitting loops over the pool by cost. Owns the rule when a loop is worth waking threads for.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/thread_pool.h"

namespace penstock {

// Below this, about 2 us, an operation gains less on two threads than the region costs: 0.2 to 0.4 us to start and join
// while the other threads poll, and a wait for any that the system has put aside.
inline constexpr int64_t kSerialMacsMax = 50'000;
// Small enough that the last chunk does not leave the other threads idle, large enough to hide the claim.
inline constexpr int64_t kChunkMacsMin = 16'000;
// Several chunks per thread even out threads that the system delays.
inline constexpr int32_t kChunksPerThread = 8;

class Parallel {
 public:
  explicit Parallel(ThreadPool& pool) : pool_(pool) {}

  // Most chunks that for_ranges makes, for scratch that is indexed by chunk.
  static int32_t chunks_max(int32_t threads) { return threads * kChunksPerThread; }
  int32_t threads() const { return pool_.threads(); }

  // Calls body(begin, end, chunk) for ranges that together are [0, items). macs_per_item is the cost estimate in
  // multiply-adds. The ranges are not part of the result: bodies must compute each item independently.
  template <typename Body>
  void for_ranges(int64_t items, int64_t macs_per_item, const Body& body) {
    if (items <= 0) return;
    const int64_t macs = items * macs_per_item;
    if (pool_.threads() == 1 || macs < kSerialMacsMax) {
      body(int64_t{0}, items, 0);
      return;
    }
    const int64_t chunks = std::min({items, macs / kChunkMacsMin, int64_t{chunks_max(pool_.threads())}});
    pool_.run(static_cast<int32_t>(chunks),
              [&](int32_t chunk) { body(items * chunk / chunks, items * (chunk + 1) / chunks, chunk); });
  }

 private:
  ThreadPool& pool_;
};

}  // namespace penstock
