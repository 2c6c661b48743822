// Stacks and the switch between them. Owns memory and registers; who runs next is block.cc. A fiber stays on the OS thread
// that made it. Three tools are told about every switch: AddressSanitizer (which stack), ThreadSanitizer (which thread: every
// fiber is a thread of its own to it, and a switch orders nothing) and nobody else.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#ifndef SIMT_ASAN
#define SIMT_ASAN 0
#endif

// The emulator itself is never instrumented for ThreadSanitizer, so that its own hand-overs order nothing; the build says so.
#ifdef SIMT_THREAD_SANITIZER
#define SIMT_TSAN 1
#else
#define SIMT_TSAN 0
#endif

// Another processor than x86-64 has ucontext; here it can be asked for, to test it.
#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT 1
#endif

namespace simt {

// Kernels are flat: what they need fits many times. Sanitizers make frames several times as large.
inline constexpr size_t kStackBytes = (SIMT_ASAN || SIMT_TSAN) ? 256 * 1024 : 64 * 1024;

// A stack with a guard page below it, and what is saved of a fiber that is not running.
class Fiber {
 public:
  using Entry = void (*)();
  Fiber();  // of the OS thread itself: no stack of its own
  explicit Fiber(size_t number);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next switch to it calls `entry`, which never returns.
  void start(Entry entry);
  // From the running fiber to another. `ends`: the running one is not coming back.
  void switch_to(Fiber& next, bool ends);
  // For ThreadSanitizer: from now on another thread, on memory without a history. By the OS thread's own fiber.
  void renew();
  bool guards(const void* address) const;

 private:
  static void enter();
  std::byte* memory_ = nullptr;  // guard page, then the stack
  size_t colour_ = 0;
  Entry entry_ = nullptr;
  void* saved_ = nullptr;    // stack pointer, or the ucontext
  void* thread_ = nullptr;   // ThreadSanitizer's
  void* shadow_ = nullptr;   // AddressSanitizer's fake stack
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
#ifdef SIMT_UCONTEXT
  struct Context;
  std::unique_ptr<Context> context_;
#endif
};

// While it lives, ThreadSanitizer does not look at what this lane does: the emulator's own lists grow and shrink in any lane.
class Unobserved {
 public:
#if SIMT_TSAN
  Unobserved();
  ~Unobserved();
#else
  Unobserved() {}  // not trivial, so that it counts as used
#endif
  Unobserved(const Unobserved&) = delete;
  Unobserved& operator=(const Unobserved&) = delete;
};

// A happens-before edge, for ThreadSanitizer; nothing otherwise.
void order_release(void* where);
void order_acquire(void* where);

}  // namespace simt
