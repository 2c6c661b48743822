// Free stack, holder counts and the list of idle blocks. See block_pool.h.
#include "sched/block_pool.h"

#include <numeric>
#include <stdexcept>
#include <string>

namespace penstock {

BlockPool::BlockPool(int32_t blocks_total) {
  if (blocks_total < 1) throw std::invalid_argument("a block pool needs at least one block");
  holders_.resize(static_cast<size_t>(blocks_total), 0);
  links_.resize(holders_.size());
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
    const bool idle = links_[static_cast<size_t>(block)].idle;
    if (holders == 0 && !idle) throw std::logic_error("sharing block " + std::to_string(block) + ", which is free");
    if (idle) remove_idle(block);
    ++holders;
  }
}

void BlockPool::release(std::span<const int32_t> blocks) {
  for (auto at = blocks.rbegin(); at != blocks.rend(); ++at) {
    const int32_t block = *at;
    int32_t& holders = holders_.at(static_cast<size_t>(block));
    if (holders == 0) throw std::logic_error("releasing block " + std::to_string(block) + ", which nobody holds");
    if (--holders > 0) continue;
    if (links_[static_cast<size_t>(block)].kept)
      add_idle(block);
    else
      free_.push_back(block);
  }
}

void BlockPool::keep(int32_t block) {
  if (holders(block) == 0) throw std::logic_error("keeping block " + std::to_string(block) + ", which nobody holds");
  links_[static_cast<size_t>(block)].kept = true;
}

std::optional<int32_t> BlockPool::oldest_idle() const {
  return oldest_ == kNone ? std::nullopt : std::optional(oldest_);
}

void BlockPool::discard(int32_t block) {
  if (!links_.at(static_cast<size_t>(block)).idle)
    throw std::logic_error("discarding block " + std::to_string(block) + ", which is not idle");
  remove_idle(block);
  links_[static_cast<size_t>(block)].kept = false;
  free_.push_back(block);
}

void BlockPool::add_idle(int32_t block) {
  Link& link = links_[static_cast<size_t>(block)];
  link.idle = true;
  link.older = youngest_;
  link.younger = kNone;
  (youngest_ == kNone ? oldest_ : links_[static_cast<size_t>(youngest_)].younger) = block;
  youngest_ = block;
  ++idle_count_;
}

void BlockPool::remove_idle(int32_t block) {
  Link& link = links_[static_cast<size_t>(block)];
  (link.older == kNone ? oldest_ : links_[static_cast<size_t>(link.older)].younger) = link.younger;
  (link.younger == kNone ? youngest_ : links_[static_cast<size_t>(link.younger)].older) = link.older;
  link.older = link.younger = kNone;
  link.idle = false;
  --idle_count_;
}

void BlockPool::check_integrity(std::span<const int32_t> holders) const {
  if (holders.size() != holders_.size()) throw std::logic_error("holders are counted for another number of blocks");
  std::vector<bool> seen(holders_.size(), false);
  for (const int32_t block : free_) {
    const auto index = static_cast<size_t>(block);
    if (index >= holders_.size() || seen[index]) throw std::logic_error("a block is on the free list twice");
    if (holders_[index] != 0) throw std::logic_error("a free block has holders");
    if (links_[index].kept || links_[index].idle) throw std::logic_error("a free block is kept");
    seen[index] = true;
  }
  int32_t idle = 0, older = kNone;
  for (int32_t block = oldest_; block != kNone; block = links_[static_cast<size_t>(block)].younger) {
    const auto index = static_cast<size_t>(block);
    if (index >= holders_.size() || seen[index]) throw std::logic_error("an idle block is listed twice or free");
    if (holders_[index] != 0) throw std::logic_error("an idle block has holders");
    if (!links_[index].idle || !links_[index].kept) throw std::logic_error("an idle block is not kept");
    if (links_[index].older != older) throw std::logic_error("the list of idle blocks is broken");
    seen[index] = true;
    older = block;
    ++idle;
  }
  if (older != youngest_ || idle != idle_count_) throw std::logic_error("the list of idle blocks is miscounted");
  for (size_t index = 0; index < holders_.size(); ++index) {
    if (holders_[index] < 0) throw std::logic_error("a block has a negative number of holders");
    if (seen[index] == (holders_[index] > 0)) throw std::logic_error("a block is neither free, idle nor held");
    if (holders_[index] != holders[index]) throw std::logic_error("blocks held do not match their holders");
  }
}

}  // namespace penstock
