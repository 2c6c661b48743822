// The KV blocks as numbers. Owns which block is free, how many holders each has, and the order in which blocks that
// nobody holds but that are worth keeping were let go; the memory behind a block belongs to the model's cache, what a
// kept block contains is prefix_cache.h, and which sequence holds what is the scheduler's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace penstock {

// Every block is in exactly one of three states:
//
//            allocate()                  release() of the last holder
//     Free ─────────────▶ Held ──────────────────────────────────────────▶ Free
//       ▲                  ▲ │ keep(), then release() of the last holder
//       │            share() │
//       └───────────────── Idle       Idle: no holder, content kept, in order of leaving
//            discard()
//
// Allocates everything at construction. Not thread safe: the step loop is its only user.
class BlockPool {
 public:
  // blocks_total >= 1. Block ids are 0 .. blocks_total - 1.
  explicit BlockPool(int32_t blocks_total);

  int32_t blocks_total() const { return static_cast<int32_t>(holders_.size()); }
  int32_t blocks_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t blocks_idle() const { return idle_count_; }
  int32_t blocks_held() const { return blocks_total() - blocks_free() - blocks_idle(); }
  int32_t holders(int32_t block) const { return holders_.at(static_cast<size_t>(block)); }

  bool can_allocate(int32_t count) const { return count <= blocks_free(); }
  // Appends `count` free blocks with one holder each. Precondition: can_allocate(count).
  void allocate(int32_t count, std::vector<int32_t>& blocks);
  // One more holder of blocks that are held or idle, e.g. of a prefix two sequences have in common.
  void share(std::span<const int32_t> blocks);
  // One holder fewer, the last block first: of a chain the end becomes idle before what it builds on.
  void release(std::span<const int32_t> blocks);

  // From now on a held block becomes idle instead of free when its last holder lets go.
  void keep(int32_t block);
  bool is_kept(int32_t block) const { return links_.at(static_cast<size_t>(block)).kept; }
  // The idle block that was let go longest ago.
  std::optional<int32_t> oldest_idle() const;
  // An idle block becomes free.
  void discard(int32_t block);

  // Calls each(block) for the idle ones, the one let go longest ago first.
  template <typename Each>
  void for_idle(const Each& each) const {
    for (int32_t at = oldest_; at != kNone; at = links_[static_cast<size_t>(at)].younger) each(at);
  }

  // Throws std::logic_error when the books do not add up: free + idle + held == total, no block in two states, and
  // holders as the callers of allocate() and share() know them: holders [blocks_total].
  void check_integrity(std::span<const int32_t> holders) const;

 private:
  static constexpr int32_t kNone = -1;
  struct Link {
    int32_t older = kNone;
    int32_t younger = kNone;
    bool kept = false;
    bool idle = false;
  };

  void add_idle(int32_t block);
  void remove_idle(int32_t block);

  std::vector<int32_t> free_;     // stack: the block released last is reused first, while it is warm in the cache
  std::vector<int32_t> holders_;  // [blocks_total] 0 = free or idle
  std::vector<Link> links_;       // [blocks_total] list of the idle ones
  int32_t oldest_ = kNone;
  int32_t youngest_ = kNone;
  int32_t idle_count_ = 0;
};

}  // namespace penstock
