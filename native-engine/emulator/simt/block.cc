// The scheduler: a waiting lane hands over to the next one directly; the OS thread's own stack comes back when all have ended.
#include "simt/block.h"

#include <cstdio>
#include <cstring>

#include "simt/report.h"

namespace simt {
namespace {
constinit thread_local uint64_t switch_count = 0;

// What happens before what, for ThreadSanitizer, is told by addresses. Each meeting has one, and so has each block: a thread
// that goes on early must not be seen by one that still waits, nor by another block. After so many they are used again.
constexpr uint32_t kGroupOrders = 64;
constexpr size_t kOrdersPerBlock = 2 * kBarriers + kWarpsMax * kGroupOrders;
constexpr size_t kOrderedBlocks = SIMT_TSAN ? 1024 : 1;
char orders[kOrderedBlocks * kOrdersPerBlock];

#if SIMT_TSAN
constexpr uint32_t kRenewedBlocks = 2;
#endif

const char* name_of(WarpOp op) {
  switch (op) {
    case WarpOp::sync:
      return "__syncwarp";
    case WarpOp::shuffle:
      return "a shuffle";
    case WarpOp::vote:
      return "a vote";
    case WarpOp::match:
      return "a match";
    case WarpOp::reduce:
      return "a reduction";
    case WarpOp::mma:
      return "mma";
    case WarpOp::ldmatrix:
      return "ldmatrix";
  }
  return "?";
}

const char* file_of(const Site& site) {
  const char* name = site.file_name();
  for (const char* at = name; *at != 0; ++at)
    if (*at == '/') name = at + 1;
  return name;
}

std::string place(const Site& site) { return std::string(file_of(site)) + ":" + std::to_string(site.line()); }

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
}  // namespace

Block::Block() { lanes_.resize(kLanesMax); }

char* Block::barrier_order(uint32_t id) const { return orders_ + 2 * id + barriers_[id].phase % 2; }
char* Block::group_order(const Warp& warp, uint32_t order) const {
  return orders_ + 2 * kBarriers + static_cast<size_t>(&warp - warps_.data()) * kGroupOrders + order;
}

uint64_t Block::switches() { return switch_count; }

void Block::run(const Kernel& kernel, uint32_t block_number) {
  kernel_ = &kernel;
  grid = kernel.grid;
  dim = kernel.block;
  index = {block_number % grid.x, block_number / grid.x % grid.y, block_number / grid.x / grid.y};
  lane_count_ = live_ = dim.x * dim.y * dim.z;
  order_ = order();
  random_ = mix(order_.seed * 0x9E3779B97F4A7C15u + mix(kernel.number << 32 | block_number)) | 1u;
  Block* const outer = current_block;
  current_block = this;
  shared.begin_block(kernel.shared_bytes);

  uint3 thread{0, 0, 0};
  for (uint32_t i = 0; i < lane_count_; ++i) {
    Lane& lane = lanes_[i];
    lane.thread = thread;
    lane.index = i;
    lane.fiber = nullptr;
    lane.state = Lane::State::unstarted;
    lane.copies.clear();
    lane.committed = 0;
    lane.has_waited = false;
    if (++thread.x == dim.x) {
      thread.x = 0;
      if (++thread.y == dim.y) thread.y = 0, ++thread.z;
    }
  }
  ready_warps_ = 0;
  for (uint32_t w = 0; w * kWarpLanes < lane_count_; ++w) {
    const uint32_t lanes = lane_count_ - w * kWarpLanes;
    warps_[w].ready = warps_[w].live = lanes >= kWarpLanes ? ~0u : (1u << lanes) - 1;
    warps_[w].groups.clear();
    ready_warps_ |= 1u << w;
  }
  for (Barrier& barrier : barriers_) barrier = Barrier{};
  warp_ = choose(ready_warps_);

#if SIMT_TSAN
  // What a thread has seen in one block must not count in the next; and whoever makes a thread comes before it, so that is
  // not a lane. A thread takes a part of a millisecond to make: after the first blocks of a launch, lanes take over those of
  // the last block, whose races with this one are lost.
  static uint64_t launch = 0;
  static uint32_t blocks_of_launch = 0;
  if (kernel.number != launch) launch = kernel.number, blocks_of_launch = 0;
  const bool is_new = blocks_of_launch++ < kRenewedBlocks;
  while (stacks_.size() < lane_count_) stacks_.push_back(std::make_unique<Fiber>(stacks_.size()));
  free_stacks_.clear();
  for (uint32_t i = 0; i < lane_count_; ++i) {
    if (is_new) stacks_[i]->renew();
    free_stacks_.push_back(stacks_[i].get());
  }
#endif
  static size_t blocks = 0;
  orders_ = orders + (SIMT_TSAN ? blocks++ % kOrderedBlocks : 0) * kOrdersPerBlock;
  order_release(&order_begin_);
  Lane* const first = pick();
  Fiber* const stack = take_stack();
  first->fiber = stack;
  first->state = Lane::State::running;
  current_lane = first;
  stack->start(&Block::run_lanes);
  ++switch_count;
  host_.switch_to(*stack, false);
  current_lane = nullptr;
  shared.end_block();
  current_block = outer;
  kernel_ = nullptr;
}

// What a stack runs: lane after lane, as long as the next one has not begun; it ends by switching to one that has.
void Block::run_lanes() { current_block->run_lanes_here(); }

void Block::run_lanes_here() {
  Fiber* const mine = current_lane->fiber;
  for (;;) {
    order_acquire(&order_begin_);
    kernel_->call(kernel_->arguments);
    order_release(kernel_->order_end);
    leave_lane();
    if (live_ == 0) {
      give_stack(mine);
      mine->switch_to(host_, true);
    }
    Lane* const next = pick();
    if (next == nullptr) report_stuck();
    next->state = Lane::State::running;
    current_lane = next;
    if (next->fiber == nullptr && !SIMT_TSAN) {
      next->fiber = mine;
      continue;
    }
    if (next->fiber == nullptr) {
      next->fiber = take_stack();
      next->fiber->start(&Block::run_lanes);
    }
    give_stack(mine);  // nobody takes it before the switch
    ++switch_count;
    mine->switch_to(*next->fiber, true);
  }
}

// The running lane has returned from the kernel: who waits for it waits no longer.
void Block::leave_lane() {
  Lane& lane = *current_lane;
  if (kernel_->early && !lane.has_waited) fail(Fault::no_wait, "a kernel that is launched early ends without having waited");
  Warp& warp = warps_[lane.index / kWarpLanes];
  lane.state = Lane::State::exited;
  warp.live &= ~lane.bit();
  --live_;
  for (size_t group = warp.groups.size(); group-- > 0;) complete(warp, lane.index & ~(kWarpLanes - 1), group);
  if (barriers_[0].waiting > 0) try_release(0);
}

void Block::suspend() {
  Lane* const next = pick();
  if (next == nullptr) report_stuck();
  resume(*next);
}

void Block::resume(Lane& next) {
  Lane& self = *current_lane;
  next.state = Lane::State::running;
  if (&next == &self) return;
  if (next.fiber == nullptr) {
    next.fiber = take_stack();
    next.fiber->start(&Block::run_lanes);
  }
  current_lane = &next;
  ++switch_count;
  self.fiber->switch_to(*next.fiber, false);
}

void Block::give_stack(Fiber* stack) {
  if (SIMT_TSAN) return;  // a lane's own, until the block ends
  free_stacks_.push_back(stack);
}

Fiber* Block::take_stack() {
  if (free_stacks_.empty()) {
    stacks_.push_back(std::make_unique<Fiber>(stacks_.size()));
    return stacks_.back().get();
  }
  Fiber* const stack = free_stacks_.back();  // the one used last is still in the caches
  free_stacks_.pop_back();
  return stack;
}

uint64_t Block::random() {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_;
}

// One of the bits, as the order has it.
uint32_t Block::choose(uint32_t mask) {
  if (order_.kind == Order::Kind::forward) return static_cast<uint32_t>(std::countr_zero(mask));
  if (order_.kind == Order::Kind::reverse) return 31u - static_cast<uint32_t>(std::countl_zero(mask));
  const uint32_t start = static_cast<uint32_t>(random() >> 32) % 32;
  return (static_cast<uint32_t>(std::countr_zero(std::rotr(mask, static_cast<int>(start)))) + start) % 32;
}

// The lane that runs next, taken out of the ready ones; nullptr: none is ready. A warp goes on while it can, which keeps its
// stacks in the caches; shuffled, it is left at times, since warps overtake each other on a device too.
Lane* Block::pick() {
  if (ready_warps_ == 0) return nullptr;
  const bool leave = order_.kind == Order::Kind::shuffled && random() >> 62 == 0;
  if (leave || (ready_warps_ >> warp_ & 1u) == 0) warp_ = choose(ready_warps_);
  Warp& warp = warps_[warp_];
  const uint32_t lane = choose(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) ready_warps_ &= ~(1u << warp_);
  return &lanes_[warp_ * kWarpLanes + lane];
}

void Block::set_ready(Lane& lane) {
  lane.state = Lane::State::ready;
  warps_[lane.index / kWarpLanes].ready |= lane.bit();
  ready_warps_ |= 1u << lane.index / kWarpLanes;
}

uint32_t Block::live_lanes() const { return warps_[current_lane->index / kWarpLanes].live; }

// --- Warp operations -------------------------------------------------------------------------------------------------
void Block::meet(WarpOp op, uint32_t mask, void* slot, Combine combine, Site site) {
  Lane& lane = *current_lane;
  Warp& warp = warps_[lane.index / kWarpLanes];
  const uint32_t bit = lane.bit();
  lane.op = op;
  lane.mask = mask;
  lane.site = site;
  if ((mask & bit) == 0)
    fail(Fault::wrong_mask, "%s at %s has mask %08x, which lacks the lane that calls it, %u", name_of(op), place(site).c_str(),
         mask, lane.index % kWarpLanes);

  size_t at = 0;
  while (at < warp.groups.size() && warp.groups[at].mask != mask) ++at;
  if (at == warp.groups.size()) {
    const Unobserved unobserved;
    warp.groups.push_back({mask, 0, op, combine, warp.groups_made++ % kGroupOrders});
  }
  Group& group = warp.groups[at];
  if (group.op != op)
    fail(Fault::mismatched_operation, "lanes of mask %08x meet at %s (%s) and at %s", mask, name_of(op),
         place(site).c_str(), name_of(group.op));
  group.arrived |= bit;
  warp.slots[lane.index % kWarpLanes] = slot;
  for (const Group& other : warp.groups) {
    if (&other != &group && (other.arrived & mask) != 0 && (group.arrived & other.mask) != 0)
      fail(Fault::wrong_mask, "lanes name each other with different masks: %08x at %s (%s), %08x at %s", mask, name_of(op),
           place(site).c_str(), other.mask, name_of(other.op));
  }

  // Only __syncwarp and the operations that read shared memory order anything.
  char* const order = op == WarpOp::sync || op == WarpOp::ldmatrix ? group_order(warp, group.order) : nullptr;
  if (op == WarpOp::sync) order_release(order);
  lane.state = Lane::State::at_warp_op;
  if (complete(warp, lane.index & ~(kWarpLanes - 1), at)) {
    // The last one goes on at once, without a switch.
    lane.state = Lane::State::running;
    warp.ready &= ~bit;
    if (warp.ready == 0) ready_warps_ &= ~(1u << lane.index / kWarpLanes);
  } else {
    suspend();
  }
  if (order != nullptr) order_acquire(order);
}

bool Block::complete(Warp& warp, uint32_t first_lane, size_t at) {
  const Group group = warp.groups[at];
  if (group.arrived != (group.mask & warp.live)) return false;
  warp.groups.erase(warp.groups.begin() + static_cast<ptrdiff_t>(at));
  if (group.combine != nullptr) group.combine(warp.slots.data(), group.arrived);
  if (group.op == WarpOp::ldmatrix) order_release(group_order(warp, group.order));
  for (uint32_t rest = group.arrived; rest != 0; rest &= rest - 1)
    lanes_[first_lane + static_cast<uint32_t>(std::countr_zero(rest))].state = Lane::State::ready;
  warp.ready |= group.arrived;
  ready_warps_ |= 1u << first_lane / kWarpLanes;
  return true;
}

// --- Barriers --------------------------------------------------------------------------------------------------------
int Block::barrier(Vote vote, bool predicate, Site site) {
  Lane& lane = *current_lane;
  Barrier& barrier = barriers_[0];
  lane.site = site;
  lane.barrier = 0;
  if (barrier.waiting == 0) barrier.site = site;
  lane.state = Lane::State::at_barrier;
  if (barrier.site.line() != site.line() || std::strcmp(barrier.site.file_name(), site.file_name()) != 0)
    fail(Fault::divergent_barrier, "threads of one block meet at two barriers, %s and %s", place(barrier.site).c_str(),
         place(site).c_str());
  ++barrier.waiting;
  ++barrier.arrived;
  if (vote != Vote::none) {
    ++barrier.voters;
    barrier.votes += predicate ? 1 : 0;
  }
  char* const order = barrier_order(0);
  order_release(order);
  // Even the last one goes back into the row, so that an interval begins with the first of the order.
  try_release(0);
  suspend();
  order_acquire(order);
  if (vote == Vote::count) return static_cast<int>(barrier.result_votes);
  if (vote == Vote::all) return barrier.result_votes == barrier.result_voters ? 1 : 0;
  return barrier.result_votes != 0 ? 1 : 0;
}

bool Block::try_release(uint32_t id) {
  Barrier& barrier = barriers_[id];
  const uint32_t expected = id == 0 ? live_ : barrier.expected;
  if (barrier.arrived < expected) return false;
  if (barrier.waiting > 0) {
    for (uint32_t i = 0; i < lane_count_; ++i)
      if (lanes_[i].state == Lane::State::at_barrier && lanes_[i].barrier == id) set_ready(lanes_[i]);
  }
  barrier.result_votes = barrier.votes;
  barrier.result_voters = barrier.voters;
  barrier.votes = barrier.voters = barrier.arrived = barrier.waiting = barrier.expected = 0;
  ++barrier.phase;
  if (ready_warps_ != 0) warp_ = choose(ready_warps_);
  return true;
}

void Block::named_barrier(int id, int threads, bool waits, Site site) {
  Lane& lane = *current_lane;
  if (id < 1 || id >= static_cast<int>(kBarriers))
    fail(Fault::barrier_misuse, "named barrier %d at %s: the numbers are 1 to 15, 0 is __syncthreads", id, place(site).c_str());
  if (threads < 1 || threads % static_cast<int>(kWarpLanes) != 0 || threads > static_cast<int>(kLanesMax))
    fail(Fault::barrier_misuse, "named barrier %d at %s expects %d threads, which are no whole warps", id,
         place(site).c_str(), threads);
  Barrier& barrier = barriers_[static_cast<size_t>(id)];
  if (barrier.arrived > 0 && barrier.expected != static_cast<uint32_t>(threads))
    fail(Fault::barrier_misuse, "named barrier %d at %s expects %d threads, for earlier ones it was %u", id,
         place(site).c_str(), threads, barrier.expected);
  barrier.expected = static_cast<uint32_t>(threads);
  ++barrier.arrived;
  char* const order = barrier_order(static_cast<uint32_t>(id));
  order_release(order);
  if (!waits) {
    try_release(static_cast<uint32_t>(id));
    return;
  }
  ++barrier.waiting;
  lane.site = site;
  lane.barrier = static_cast<uint8_t>(id);
  lane.state = Lane::State::at_barrier;
  try_release(static_cast<uint32_t>(id));
  suspend();
  order_acquire(order);
}

// --- Reports ---------------------------------------------------------------------------------------------------------
std::string Block::describe() const {
  const auto state_of = [](const Lane& lane) -> std::string {
    char text[160];
    switch (lane.state) {
      case Lane::State::unstarted:
        return "not begun";
      case Lane::State::ready:
        return "ready";
      case Lane::State::running:
        return "running";
      case Lane::State::exited:
        return "exited";
      case Lane::State::at_barrier:
        if (lane.barrier == 0) return "at __syncthreads (" + place(lane.site) + ")";
        return "at named barrier " + std::to_string(lane.barrier) + " (" + place(lane.site) + ")";
      case Lane::State::at_warp_op:
        std::snprintf(text, sizeof text, "at %s, mask %08x (%s)", name_of(lane.op), lane.mask,
                      place(lane.site).c_str());
        return text;
    }
    return "?";
  };
  std::string text;
  for (uint32_t first = 0; first < lane_count_;) {
    const std::string state = state_of(lanes_[first]);
    uint32_t last = first;
    while (last + 1 < lane_count_ && state_of(lanes_[last + 1]) == state) ++last;
    text += first == last ? "  thread " + std::to_string(first)
                          : "  threads " + std::to_string(first) + " to " + std::to_string(last);
    text += ": " + state + "\n";
    first = last + 1;
  }
  return text;
}

void Block::report_stuck() {
  uint32_t at_barrier = 0, at_warp_op = 0;
  for (uint32_t i = 0; i < lane_count_; ++i) {
    at_barrier += lanes_[i].state == Lane::State::at_barrier ? 1 : 0;
    at_warp_op += lanes_[i].state == Lane::State::at_warp_op ? 1 : 0;
  }
  if (at_barrier > 0) {
    fail(Fault::divergent_barrier, "%u threads wait at a barrier that the others never reach, %u of them in a warp operation",
         at_barrier, at_warp_op);
  }
  fail(Fault::deadlock, "%u threads wait in warp operations for lanes that do not come", at_warp_op);
}

bool Block::is_stack_guard(const void* address) const {
  for (const auto& stack : stacks_)
    if (stack->guards(address)) return true;
  return false;
}

}  // namespace simt
