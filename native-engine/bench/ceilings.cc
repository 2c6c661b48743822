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

// Independent sums, enough to hide the latency of each addition, and multiplications per instruction.
constexpr int kInt8Chains = 8;
constexpr int kInt8Lanes = 32;
constexpr int kF32Chains = 12;
constexpr int kF32Lanes = 8;

// Both loops are assembly: written with intrinsics, a compiler may compute the product once, before the loop, or keep
// the sums on the stack, and the rate is then not that of the multiplier.
#define PENSTOCK_INT8_CHAIN(sum, product)            \
  "vpmaddubsw %[inputs], %[weights], " product "\n" \
  "vpmaddwd %[ones], " product ", " product "\n"    \
  "vpaddd " product ", " sum ", " sum "\n"

__attribute__((target("avx2"))) void multiply_int8() {
  const __m256i weights = _mm256_set1_epi8(3);
  const __m256i inputs = _mm256_set1_epi8(-5);
  const __m256i ones = _mm256_set1_epi16(1);
  int64_t loops = kComputeLoops;
  asm volatile(
      "1:\n"  //
      PENSTOCK_INT8_CHAIN("%%ymm0", "%%ymm8") PENSTOCK_INT8_CHAIN("%%ymm1", "%%ymm9")
          PENSTOCK_INT8_CHAIN("%%ymm2", "%%ymm10") PENSTOCK_INT8_CHAIN("%%ymm3", "%%ymm11")
              PENSTOCK_INT8_CHAIN("%%ymm4", "%%ymm8") PENSTOCK_INT8_CHAIN("%%ymm5", "%%ymm9")
                  PENSTOCK_INT8_CHAIN("%%ymm6", "%%ymm10") PENSTOCK_INT8_CHAIN("%%ymm7", "%%ymm11")
      "dec %[loops]\n"
      "jnz 1b\n"
      : [loops] "+r"(loops)
      : [weights] "x"(weights), [inputs] "x"(inputs), [ones] "x"(ones)
      : "cc", "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11");
}
#undef PENSTOCK_INT8_CHAIN

#define PENSTOCK_F32_CHAIN(sum) "vfmadd231ps %%ymm13, %%ymm12, " sum "\n"

// All registers begin as zero, and so the sums stay: no denormal and no infinity slows an addition.
__attribute__((target("avx2,fma"))) void multiply_f32() {
  int64_t loops = kComputeLoops;
  asm volatile(
      "vzeroall\n"
      "1:\n"  //
      PENSTOCK_F32_CHAIN("%%ymm0") PENSTOCK_F32_CHAIN("%%ymm1") PENSTOCK_F32_CHAIN("%%ymm2")
          PENSTOCK_F32_CHAIN("%%ymm3") PENSTOCK_F32_CHAIN("%%ymm4") PENSTOCK_F32_CHAIN("%%ymm5")
              PENSTOCK_F32_CHAIN("%%ymm6") PENSTOCK_F32_CHAIN("%%ymm7") PENSTOCK_F32_CHAIN("%%ymm8")
                  PENSTOCK_F32_CHAIN("%%ymm9") PENSTOCK_F32_CHAIN("%%ymm10") PENSTOCK_F32_CHAIN("%%ymm11")
      "dec %[loops]\n"
      "jnz 1b\n"
      : [loops] "+r"(loops)
      :
      : "cc", "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11", "ymm12",
        "ymm13", "ymm14", "ymm15");
}
#undef PENSTOCK_F32_CHAIN

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
    const double rounds = static_cast<double>(kComputeLoops) * threads_;
    found.int8_macs_per_second =
        best_rate(threads_, kComputePasses, rounds * kInt8Chains * kInt8Lanes, [](int32_t) { multiply_int8(); });
    found.f32_macs_per_second =
        best_rate(threads_, kComputePasses, rounds * kF32Chains * kF32Lanes, [](int32_t) { multiply_f32(); });
  }
#endif
  return found;
}

}  // namespace penstock::bench
