#include "simt/warp.h"

#include <algorithm>

#include "simt/report.h"

namespace simt {
namespace {
template <class F>
void each_lane(uint32_t arrived, F f) {
  for (uint32_t rest = arrived; rest != 0; rest &= rest - 1) f(static_cast<uint32_t>(std::countr_zero(rest)));
}

// The lane that a lane reads; itself where the operation says so.
uint32_t source_of(uint32_t lane, const ShuffleSlot& slot) {
  const int32_t width = slot.width;
  const int32_t self = static_cast<int32_t>(lane);
  const int32_t first = self & ~(width - 1);
  const int32_t last = first + width - 1;
  int32_t source = self;
  switch (slot.kind) {
    case Shuffle::index:
      source = first + (slot.operand & (width - 1));
      break;
    case Shuffle::up:
      source = self - slot.operand;
      if (source < first) source = self;
      break;
    case Shuffle::down:
      source = self + slot.operand;
      if (source > last) source = self;
      break;
    case Shuffle::exclusive_or:
      source = self ^ slot.operand;
      if (source > last || source < 0) source = self;
      break;
  }
  return static_cast<uint32_t>(source);
}

struct VoteSlot {
  uint32_t result;
  bool predicate;
};
void combine_vote(void* const* slots, uint32_t arrived) {
  uint32_t ballot = 0;
  each_lane(arrived, [&](uint32_t lane) {
    if (static_cast<const VoteSlot*>(slots[lane])->predicate) ballot |= 1u << lane;
  });
  each_lane(arrived, [&](uint32_t lane) { static_cast<VoteSlot*>(slots[lane])->result = ballot; });
}

struct MatchSlot {
  uint64_t value;
  uint32_t result;
};
void combine_match(void* const* slots, uint32_t arrived) {
  each_lane(arrived, [&](uint32_t lane) {
    MatchSlot& mine = *static_cast<MatchSlot*>(slots[lane]);
    mine.result = 0;
    each_lane(arrived, [&](uint32_t other) {
      if (static_cast<const MatchSlot*>(slots[other])->value == mine.value) mine.result |= 1u << other;
    });
  });
}

struct ReduceSlot {
  uint32_t value;
  Reduction kind;
};
uint32_t apply(Reduction kind, uint32_t a, uint32_t b) {
  switch (kind) {
    case Reduction::add:
      return a + b;
    case Reduction::min_signed:
      return static_cast<uint32_t>(std::min(static_cast<int32_t>(a), static_cast<int32_t>(b)));
    case Reduction::max_signed:
      return static_cast<uint32_t>(std::max(static_cast<int32_t>(a), static_cast<int32_t>(b)));
    case Reduction::min_unsigned:
      return std::min(a, b);
    case Reduction::max_unsigned:
      return std::max(a, b);
    case Reduction::bit_and:
      return a & b;
    case Reduction::bit_or:
      return a | b;
    case Reduction::bit_xor:
      return a ^ b;
  }
  return a;
}
void combine_reduce(void* const* slots, uint32_t arrived) {
  const uint32_t first = static_cast<uint32_t>(std::countr_zero(arrived));
  const Reduction kind = static_cast<const ReduceSlot*>(slots[first])->kind;
  uint32_t total = static_cast<const ReduceSlot*>(slots[first])->value;
  each_lane(arrived & (arrived - 1), [&](uint32_t lane) {
    const ReduceSlot& slot = *static_cast<const ReduceSlot*>(slots[lane]);
    if (slot.kind != kind) fail(Fault::mismatched_operation, "lanes of mask %08x meet at different reductions", arrived);
    total = apply(kind, total, slot.value);
  });
  each_lane(arrived, [&](uint32_t lane) { static_cast<ReduceSlot*>(slots[lane])->value = total; });
}
}  // namespace

void combine_shuffle(void* const* slots, uint32_t arrived) {
  uint64_t before[kWarpLanes];
  each_lane(arrived, [&](uint32_t lane) { before[lane] = static_cast<const ShuffleSlot*>(slots[lane])->value; });
  each_lane(arrived, [&](uint32_t lane) {
    ShuffleSlot& slot = *static_cast<ShuffleSlot*>(slots[lane]);
    const uint32_t source = source_of(lane, slot);
    if ((arrived >> source & 1u) == 0)
      fail(Fault::lane_outside_mask, "lane %u shuffles a value from lane %u, which takes no part (%08x do)", lane, source,
           arrived);
    slot.value = before[source];
  });
}

void fail_width(int width, Site site) {
  fail(Fault::wrong_mask, "a shuffle at line %u has width %d: a power of two up to 32 it must be",
       static_cast<unsigned>(site.line()), width);
}

uint32_t vote(uint32_t mask, bool predicate, Site site) {
  VoteSlot slot{0, predicate};
  current_block->meet(WarpOp::vote, mask, &slot, &combine_vote, site);
  return slot.result;
}

uint32_t match(uint32_t mask, uint64_t value, Site site) {
  MatchSlot slot{value, 0};
  current_block->meet(WarpOp::match, mask, &slot, &combine_match, site);
  return slot.result;
}

uint32_t reduce(uint32_t mask, uint32_t value, Reduction kind, Site site) {
  ReduceSlot slot{value, kind};
  current_block->meet(WarpOp::reduce, mask, &slot, &combine_reduce, site);
  return slot.value;
}

}  // namespace simt
