// The machine's memory ceiling. Owns the probe; who compares against it is the caller's business.
#pragma once

#include <cstdint>

namespace penstock {

// Bytes per second that `threads` threads read sequentially from memory larger than the last-level cache: the best of a
// few passes, since noise only ever slows a pass down. Takes under 100 ms; 0 when the probe's memory is not available.
uint64_t measure_memory_bandwidth(int32_t threads);

}  // namespace penstock
