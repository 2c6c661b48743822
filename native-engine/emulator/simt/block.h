// One thread block: its threads (lanes), warps and barriers. Owns who runs and who waits; fibers are fiber.h, the operations
// that lanes meet in are warp.h and tensor.h, shared memory is shared.h. One block runs at a time on an OS thread, and one lane
// of it: a lane runs until it waits, and which one goes on then is the order (orders.h).
//
//   lane:  unstarted ──pick──▶ running ──meet / barrier──▶ waiting ──last one arrives──▶ ready ──pick──▶ running ──▶ exited
//
// A lane that has not waited yet needs no stack of its own: it runs on the stack of the one before it, so that a kernel
// without barriers never switches.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "simt/fiber.h"
#include "simt/orders.h"
#include "simt/shared.h"
#include "simt/vector_types.h"

namespace simt {

using Site = std::source_location;

inline constexpr uint32_t kWarpLanes = 32;
inline constexpr uint32_t kWarpsMax = 32;
inline constexpr uint32_t kLanesMax = kWarpLanes * kWarpsMax;
inline constexpr uint32_t kBarriers = 16;  // 0 is __syncthreads

enum class WarpOp : uint8_t { sync, shuffle, vote, match, reduce, mma, ldmatrix };

// A copy that cp.async has begun. Its group is the number of commits before it.
struct PendingCopy {
  std::byte* target;
  const std::byte* source;  // nullptr: zeros
  uint32_t group;
  size_t bytes;
};

struct Lane {
  enum class State : uint8_t { unstarted, ready, running, at_barrier, at_warp_op, exited };
  uint3 thread;    // threadIdx
  uint32_t index;  // in the block
  Fiber* fiber = nullptr;
  State state = State::unstarted;
  // What it waits for.
  WarpOp op = WarpOp::sync;
  uint8_t barrier = 0;
  uint32_t mask = 0;
  Site site;
  // cp.async
  std::vector<PendingCopy> copies;
  uint32_t committed = 0;
  bool has_waited = false;  // wait_for_previous()

  uint32_t bit() const { return 1u << index % kWarpLanes; }
};

// A kernel with its arguments, as it was launched.
struct Kernel {
  dim3 grid;
  dim3 block;
  bool early = false;  // it may begin beside the end of the one before, on chips that can
  size_t shared_bytes = 0;
  size_t shared_allowed = 0;              // dynamic: what cudaFuncSetAttribute has allowed
  size_t shared_limit = 0;                // of the device, static and dynamic together, once it was asked for
  void (*call)(const void* arguments) = nullptr;  // once per thread
  const void* arguments = nullptr;
  const void* function = nullptr;
  uint64_t number = 0;           // of the launch
  char* order_end = nullptr;     // for ThreadSanitizer: what the kernel did comes before what follows it
};

class Block {
 public:
  // Does for all arrived lanes what they met for; slots[lane] is what a lane brought.
  using Combine = void (*)(void* const* slots, uint32_t arrived);
  enum class Vote : uint8_t { none, count, all, any };

  Block();

  uint3 index{};  // blockIdx
  dim3 dim;       // blockDim
  dim3 grid;      // gridDim
  SharedMemory shared;

  void run(const Kernel& kernel, uint32_t block_number);

  // The running lane waits until every live lane of the mask is here; the last one combines. Returns when that is done.
  void meet(WarpOp op, uint32_t mask, void* slot, Combine combine, Site site);
  // __syncthreads and its kin: all live threads.
  int barrier(Vote vote, bool predicate, Site site);
  void named_barrier(int id, int threads, bool waits, Site site);

  uint32_t live_lanes() const;  // of the running lane's warp
  const Kernel* kernel() const { return kernel_; }
  // What every thread does, neighbours that do the same in one line.
  std::string describe() const;
  // Whether a stack's guard page is at the address.
  bool is_stack_guard(const void* address) const;
  static uint64_t switches();

 private:
  struct Group {  // lanes meeting in a warp operation
    uint32_t mask;
    uint32_t arrived;
    WarpOp op;
    Combine combine;
    uint32_t order;  // which of the warp's
  };
  struct Warp {
    uint32_t ready = 0;
    uint32_t live = 0;
    std::vector<Group> groups;
    std::array<void*, kWarpLanes> slots{};
    uint32_t groups_made = 0;
  };
  struct Barrier {
    uint32_t arrived = 0;
    uint32_t expected = 0;  // 0: every live thread
    uint32_t waiting = 0;
    uint32_t votes = 0;
    uint32_t voters = 0;
    uint32_t result_votes = 0;
    uint32_t result_voters = 0;
    uint32_t phase = 0;
    Site site;
  };

  static void run_lanes();
  void run_lanes_here();
  void leave_lane();
  void suspend();
  void resume(Lane& next);
  Lane* pick();
  uint32_t choose(uint32_t mask);
  uint64_t random();
  void set_ready(Lane& lane);
  bool complete(Warp& warp, uint32_t first_lane, size_t group);
  bool try_release(uint32_t id);
  char* barrier_order(uint32_t id) const;
  char* group_order(const Warp& warp, uint32_t order) const;
  Fiber* take_stack();
  void give_stack(Fiber* stack);
  [[noreturn]] void report_stuck();

  const Kernel* kernel_ = nullptr;
  Fiber host_;
  std::vector<std::unique_ptr<Fiber>> stacks_;
  std::vector<Fiber*> free_stacks_;
  std::vector<Lane> lanes_;
  std::array<Warp, kWarpsMax> warps_;
  std::array<Barrier, kBarriers> barriers_;
  uint32_t lane_count_ = 0;
  uint32_t live_ = 0;
  uint32_t ready_warps_ = 0;
  uint32_t warp_ = 0;  // the warp that ran last
  Order order_;
  uint64_t random_ = 0;
  char order_begin_ = 0;
  char* orders_ = nullptr;  // of this block alone
};

// Of this OS thread; nullptr outside a kernel.
inline constinit thread_local Block* current_block = nullptr;
inline constinit thread_local Lane* current_lane = nullptr;

}  // namespace simt
