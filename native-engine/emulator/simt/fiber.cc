// The x86-64 switch saves what a called function must keep; other processors use ucontext.
#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "simt/pages.h"

#if SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if SIMT_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
}
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

#ifndef SIMT_UCONTEXT
extern "C" void simt_switch_stack(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl simt_switch_stack
.hidden simt_switch_stack
.type simt_switch_stack,@function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stack,.-simt_switch_stack
.section .note.GNU-stack,"",@progbits
.text
)");
#endif

namespace simt {
namespace {
// The fiber that a new one was started for, and the one left just now: handed over in the switch.
constinit thread_local Fiber* entered = nullptr;
#if SIMT_ASAN
constinit thread_local Fiber* left = nullptr;
#endif
}  // namespace

#ifdef SIMT_UCONTEXT
struct Fiber::Context {
  ucontext_t registers;
};
#endif

Fiber::Fiber() {
#if SIMT_TSAN
  thread_ = __tsan_get_current_fiber();
#endif
#ifdef SIMT_UCONTEXT
  context_ = std::make_unique<Context>();
#endif
}

Fiber::Fiber(size_t number) {
  void* const memory = mmap(nullptr, kPageBytes + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPageBytes, PROT_NONE) != 0) {
    std::perror("simt: no memory for a stack");
    std::abort();
  }
  memory_ = static_cast<std::byte*>(memory);
  // Stacks lie whole pages apart: without this their tops would share a few sets of the first cache.
  colour_ = number * 320 % kPageBytes & ~size_t{15};
  bottom_ = memory_ + kPageBytes;
  bytes_ = kStackBytes;
#if SIMT_TSAN
  thread_ = __tsan_create_fiber(0);
#endif
#ifdef SIMT_UCONTEXT
  context_ = std::make_unique<Context>();
#endif
}

Fiber::~Fiber() {
  if (memory_ == nullptr) return;
#if SIMT_TSAN
  __tsan_destroy_fiber(thread_);
#endif
  munmap(memory_, kPageBytes + kStackBytes);
}

void Fiber::renew() {
#if SIMT_TSAN
  __tsan_destroy_fiber(thread_);
  thread_ = __tsan_create_fiber(0);
  mmap(memory_ + kPageBytes, kStackBytes, PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
#endif
}

bool Fiber::guards(const void* address) const {
  const std::byte* const at = static_cast<const std::byte*>(address);
  return memory_ != nullptr && at >= memory_ && at < memory_ + kPageBytes;
}

void Fiber::enter() {
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &left->bottom_, &left->bytes_);
#endif
  entered->entry_();
  std::abort();
}

void Fiber::start(Entry entry) {
  entry_ = entry;
#if SIMT_ASAN
  shadow_ = nullptr;
  __asan_unpoison_memory_region(memory_ + kPageBytes, kStackBytes);
#endif
#ifndef SIMT_UCONTEXT
  // As if enter() had been called with its return address missing, and had switched away at once.
  void** top = reinterpret_cast<void**>(memory_ + kPageBytes + kStackBytes - colour_ - 16);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::enter);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  saved_ = top;
#else
  getcontext(&context_->registers);
  context_->registers.uc_stack.ss_sp = memory_ + kPageBytes;
  context_->registers.uc_stack.ss_size = kStackBytes - colour_;
  context_->registers.uc_link = nullptr;
  makecontext(&context_->registers, &Fiber::enter, 0);
#endif
}

void Fiber::switch_to(Fiber& next, [[maybe_unused]] bool ends) {
  entered = &next;
#if SIMT_ASAN
  left = this;
  __sanitizer_start_switch_fiber(ends ? nullptr : &shadow_, next.bottom_, next.bytes_);
#endif
#if SIMT_TSAN
  __tsan_switch_to_fiber(next.thread_, 1);  // 1: the switch orders nothing
#endif
#ifndef SIMT_UCONTEXT
  simt_switch_stack(&saved_, next.saved_);
#else
  swapcontext(&context_->registers, &next.context_->registers);
#endif
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(shadow_, &left->bottom_, &left->bytes_);
#endif
}

#if SIMT_TSAN
Unobserved::Unobserved() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
}
Unobserved::~Unobserved() {
  AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#endif

void order_release([[maybe_unused]] void* where) {
#if SIMT_TSAN
  __tsan_release(where);
#endif
}
void order_acquire([[maybe_unused]] void* where) {
#if SIMT_TSAN
  __tsan_acquire(where);
#endif
}

}  // namespace simt
