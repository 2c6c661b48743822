// Operations in which the lanes of a warp meet: shuffles, votes, matches, reductions, __syncwarp. Every lane that the mask names
// and that has not exited must come with the same mask; reading a lane that takes no part ends the run, since a GPU would
// return anything. None of them but __syncwarp orders memory accesses.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt/block.h"
#include "simt/half.h"

namespace simt {

enum class Shuffle : uint8_t { index, up, down, exclusive_or };
struct ShuffleSlot {
  uint64_t value;
  int32_t operand;
  int32_t width;
  Shuffle kind;
};
void combine_shuffle(void* const* slots, uint32_t arrived);
[[noreturn]] void fail_width(int width, Site site);

template <class T>
T shuffle(uint32_t mask, T value, Shuffle kind, int32_t operand, int width, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  if (width <= 0 || width > 32 || (width & (width - 1)) != 0) fail_width(width, site);
  ShuffleSlot slot{0, operand, width, kind};
  std::memcpy(&slot.value, static_cast<const void*>(&value), sizeof value);
  current_block->meet(WarpOp::shuffle, mask, &slot, &combine_shuffle, site);
  std::memcpy(static_cast<void*>(&value), &slot.value, sizeof value);
  return value;
}

// In: the lane's value. Out: what the operation is for.
uint32_t vote(uint32_t mask, bool predicate, Site site);                 // lanes whose predicate holds
uint32_t match(uint32_t mask, uint64_t value, Site site);                // lanes with this lane's value
enum class Reduction : uint8_t { add, min_signed, max_signed, min_unsigned, max_unsigned, bit_and, bit_or, bit_xor };
uint32_t reduce(uint32_t mask, uint32_t value, Reduction kind, Site site);

}  // namespace simt

#define SIMT_SITE simt::Site site = simt::Site::current()

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, SIMT_SITE) {
  simt::current_block->meet(simt::WarpOp::sync, mask, nullptr, nullptr, site);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
  return simt::shuffle(mask, value, simt::Shuffle::index, source, width, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  return simt::shuffle(mask, value, simt::Shuffle::up, static_cast<int>(delta), width, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  return simt::shuffle(mask, value, simt::Shuffle::down, static_cast<int>(delta), width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIMT_SITE) {
  return simt::shuffle(mask, value, simt::Shuffle::exclusive_or, lane_mask, width, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) { return simt::vote(mask, predicate != 0, site); }
inline int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
  return simt::vote(mask, predicate != 0, site) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
  return simt::vote(mask, predicate == 0, site) == 0 ? 1 : 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, SIMT_SITE) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return simt::match(mask, bits, site);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::reduce(mask, value, simt::Reduction::add, site);
}
inline int __reduce_add_sync(unsigned mask, int value, SIMT_SITE) {
  return static_cast<int>(simt::reduce(mask, static_cast<unsigned>(value), simt::Reduction::add, site));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::reduce(mask, value, simt::Reduction::min_unsigned, site);
}
inline int __reduce_min_sync(unsigned mask, int value, SIMT_SITE) {
  return static_cast<int>(simt::reduce(mask, static_cast<unsigned>(value), simt::Reduction::min_signed, site));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::reduce(mask, value, simt::Reduction::max_unsigned, site);
}
inline int __reduce_max_sync(unsigned mask, int value, SIMT_SITE) {
  return static_cast<int>(simt::reduce(mask, static_cast<unsigned>(value), simt::Reduction::max_signed, site));
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::reduce(mask, value, simt::Reduction::bit_and, site);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::reduce(mask, value, simt::Reduction::bit_or, site);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::reduce(mask, value, simt::Reduction::bit_xor, site);
}
// Which lanes run together is not promised: the caller alone is always a right answer, and the one that trusting code fails on.
inline unsigned __activemask() { return simt::current_lane->bit(); }
