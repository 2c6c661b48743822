// Runs the blocks of a grid, on this OS thread or spread over several, in the order that is set.
#include "simt/launch.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <numeric>
#include <thread>

#include "simt/arena.h"
#include "simt/device.h"
#include "simt/report.h"
#include "simt/stream.h"
#include "simt/symbols.h"

namespace simt {
namespace {
constexpr int kThreadsMax = 64;
constexpr uint32_t kGridMax = 65535;
constexpr uint32_t kThreadsPerBlockMax = 1024;

int threads_wanted() {
  const char* const text = std::getenv("SIMT_THREADS");
  return SIMT_TSAN || text == nullptr ? 1 : std::clamp(std::atoi(text), 1, kThreadsMax);
}
std::atomic<int> threads{threads_wanted()};
std::atomic<uint64_t> launches{0};

Block& block_of_thread() {
  static thread_local const std::unique_ptr<Block> block = std::make_unique<Block>();
  return *block;
}

// Threads that help with a grid; they wait for the next one in between, as long as the process lives.
class Helpers {
 public:
  static Helpers& instance() {
    static Helpers* const helpers = new Helpers;
    return *helpers;
  }
  void run(int count, const std::function<void()>& body) {
    {
      const std::lock_guard lock(mutex_);
      while (started_ < count) {
        std::thread([this, number = started_] { loop(number); }).detach();
        ++started_;
      }
      body_ = &body;
      wanted_ = running_ = count;
      ++round_;
    }
    begin_.notify_all();
    body();
    std::unique_lock lock(mutex_);
    end_.wait(lock, [&] { return running_ == 0; });
  }

 private:
  void loop(int number) {
    uint64_t seen = 0;
    for (;;) {
      const std::function<void()>* body = nullptr;
      {
        std::unique_lock lock(mutex_);
        begin_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
        if (number >= wanted_) continue;
        body = body_;
      }
      (*body)();
      {
        const std::lock_guard lock(mutex_);
        --running_;
      }
      end_.notify_one();
    }
  }
  std::mutex mutex_;
  std::condition_variable begin_, end_;
  const std::function<void()>* body_ = nullptr;
  int started_ = 0;
  int wanted_ = 0;
  int running_ = 0;
  uint64_t round_ = 0;
};

// Whether the process can write at an address: its heap, a stack or its data. Constants and code are not, so that a number is
// seldom taken for a pointer. The system is asked anew: it is rare that something looks like one.
bool is_writable(uintptr_t address) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    unsigned long begin = 0, end = 0;
    char access[5] = "";
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, access) != 3) continue;
    if (address >= begin && address < end) return access[1] == 'w';
  }
  return false;
}

void run_grid(Kernel kernel) {
  static char order_end = 0;
  kernel.order_end = &order_end;
  kernel.number = ++launches;
  const uint32_t blocks = kernel.grid.x * kernel.grid.y * kernel.grid.z;
  const Order how = order();
  std::vector<uint32_t> sequence;
  if (how.kind == Order::Kind::shuffled) {
    sequence.resize(blocks);
    std::iota(sequence.begin(), sequence.end(), 0u);
    uint64_t state = how.seed * 0x9E3779B97F4A7C15u + kernel.number;
    for (uint32_t i = blocks; i > 1; --i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      std::swap(sequence[i - 1], sequence[(state >> 33) % i]);
    }
  }
  std::atomic<uint32_t> next{0};
  const std::function<void()> body = [&] {
    install_signal_handlers();
    const ArenaAccess access;
    Block& block = block_of_thread();
    for (;;) {
      const uint32_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= blocks) return;
      block.run(kernel, !sequence.empty() ? sequence[i] : how.kind == Order::Kind::reverse ? blocks - 1 - i : i);
    }
  };
  const int helpers = std::min<int>(threads.load(), static_cast<int>(std::min<uint32_t>(blocks, kThreadsMax))) - 1;
  if (helpers > 0) {
    Helpers::instance().run(helpers, body);
  } else {
    body();
  }
  order_acquire(&order_end);
  const ArenaAccess access;
  Arena::instance().check_ends(kernel.function);
}
}  // namespace

void set_threads(int count) { threads = SIMT_TSAN ? 1 : std::clamp(count, 1, kThreadsMax); }
uint64_t switches() { return Block::switches(); }

void check_pointer(const void* pointer, size_t argument, const void* kernel) {
  Arena& arena = Arena::instance();
  if (pointer == nullptr || arena.owns(pointer) || arena.contains(pointer, 0)) return;
  fail(Fault::bad_pointer, "argument %zu of kernel %s is %p, which is memory of the host", argument,
       symbol_at(kernel).c_str(), pointer);
}

void check_words(const void* value, size_t bytes, size_t argument, const void* kernel) {
  // Where Linux puts heaps, stacks and mappings. Below are only numbers, and the sanitizers' own memory, which is everywhere.
  constexpr uintptr_t kLowest = uintptr_t{0x5000} << 32, kHighest = uintptr_t{1} << 48;
  Arena& arena = Arena::instance();
  for (size_t at = 0; at + sizeof(void*) <= bytes; at += sizeof(void*)) {
    uintptr_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(value) + at, sizeof word);
    const void* const pointer = reinterpret_cast<const void*>(word);
    if (word < kLowest || word >= kHighest || arena.owns(pointer) || arena.contains(pointer, 0)) continue;
    if (is_writable(word))
      fail(Fault::bad_pointer, "byte %zu of argument %zu of kernel %s has %p, which is memory of the host", at, argument,
           symbol_at(kernel).c_str(), pointer);
  }
}

cudaError_t enqueue_kernel(const void* function, Kernel kernel, std::shared_ptr<const void> arguments, cudaStream_t stream) {
  return api([&](Runtime& runtime) {
    const dim3 grid = kernel.grid, block = kernel.block;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > kGridMax || grid.z > kGridMax || grid.x > 0x7FFFFFFFu ||
        block.x == 0 || block.y == 0 || block.z == 0 || block.z > 64 || block.x > kThreadsPerBlockMax ||
        block.y > kThreadsPerBlockMax || block.x * block.y * block.z > kThreadsPerBlockMax) {
      note("launch of %s: no device takes a grid of (%u, %u, %u) and blocks of (%u, %u, %u)", symbol_at(function).c_str(), grid.x, grid.y,
           grid.z, block.x, block.y, block.z);
      return cudaErrorInvalidConfiguration;
    }
    const DeviceRow& device = current_device();
    kernel.shared_allowed = allowed_shared_bytes(function);
    kernel.shared_limit = device.shared_optin_bytes;
    const size_t limit = std::max(kernel.shared_allowed, kStaticSharedBytesMax);
    if (kernel.shared_bytes > limit) {
      note("launch of %s: %zu bytes of dynamic shared memory, %zu are allowed (cudaFuncSetAttribute)", symbol_at(function).c_str(),
           kernel.shared_bytes, limit);
      return cudaErrorInvalidValue;
    }
    kernel.function = function;
    kernel.arguments = arguments.get();
    return runtime.enqueue(stream, [kernel, arguments] { run_grid(kernel); });
  });
}

}  // namespace simt
