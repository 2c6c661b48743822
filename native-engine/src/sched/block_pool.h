// The KV blocks as numbers. Owns which block is free and how many holders each has; the memory behind a block belongs
// to the model's cache, and which sequence holds what is the scheduler's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace penstock {

// Allocates everything at construction. Not thread safe: the step loop is its only user.
class BlockPool {
 public:
  // blocks_total >= 1. Block ids are 0 .. blocks_total - 1.
  explicit BlockPool(int32_t blocks_total);

  int32_t blocks_total() const { return static_cast<int32_t>(holders_.size()); }
  int32_t blocks_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t blocks_held() const { return blocks_total() - blocks_free(); }

  bool can_allocate(int32_t count) const { return count <= blocks_free(); }
  // Appends `count` blocks with one holder each. Precondition: can_allocate(count).
  void allocate(int32_t count, std::vector<int32_t>& blocks);
  // One more holder of blocks that are already held, e.g. of a prefix two sequences have in common.
  void share(std::span<const int32_t> blocks);
  // One holder fewer; a block without holders is free.
  void release(std::span<const int32_t> blocks);

  // Throws std::logic_error when the books do not add up: free + held == total, no block free twice or free and held.
  // `holdings` is the number of (holder, block) pairs that the callers of allocate() and share() know of.
  void check_integrity(int64_t holdings) const;

 private:
  std::vector<int32_t> free_;     // stack: the block released last is reused first, while it is warm in the cache
  std::vector<int32_t> holders_;  // [blocks_total] 0 = free
};

}  // namespace penstock
