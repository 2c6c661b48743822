// What a scheduler shows of itself: load for routers, and the check that its books add up.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "sched/scheduler.h"

namespace penstock {

std::optional<int64_t> Scheduler::next_deadline_ms() const {
  return deadlines_.empty() ? std::nullopt : std::optional(deadlines_.begin()->first.first);
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats{
      .blocks_total = pool_.blocks_total(),
      .blocks_used = pool_.blocks_held(),
      .blocks_cached = pool_.blocks_idle(),
      .running = static_cast<int32_t>(running_.size()),
      .waiting = static_cast<int32_t>(waiting_.size()),
      .prefill_tokens_queued = waiting_.tokens(),
      .decode_kv_tokens = 0,
      .preemptions = preemptions_,
      .prompt_tokens = prompt_tokens_,
      .cached_tokens = cached_tokens_,
  };
  for (const Sequence* sequence : running_) {
    if (sequence->decoding())
      stats.decode_kv_tokens += sequence->computed;
    else
      stats.prefill_tokens_queued += sequence->remaining();
  }
  return stats;
}

void Scheduler::check_integrity() const {
  std::vector<int32_t> holders(static_cast<size_t>(pool_.blocks_total()), 0);
  std::vector<bool> slots(static_cast<size_t>(config_.sequences_max), false);
  size_t running = 0, deadlines = 0;
  int64_t waiting_tokens = 0;
  for (const auto& [id, sequence] : sequences_) {
    const Sequence& s = *sequence;
    const std::string name = "sequence " + std::to_string(id);
    const auto require = [&](bool holds, const char* broken) {
      if (!holds) throw std::logic_error(name + " " + broken);
    };
    const auto blocks = static_cast<int32_t>(s.blocks.size());
    const int32_t full = s.computed / kBlockTokens;
    require(s.computed >= 0 && s.computed <= s.total(), "has computed more than it knows");
    require(s.total() <= sequence_tokens_max_, "is longer than any sequence may be");
    require(!s.samples() || s.output_tokens() < s.request.max_new_tokens, "should have ended");
    require(static_cast<int32_t>(s.block_hashes.size()) == s.total() / kBlockTokens, "has not hashed its full blocks");
    deadlines += s.request.deadline_ms.has_value() && !s.ending.has_value() ? 1 : 0;
    require(!s.ending.has_value() || s.hands_over(), "is ending and hands nothing over");
    for (const int32_t block : s.blocks) ++holders.at(static_cast<size_t>(block));
    if (s.state == SequenceState::Waiting) {
      waiting_tokens += s.total();
      require(blocks == 0 && s.computed == 0 && !s.slot.has_value(), "is waiting and holds blocks");
      require(s.place != QueuePlace::None, "is waiting outside the queue");
      require((s.place == QueuePlace::InLine) == s.has_credit(), "is in line without credit, or the other way round");
      continue;
    }
    ++running;
    require(blocks >= (s.computed + kBlockTokens - 1) / kBlockTokens, "has tokens outside its blocks");
    require(blocks <= (s.total() + kBlockTokens - 1) / kBlockTokens, "holds more blocks than it can fill");
    require(s.remaining() >= 1 || s.hands_over(), "is running with nothing to compute");
    require(s.slot.has_value() && !slots.at(static_cast<size_t>(*s.slot)), "runs without a slot of its own");
    slots[static_cast<size_t>(*s.slot)] = true;
    // What is computed is in the cache, what is still to be written is nobody else's.
    cache_.check_chain({s.request.salt, s.tokens, s.block_hashes},
                       std::span(s.blocks).first(static_cast<size_t>(full)));
    for (int32_t i = full; i < blocks; ++i) {
      const int32_t block = s.blocks[static_cast<size_t>(i)];
      require(pool_.holders(block) == 1 && !pool_.is_kept(block), "would write to a block that is not its own");
    }
  }
  int32_t filling = 0;
  for (const auto& [id, made] : reservations_) {
    const std::string name = "reservation " + std::to_string(id);
    const auto blocks = static_cast<int32_t>(made.blocks.size());
    const bool committed = made.state == ReservationState::Committed;
    for (const int32_t block : made.blocks) ++holders.at(static_cast<size_t>(block));
    // The rest of the tokens has a block of its own, until a sequence has it.
    const auto of_all = static_cast<int32_t>((made.tokens.size() + kBlockTokens - 1) / kBlockTokens);
    if (made.whole() != static_cast<int32_t>(made.tokens.size()) / kBlockTokens ||
        (blocks != of_all && !(committed && blocks == made.whole())))
      throw std::logic_error(name + " has blocks without tokens");
    cache_.check_chain({made.salt, made.tokens, made.hashes},
                       std::span(made.blocks).first(static_cast<size_t>(committed ? made.whole() : made.cached)));
    if (committed) {
      if (made.has_rest() && (pool_.holders(made.blocks.back()) != 1 || pool_.is_kept(made.blocks.back())))
        throw std::logic_error(name + " lends a block that is not its own");
      continue;
    }
    filling += blocks - made.cached;
    for (int32_t i = made.cached; i < blocks; ++i) {
      const int32_t block = made.blocks[static_cast<size_t>(i)];
      if (pool_.holders(block) != 1 || pool_.is_kept(block))
        throw std::logic_error(name + " is filled into a block that is not its own");
    }
  }
  if (filling != filling_blocks_) throw std::logic_error("blocks being filled are miscounted");
  if (running != running_.size() || running + waiting_.size() != sequences_.size())
    throw std::logic_error("a sequence is neither running nor waiting");
  if (running + slots_.size() != slots.size()) throw std::logic_error("slots are neither free nor taken");
  if (waiting_tokens != waiting_.tokens()) throw std::logic_error("waiting tokens are miscounted");
  if (deadlines != deadlines_.size()) throw std::logic_error("deadlines are miscounted");
  if (!std::is_sorted(running_.begin(), running_.end(),
                      [](const Sequence* a, const Sequence* b) { return ranks_before(*a, *b); }))
    throw std::logic_error("running sequences are out of order");
  pool_.check_integrity(holders);
  cache_.check_integrity();
}

}  // namespace penstock
