// What a GPU can do at best with the instructions that the kernels use: copy, read, multiply matrices by mma.sync. Owns the probes;
// cuda_bench.cc compares kernels with them. Newer chips multiply faster with instructions of their own (wgmma, tcgen05), which
// nothing here uses.
#pragma once

#include <cstdint>

#include "ops/cuda/device.h"

namespace penstock::cuda::bench {

struct CudaCeilings {
  double copy_bytes_per_second;  // read and written, together
  double read_bytes_per_second;
  double f16_per_second;  // multiplications and additions, of m16n8k16 with f32 sums
  double s8_per_second;   // the same of m16n8k32
};

// Seconds of one call of body(i), the best of several rounds, each of which takes `round_seconds` or so. Calls are captured into a
// graph, so that what it costs the processor to launch does not count.
double seconds_per_call(const Stream& stream, double round_seconds, const std::function<void(int32_t)>& body);

// memory [bytes]: its halves are copied; several times the chip's cache. `loops`: length of the matrix probes.
CudaCeilings measure_ceilings(const Stream& stream, std::byte* memory, int64_t bytes, int32_t multiprocessors,
                              int32_t loops, double round_seconds);

}  // namespace penstock::cuda::bench
