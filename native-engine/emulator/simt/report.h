// What the emulator finds, said once and then the process ends: a kernel with a fault has no results worth having, and a test
// expects it with EXPECT_DEATH. The text begins "simt: <fault>:", then come the kernel, the thread and what every thread of the
// block waits for. Owns the words and the signal handlers; the findings are where the rules are.
#pragma once

#include <cstddef>
#include <string>

namespace simt {

enum class Fault {
  divergent_barrier,     // threads of a block meet at different barriers, or some never come
  deadlock,              // nobody can go on, for another reason
  wrong_mask,            // a warp operation's mask lacks the caller, or lanes disagree about it
  lane_outside_mask,     // a shuffle reads a lane that takes no part
  mismatched_operation,  // lanes with one mask are at different warp operations
  barrier_misuse,        // a named barrier with a bad number or count
  shared_out_of_bounds,
  shared_limit,          // more shared memory than the device has, or than was asked for
  global_out_of_bounds,  // a kernel, or a copy, leaves its allocation
  use_after_free,
  bad_address,           // a kernel reads or writes what is no memory
  bad_pointer,           // a kernel is given memory of the host
  misaligned,
  bounds_or_alignment,   // found by the compiler's checks in the kernel
  host_access,           // the host touches device memory outside a kernel
  stack_overflow,
  trap,
  no_wait,               // a thread of a kernel that is launched early does not wait for those before it
};

const char* name_of(Fault fault);

// Ends the process with a report.
[[noreturn]] void fail(Fault fault, const char* format, ...) __attribute__((format(printf, 2, 3)));
// One line to stderr: why a call of the runtime returns an error.
void note(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Turns the signals of bad accesses into reports. Called by whatever is used first; again costs nothing.
void install_signal_handlers();

}  // namespace simt
