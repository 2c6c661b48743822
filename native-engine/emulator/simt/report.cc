#include "simt/report.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "simt/arena.h"
#include "simt/block.h"
#include "simt/symbols.h"

namespace simt {

const char* name_of(Fault fault) {
  switch (fault) {
    case Fault::divergent_barrier:
      return "divergent barrier";
    case Fault::deadlock:
      return "deadlock";
    case Fault::wrong_mask:
      return "wrong mask";
    case Fault::lane_outside_mask:
      return "lane outside the mask";
    case Fault::mismatched_operation:
      return "mismatched warp operation";
    case Fault::barrier_misuse:
      return "barrier misuse";
    case Fault::shared_out_of_bounds:
      return "shared memory out of bounds";
    case Fault::shared_limit:
      return "too much shared memory";
    case Fault::global_out_of_bounds:
      return "device memory out of bounds";
    case Fault::use_after_free:
      return "use after free";
    case Fault::bad_address:
      return "bad address";
    case Fault::bad_pointer:
      return "host pointer in a kernel";
    case Fault::misaligned:
      return "misaligned access";
    case Fault::bounds_or_alignment:
      return "index out of bounds or misaligned access";
    case Fault::host_access:
      return "host access to device memory";
    case Fault::stack_overflow:
      return "stack overflow";
    case Fault::trap:
      return "trap";
    case Fault::no_wait:
      return "no wait";
  }
  return "?";
}

namespace {
void print_context() {
  if (current_lane == nullptr || current_block == nullptr || current_block->kernel() == nullptr) return;
  const Block& block = *current_block;
  const uint3 thread = current_lane->thread;
  std::fprintf(stderr, "  kernel %s, grid (%u, %u, %u), block (%u, %u, %u) of (%u, %u, %u) threads, order %s\n",
               symbol_at(block.kernel()->function).c_str(), block.grid.x, block.grid.y, block.grid.z, block.index.x,
               block.index.y, block.index.z, block.dim.x, block.dim.y, block.dim.z, describe(order()).c_str());
  std::fprintf(stderr, "  thread (%u, %u, %u), which is %u\n%s", thread.x, thread.y, thread.z, current_lane->index,
               block.describe().c_str());
}

void on_signal(int signal, siginfo_t* info, void* context) {
  const void* const address = info->si_addr;
  const void* where = nullptr;
#if defined(__x86_64__)
  where = reinterpret_cast<const void*>(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#else
  (void)context;
#endif
  static std::atomic<bool> again{false};
  if (again.exchange(true)) _exit(134);  // the report itself failed
  const std::string code = symbol_at(where);
  const bool in_kernel = current_lane != nullptr;
  Arena& arena = Arena::instance();
  bool freed = false;
  if ((signal == SIGILL || signal == SIGTRAP) && in_kernel) {
    fail(Fault::bounds_or_alignment,
         "at %s (address %p): an index beyond a shared or local array, or a load or store of a vector type at an address "
         "that is no multiple of its size",
         code.c_str(), where);
  }
  if (signal == SIGILL || signal == SIGTRAP) {
    std::fprintf(stderr, "simt: illegal instruction outside a kernel, at %s\n", code.c_str());
  } else if (!in_kernel && arena.owns(address)) {
    fail(Fault::host_access, "%s; at %s", arena.describe(address, freed).c_str(), code.c_str());
  } else if (in_kernel) {
    const char* name = nullptr;
    ptrdiff_t offset = 0;
    if (current_block->is_stack_guard(address)) fail(Fault::stack_overflow, "%zu bytes are too few", kStackBytes);
    if (current_block->shared.find(address, name, offset))
      fail(Fault::shared_out_of_bounds, "offset %td of shared array %s; at %s", offset, name, code.c_str());
    if (arena.owns(address)) {
      const std::string text = arena.describe(address, freed);
      fail(freed ? Fault::use_after_free : Fault::global_out_of_bounds, "%s; at %s", text.c_str(), code.c_str());
    }
    fail(Fault::bad_address, "%p; at %s", address, code.c_str());
  }
  std::fprintf(stderr, "simt: signal %d at address %p, in %s\n", signal, address, code.c_str());
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigaction(signal, &standard, nullptr);
}

constexpr size_t kSignalStackBytes = 256 * 1024;

// A lane's stack may be what is full: the handlers have their own, one for each OS thread.
struct SignalStack {
  SignalStack() {
    void* const memory = mmap(nullptr, kSignalStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    stack_t stack{};
    stack.ss_sp = memory;
    stack.ss_size = kSignalStackBytes;
    sigaltstack(&stack, nullptr);
  }
};
}  // namespace

void fail(Fault fault, const char* format, ...) {
  std::fprintf(stderr, "simt: %s: ", name_of(fault));
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  print_context();
  std::fflush(stderr);
  std::abort();
}

void note(const char* format, ...) {
  std::fprintf(stderr, "simt: note: ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

void install_signal_handlers() {
  static thread_local const SignalStack stack;
  (void)stack;
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = &on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP}) sigaction(signal, &action, nullptr);
    return true;
  }();
  (void)installed;
}

}  // namespace simt
