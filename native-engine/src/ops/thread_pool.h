// A persistent pool for short parallel regions. Owns the threads and the hand-out of chunks; what a chunk is, the
// caller decides.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace penstock {

// Chunks are claimed one by one from a single atomic word, so a thread that the system has put aside delays the region
// only by the chunk it holds, never by chunks it has not begun. One region at a time; run() is called by one thread.
class ThreadPool {
 public:
  // threads >= 1 counts the caller of run(): threads - 1 are created.
  explicit ThreadPool(int32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

  // Calls body(chunk) once for every chunk in [0, chunks), on any thread, and returns when all calls have returned.
  // The body must not throw and must not call run(). Allocates nothing.
  template <typename Body>
  void run(int32_t chunks, const Body& body) {
    static_assert(std::is_invocable_v<const Body&, int32_t>);
    run_erased(chunks, &body, [](const void* context, int32_t chunk) { (*static_cast<const Body*>(context))(chunk); });
  }

 private:
  using Call = void (*)(const void* context, int32_t chunk);

  void run_erased(int32_t chunks, const void* context, Call call);
  void work(uint32_t region);
  void worker_loop();

  // High half: number of the region; low half: chunks not yet claimed. A claim succeeds only while both are as read, so
  // a late thread can never take a chunk of a region whose body it has not seen.
  std::atomic<uint64_t> claims_{0};
  std::atomic<uint32_t> region_{0};      // what idle workers wait on
  std::atomic<int32_t> chunks_left_{0};  // not yet finished
  std::atomic<bool> stopping_{false};
  // Of the current region; read only between a claim and the end of that claim's chunk.
  const void* context_ = nullptr;
  Call call_ = nullptr;
  int32_t chunks_ = 0;

  std::vector<std::thread> workers_;
};

}  // namespace penstock
