// Free stack and holder counts of the KV blocks. See block_pool.h.
#include "sched/block_pool.h"

#include <numeric>
#include <stdexcept>
#include <string>

namespace penstock {

BlockPool::BlockPool(int32_t blocks_total) {
  if (blocks_total < 1) throw std::invalid_argument("a block pool needs at least one block");
  holders_.resize(static_cast<size_t>(blocks_total), 0);
  free_.resize(holders_.size());
  // Descending, so that block 0 is handed out first.
  std::iota(free_.rbegin(), free_.rend(), 0);
}

void BlockPool::allocate(int32_t count, std::vector<int32_t>& blocks) {
  if (count < 0 || !can_allocate(count)) throw std::logic_error("allocate() without can_allocate()");
  for (int32_t i = 0; i < count; ++i) {
    const int32_t block = free_.back();
    free_.pop_back();
    holders_[static_cast<size_t>(block)] = 1;
    blocks.push_back(block);
  }
}

void BlockPool::share(std::span<const int32_t> blocks) {
  for (const int32_t block : blocks) {
    int32_t& holders = holders_.at(static_cast<size_t>(block));
    if (holders == 0) throw std::logic_error("sharing block " + std::to_string(block) + ", which is free");
    ++holders;
  }
}

void BlockPool::release(std::span<const int32_t> blocks) {
  for (const int32_t block : blocks) {
    int32_t& holders = holders_.at(static_cast<size_t>(block));
    if (holders == 0) throw std::logic_error("releasing block " + std::to_string(block) + ", which is free");
    if (--holders == 0) free_.push_back(block);
  }
}

void BlockPool::check_integrity(int64_t holdings) const {
  std::vector<bool> seen(holders_.size(), false);
  for (const int32_t block : free_) {
    const auto index = static_cast<size_t>(block);
    if (index >= holders_.size() || seen[index]) throw std::logic_error("a block is on the free list twice");
    if (holders_[index] != 0) throw std::logic_error("a free block has holders");
    seen[index] = true;
  }
  int64_t held = 0, pairs = 0;
  for (const int32_t holders : holders_) {
    if (holders < 0) throw std::logic_error("a block has a negative number of holders");
    held += holders > 0 ? 1 : 0;
    pairs += holders;
  }
  if (static_cast<int64_t>(free_.size()) + held != blocks_total())
    throw std::logic_error("a block is neither free nor held");
  if (pairs != holdings) throw std::logic_error("blocks held do not match their holders");
}

}  // namespace penstock
