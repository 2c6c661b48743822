#include "ceilings.h"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace penstock::bench {

namespace {

using Clock = std::chrono::steady_clock;

// Eight times a 32 MiB last-level cache, so that next to nothing of a pass is answered by it.
constexpr int64_t kProbeBytes = int64_t{256} << 20;
constexpr int kReadPasses = 5;
constexpr int kComputePasses = 12;
// About 3 ms a pass: long against starting a pass, short against how long a noisy neighbour stays away.
constexpr int64_t kComputeLoops = 1 << 18;

// Best rate of `units` per pass over `passes` passes of body(thread), all threads starting each pass together.
template <typename Body>
double best_rate(int32_t threads, int passes, double units, const Body& body) {
  double best_seconds = 0;
  std::barrier gate(threads);
  std::vector<std::thread> others;
  const auto run = [&](int32_t thread) {
    for (int pass = 0; pass < passes; ++pass) {
      gate.arrive_and_wait();
      const auto start = Clock::now();
      body(thread);
      gate.arrive_and_wait();
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (thread == 0) best_seconds = pass == 0 ? seconds : std::min(best_seconds, seconds);
    }
  };
  for (int32_t thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread& other : others) other.join();
  return units / best_seconds;
}

uint64_t sum_words(const std::byte* data, int64_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  constexpr int64_t kLanes = 16;  // independent sums, so that loads and not additions are the limit
  uint64_t lanes[kLanes] = {};
  for (int64_t i = 0; i + kLanes <= bytes / 8; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (uint64_t lane : lanes) sum += lane;
  return sum;
}

#if defined(__x86_64__)

constexpr int kChains = 10;  // enough independent sums to hide the latency of each
constexpr int kInt8Lanes = 32;
constexpr int kF32Lanes = 8;

// The empty asm makes the compiler believe that the operands change in every round; without it the product is computed
// once, before the loop, and the rate is that of the additions.
__attribute__((target("avx2"))) int64_t multiply_int8() {
  __m256i sums[kChains];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  __m256i weights = _mm256_set1_epi8(3);
  __m256i inputs = _mm256_set1_epi8(-5);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < kComputeLoops; ++i) {
#pragma GCC unroll 10
    for (int chain = 0; chain < kChains; ++chain) {
      asm volatile("" : "+x"(weights), "+x"(inputs));
      sums[chain] =
          _mm256_add_epi32(sums[chain], _mm256_madd_epi16(_mm256_maddubs_epi16(weights, inputs), ones));
    }
  }
  __m256i total = sums[0];
  for (int chain = 1; chain < kChains; ++chain) total = _mm256_add_epi32(total, sums[chain]);
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), total);
  return lanes[0];
}

__attribute__((target("avx2,fma"))) int64_t multiply_f32() {
  __m256 sums[kChains];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  __m256 weights = _mm256_set1_ps(1.25f);
  __m256 inputs = _mm256_set1_ps(-0.5f);
  for (int64_t i = 0; i < kComputeLoops; ++i) {
#pragma GCC unroll 10
    for (int chain = 0; chain < kChains; ++chain) {
      asm volatile("" : "+x"(weights), "+x"(inputs));
      sums[chain] = _mm256_fmadd_ps(weights, inputs, sums[chain]);
    }
  }
  __m256 total = sums[0];
  for (int chain = 1; chain < kChains; ++chain) total = _mm256_add_ps(total, sums[chain]);
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, total);
  return static_cast<int64_t>(lanes[0]);
}

bool has_avx2() { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }

#endif

}  // namespace

CeilingProbe::CeilingProbe(int32_t threads) : threads_(threads), memory_(kProbeBytes) {
  std::memset(memory_.data(), 1, static_cast<size_t>(kProbeBytes));
}

Ceilings CeilingProbe::measure() const {
  std::atomic<int64_t> sink{0};
  const int64_t share = kProbeBytes / threads_ / 128 * 128;
  Ceilings found{};
  found.read_bytes_per_second =
      best_rate(threads_, kReadPasses, static_cast<double>(share) * threads_, [&](int32_t thread) {
        sink.fetch_add(static_cast<int64_t>(sum_words(memory_.data() + thread * share, share)));
      });
#if defined(__x86_64__)
  if (has_avx2()) {
    const double rounds = static_cast<double>(kComputeLoops) * kChains * threads_;
    found.int8_macs_per_second =
        best_rate(threads_, kComputePasses, rounds * kInt8Lanes, [&](int32_t) { sink.fetch_add(multiply_int8()); });
    found.f32_macs_per_second =
        best_rate(threads_, kComputePasses, rounds * kF32Lanes, [&](int32_t) { sink.fetch_add(multiply_f32()); });
  }
#endif
  return found;
}

}  // namespace penstock::bench
