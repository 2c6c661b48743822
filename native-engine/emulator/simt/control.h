// What a test sets, beside the order of threads (orders.h): how streams run, which device there is, what fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "simt/runtime.h"

namespace simt {

// eager: a call to a stream is done when it returns. lazy: work waits in its stream until somebody waits for it, and what of
// other streams runs meanwhile is drawn from the seed; a missing synchronisation then reads old bytes. late: nothing of other streams
// runs meanwhile but what has to, so that a wait for too little always does.
enum class Streams : uint8_t { eager, lazy, late };
void set_streams(Streams mode, uint64_t seed = 0);

// The devices there are, by compute capability: 80, 86, 89, 90, 100 or 120. One of 86 at the start: it has the least shared memory.
void set_devices(const std::vector<int>& capabilities);
// Device memory of every device; 0: what the table says.
void set_device_memory(size_t bytes);

// The next calls, after `calls` more, that may fail return this once. What is sticky stays until the process ends or
// clear_errors() is called.
void fail_call(cudaError_t error, uint64_t calls = 0);
void clear_errors();

// OS threads that the blocks of a grid are spread over; 1 at the start, or SIMT_THREADS.
void set_threads(int threads);
// Off: the host may read device memory.
void set_protection(bool is_on);

// Switches between stacks, for measurements: of this OS thread.
uint64_t switches();

}  // namespace simt
