#include "ops/arithmetic.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "ops/thread_pool.h"

namespace penstock {

// See cpu/arithmetic_avx2.cc: multiply-adds of one call, after having done them; 0 = not on this processor.
uint64_t mac_burst_avx2(MacType type);
#if !defined(__x86_64__)
uint64_t mac_burst_avx2(MacType) { return 0; }
#endif

namespace {

// Bursts of a pass and thread: a pass takes a few milliseconds, long enough that waking the threads does not show.
constexpr int32_t kBurstsPerThread = 8;
constexpr auto kProbeTimeMax = std::chrono::milliseconds(30);
constexpr int kPassesMax = 8;

}  // namespace

uint64_t measure_mac_rate(int32_t threads, MacType type) {
  using Clock = std::chrono::steady_clock;
  const uint64_t burst = type == MacType::unknown ? 0 : mac_burst_avx2(type);
  if (burst == 0) return 0;
  ThreadPool pool(threads);
  const int32_t bursts = threads * kBurstsPerThread;
  const auto start = Clock::now();
  double best_seconds = 0;
  for (int pass = 0; pass < kPassesMax; ++pass) {
    const auto pass_start = Clock::now();
    if (pass > 0 && pass_start - start > kProbeTimeMax) break;
    pool.run(bursts, [&](int32_t) { mac_burst_avx2(type); });
    const double seconds = std::chrono::duration<double>(Clock::now() - pass_start).count();
    best_seconds = pass == 0 ? seconds : std::min(best_seconds, seconds);
  }
  if (best_seconds <= 0) return 0;
  return static_cast<uint64_t>(static_cast<double>(burst) * bursts / best_seconds);
}

}  // namespace penstock
