// The emulator's one header for kernels and their hosts: CUDA's words in plain C++. See emulator/README.md.
#pragma once

#include <cassert>
#include <cstdio>

#include "simt/atomics.h"
#include "simt/block.h"
#include "simt/control.h"
#include "simt/half.h"
#include "simt/launch.h"
#include "simt/math.h"
#include "simt/orders.h"
#include "simt/runtime.h"
#include "simt/shared.h"
#include "simt/tensor.h"
#include "simt/vector_types.h"
#include "simt/warp.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (::simt::current_lane->thread)
#define blockIdx (::simt::current_block->index)
#define blockDim (::simt::current_block->dim)
#define gridDim (::simt::current_block->grid)
inline constexpr int warpSize = 32;

namespace simt {
// __threadfence and its kin: on this machine nothing, to ThreadSanitizer an edge between any two of them.
void fence();
void wait_for_previous();
[[noreturn]] void trap(Site site);
void named_barrier_sync(int id, int threads, Site site = Site::current());
void named_barrier_arrive(int id, int threads, Site site = Site::current());
}  // namespace simt

inline void __syncthreads(SIMT_SITE) { simt::current_block->barrier(simt::Block::Vote::none, false, site); }
inline int __syncthreads_count(int predicate, SIMT_SITE) {
  return simt::current_block->barrier(simt::Block::Vote::count, predicate != 0, site);
}
inline int __syncthreads_and(int predicate, SIMT_SITE) {
  return simt::current_block->barrier(simt::Block::Vote::all, predicate != 0, site);
}
inline int __syncthreads_or(int predicate, SIMT_SITE) {
  return simt::current_block->barrier(simt::Block::Vote::any, predicate != 0, site);
}
inline void __threadfence() { simt::fence(); }
inline void __threadfence_block() { simt::fence(); }
inline void __threadfence_system() { simt::fence(); }
inline void __trap(SIMT_SITE) { simt::trap(site); }
inline void __nanosleep(unsigned) {}
inline long long clock64() { return static_cast<long long>(simt::switches()); }
