#include "ops/thread_pool.h"

#include <stdexcept>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace penstock {

namespace {

// About 20 us of polling: longer than the serial work between two regions of a layer, shorter than a time slice.
constexpr int kIdleSpins = 2000;
// The caller waits for chunks that are already running; past this it sleeps, since a holder may be descheduled.
constexpr int kJoinSpins = 20000;
// More threads than any machine this runs on; a typing error in an option must not create a million of them.
constexpr int32_t kThreadsMax = 1024;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int32_t threads) {
  if (threads < 1 || threads > kThreadsMax) throw std::invalid_argument("threads must be between 1 and 1024");
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int32_t i = 1; i < threads; ++i) workers_.emplace_back([this] { worker_loop(); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  region_.fetch_add(1);
  region_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_erased(int32_t chunks, const void* context, Call call) {
  if (chunks <= 0) return;
  if (chunks == 1 || workers_.empty()) {
    for (int32_t chunk = 0; chunk < chunks; ++chunk) call(context, chunk);
    return;
  }
  context_ = context;
  call_ = call;
  chunks_ = chunks;
  chunks_left_.store(chunks, std::memory_order_relaxed);
  const uint32_t region = region_.load(std::memory_order_relaxed) + 1;
  claims_.store(uint64_t{region} << 32 | static_cast<uint32_t>(chunks), std::memory_order_release);
  region_.store(region);
  region_.notify_all();

  work(region);
  for (int spin = 0; spin < kJoinSpins; ++spin) {
    if (chunks_left_.load(std::memory_order_acquire) == 0) return;
    relax();
  }
  for (int32_t left = chunks_left_.load(std::memory_order_acquire); left != 0;
       left = chunks_left_.load(std::memory_order_acquire)) {
    chunks_left_.wait(left, std::memory_order_acquire);
  }
}

void ThreadPool::work(uint32_t region) {
  uint64_t seen = claims_.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(seen >> 32) == region && static_cast<uint32_t>(seen) != 0) {
    if (!claims_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    const int32_t chunk = chunks_ - static_cast<int32_t>(static_cast<uint32_t>(seen));
    call_(context_, chunk);
    // The last decrement lets run() return, after which the region's fields may change: nothing is read behind it.
    if (chunks_left_.fetch_sub(1, std::memory_order_acq_rel) == 1) chunks_left_.notify_one();
    seen = claims_.load(std::memory_order_acquire);
  }
}

void ThreadPool::worker_loop() {
  uint32_t done = 0;
  while (true) {
    uint32_t region = region_.load(std::memory_order_acquire);
    for (int spin = 0; region == done && spin < kIdleSpins; ++spin) {
      relax();
      region = region_.load(std::memory_order_acquire);
    }
    if (region == done) {
      region_.wait(done, std::memory_order_acquire);
      continue;
    }
    if (stopping_.load()) return;
    work(region);
    done = region;
  }
}

}  // namespace penstock
