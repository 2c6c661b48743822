// Planning and applying steps. See scheduler.h for the rules and why they cannot get stuck.
#include "sched/scheduler.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace penstock {
namespace {

int32_t blocks_for(int32_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

int32_t held(const Sequence& sequence) { return static_cast<int32_t>(sequence.blocks.size()); }

int32_t longest_sequence(const SchedulerConfig& config) {
  const int64_t pool_tokens = static_cast<int64_t>(config.blocks_total) * kBlockTokens;
  return static_cast<int32_t>(std::min<int64_t>(config.context_tokens, pool_tokens));
}

BlockChain chain_of(const Sequence& sequence) {
  return {sequence.request.salt, sequence.tokens, sequence.block_hashes};
}

// How many of its blocks a sequence may take from the cache. The last token is always computed: its row is what logits
// and embeddings are made of. A mean is made of all rows.
int32_t cacheable_blocks(const Sequence& sequence) {
  if (sequence.request.pooling == Pooling::mean) return 0;
  if (sequence.hands_over() && !sequence.draws()) return sequence.total() / kBlockTokens;
  return (sequence.total() - 1) / kBlockTokens;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config)
    : config_(config),
      sequence_tokens_max_(longest_sequence(config)),
      pool_(config.blocks_total),
      cache_(pool_, config.hash_seed, config.block_hash) {
  if (config.context_tokens < 2) throw std::invalid_argument("context_tokens must be at least 2");
  if (config.sequences_max < 1) throw std::invalid_argument("sequences_max must be at least 1");
  if (config.step_tokens_max < config.sequences_max)
    throw std::invalid_argument("step_tokens_max must be at least sequences_max");
  if (config.prefill_tokens_max.value_or(1) < 1) throw std::invalid_argument("prefill_tokens_max must be at least 1");
  if (config.queue_max < 1) throw std::invalid_argument("queue_max must be at least 1");
  const auto rows = static_cast<size_t>(config.step_tokens_max);
  const auto slots = static_cast<size_t>(config.sequences_max);
  plan_.token_ids.reserve(rows);
  plan_.positions.reserve(rows);
  plan_.sequences.reserve(slots);
  plan_.owners.reserve(slots);
  plan_.sampling.reserve(slots);
  plan_.embedding.reserve(slots);
  plan_.admitted.reserve(slots);
  running_.reserve(slots);
  order_.reserve(slots);
  finished_.reserve(slots + static_cast<size_t>(config.queue_max));
  ending_.reserve(slots);
  common_holders_.resize(static_cast<size_t>(config.blocks_total), 0);
  for (int32_t slot = config.sequences_max - 1; slot >= 0; --slot) slots_.push_back(slot);
}

std::optional<SubmitError> Scheduler::submit(Request request) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const auto output_tokens = static_cast<int64_t>(request.output.size());
  const bool samples = request.pooling == Pooling::none && !request.hands_over;
  if (prompt_tokens == 0 || request.max_new_tokens <= output_tokens || (output_tokens > 0 && !samples))
    throw std::logic_error("submit() of an unchecked request");
  if (sequences_.contains(request.id)) return SubmitError::DuplicateId;
  const int64_t known_tokens = prompt_tokens + output_tokens;
  if (known_tokens >= sequence_tokens_max_) return SubmitError::TooLong;
  if (waiting_.size() >= static_cast<size_t>(config_.queue_max)) return SubmitError::QueueFull;
  if (!waiting_.empty() && waiting_.tokens() + known_tokens > config_.queue_tokens_max) return SubmitError::QueueFull;
  auto sequence = std::make_unique<Sequence>();
  sequence->request = std::move(request);
  // All the memory it will ever need in lists, so that steps allocate nothing. What is not written to is not resident.
  const Request& r = sequence->request;
  const int64_t new_tokens = samples ? r.max_new_tokens : 0;
  const auto longest = static_cast<size_t>(std::min<int64_t>(sequence_tokens_max_, prompt_tokens + new_tokens));
  const auto blocks = static_cast<size_t>(blocks_for(static_cast<int32_t>(longest)));
  sequence->tokens.reserve(longest);
  sequence->tokens.assign(r.prompt.begin(), r.prompt.end());
  sequence->tokens.insert(sequence->tokens.end(), r.output.begin(), r.output.end());
  sequence->blocks.reserve(blocks);
  sequence->block_hashes.reserve(blocks);
  cache_.extend_hashes(r.salt, sequence->tokens, sequence->block_hashes);
  sequence->credit_tokens = r.credit_tokens;
  sequence->arrival = arrivals_++;
  if (r.deadline_ms.has_value()) deadlines_.emplace(DeadlineKey{*r.deadline_ms, sequence->arrival}, sequence.get());
  waiting_.push(sequence.get());
  const uint64_t id = r.id;
  sequences_.emplace(id, std::move(sequence));
  return std::nullopt;
}

void Scheduler::cancel(uint64_t id) {
  if (!plan_.empty()) throw std::logic_error("cancel() in the middle of a step");
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) finish(*found->second, FinishReason::Cancelled);
}

void Scheduler::cancel_all() {
  if (!plan_.empty()) throw std::logic_error("cancel_all() in the middle of a step");
  std::vector<Sequence*> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(sequence.get());
  // By arrival, so that the same history gives the same order of ends.
  std::sort(all.begin(), all.end(), [](const Sequence* a, const Sequence* b) { return a->arrival < b->arrival; });
  for (Sequence* sequence : all) finish(*sequence, FinishReason::Cancelled);
}

void Scheduler::add_credit(uint64_t id, uint64_t tokens) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  uint64_t& credit = found->second->credit_tokens;
  credit = tokens > UINT64_MAX - credit ? UINT64_MAX : credit + tokens;
  waiting_.credited(found->second.get());
}

// --- Planning --------------------------------------------------------------------------------------------------------

StepPlan& Scheduler::plan(int64_t now_ms) {
  if (!plan_.empty()) throw std::logic_error("plan() before the last step was applied");
  expire(now_ms);
  int32_t budget_tokens = config_.step_tokens_max;
  preempted_in_step_ = false;
  plan_.admitted.clear();
  plan_decodes(budget_tokens);
  // Readers of decoding sequences wait for the whole step, prompts in it included.
  if (!plan_.empty()) budget_tokens = std::min(budget_tokens, config_.prefill_tokens_max.value_or(budget_tokens));
  plan_prefills(budget_tokens);
  // Whoever was just preempted would be the first to be admitted and would take its blocks straight back.
  if (!preempted_in_step_) admit(budget_tokens);
  return plan_;
}

// Decoding sequences come before any prefill: one row each is cheap, and their readers are watching.
void Scheduler::plan_decodes(int32_t& budget_tokens) {
  order_ = running_;
  for (Sequence* sequence : order_) {
    // In order of rank, so a victim (which ranks later, or is paused) is never in the plan already.
    if (sequence->state != SequenceState::Running || !sequence->decoding() || !sequence->can_compute()) continue;
    if (!make_room(*sequence, blocks_for(sequence->total()))) continue;
    add_rows(*sequence, 1);
    --budget_tokens;
  }
}

void Scheduler::plan_prefills(int32_t& budget_tokens) {
  for (Sequence* sequence : running_) {
    if (budget_tokens == 0) break;
    if (sequence->decoding() || !sequence->can_compute()) continue;
    const int32_t rows = std::min(sequence->remaining(), budget_tokens);
    add_rows(*sequence, rows);
    budget_tokens -= rows;
  }
}

void Scheduler::admit(int32_t& budget_tokens) {
  while (budget_tokens > 0) {
    // No bypass: if the first does not fit, nobody behind it is let in, or a long prompt could wait for ever.
    Sequence* sequence = waiting_.next();
    if (sequence == nullptr || !admit_next(*sequence)) return;
    // Nothing is left to compute of one that hands over what the cache has.
    const int32_t rows = std::min(sequence->remaining(), budget_tokens);
    if (rows == 0) continue;
    add_rows(*sequence, rows);
    budget_tokens -= rows;
  }
}

// Moves the first of the queue to the running ones if there is room for it, with what the cache has of its tokens.
bool Scheduler::admit_next(Sequence& sequence) {
  const int32_t running_paused = paused();
  const auto running = static_cast<int32_t>(running_.size());
  if (running == config_.sequences_max && running_paused == 0) return false;

  const int32_t cacheable = cacheable_blocks(sequence);
  cache_.match(chain_of(sequence), cacheable, sequence.blocks);
  const int32_t cached = held(sequence);
  // Taken before anything is given up for this admission, and given back where it fails.
  Reservation* lender = lender_of(sequence, cached);
  if (lender != nullptr) {
    sequence.blocks.push_back(lender->blocks.back());
    lender->blocks.pop_back();
  }
  const int32_t there = lender == nullptr ? cached * kBlockTokens
                                          : std::min(static_cast<int32_t>(lender->tokens.size()), sequence.total() - 1);
  // A block of headroom for each sequence that is growing, so that the newcomer is not the next one's victim. With
  // nobody growing there is none, and any sequence fits.
  const int32_t wanted = blocks_for(sequence.total()) - held(sequence) + (running - running_paused);
  const auto fits = [&] {
    if (wanted <= cache_.blocks_available()) return true;
    return (running_paused > 0 || !reservations_.empty()) &&
           wanted <= cache_.blocks_available() + blocks_on_demand(running_paused > 0);
  };
  if ((cached < cacheable && is_being_computed(sequence, cached)) || !fits()) {
    if (lender != nullptr) {
      lender->blocks.push_back(sequence.blocks.back());
      sequence.blocks.pop_back();
    }
    pool_.release(sequence.blocks);
    sequence.blocks.clear();
    return false;
  }
  while (wanted > cache_.blocks_available() && give_up_reservation()) {
  }
  while (wanted > cache_.blocks_available() || running_.size() == static_cast<size_t>(config_.sequences_max))
    preempt(*last_paused());

  waiting_.take(&sequence);
  sequence.state = SequenceState::Running;
  sequence.computed = there;
  sequence.slot = slots_.back();
  slots_.pop_back();
  cache_.allocate(blocks_for(sequence.total()) - held(sequence), sequence.blocks);
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence,
                                   [](const Sequence* a, const Sequence* b) { return ranks_before(*a, *b); }),
                  &sequence);
  if (!sequence.prompt_cached_tokens.has_value()) {
    // Output of an earlier life that the cache has is nobody's cached input.
    sequence.prompt_cached_tokens = std::min(sequence.computed, sequence.prompt_tokens());
    prompt_tokens_ += static_cast<uint64_t>(sequence.prompt_tokens());
    cached_tokens_ += static_cast<uint64_t>(*sequence.prompt_cached_tokens);
    plan_.admitted.push_back(&sequence);
  }
  return true;
}

// Whether another sequence of this step, as planned so far, completes the block at `index` of the sequence's tokens.
bool Scheduler::is_being_computed(const Sequence& sequence, int32_t index) const {
  const auto at = static_cast<size_t>(index);
  const auto tokens = std::span(sequence.tokens).first((at + 1) * kBlockTokens);
  for (size_t i = 0; i < plan_.sequences.size(); ++i) {
    const Sequence& other = *plan_.owners[i];
    if (&other == &sequence) continue;
    if (other.computed / kBlockTokens > index || plan_.sequences[i].kv_tokens / kBlockTokens <= index) continue;
    if (other.request.salt == sequence.request.salt && other.block_hashes[at] == sequence.block_hashes[at] &&
        std::equal(tokens.begin(), tokens.end(), other.tokens.begin()))
      return true;
  }
  return false;
}

// apply() replaces a block that it finds in the cache, where it was before the step or another sequence of the step has put it.
// The first block that the step fills speaks for those behind it: where it has no equal in the cache, they have none, for
// what is in the cache has everything before it there; and another sequence that fills a later one of them either fills the
// first one too, or has it from the cache.
int32_t Scheduler::blocks_settled(size_t index) const {
  const Sequence& sequence = *plan_.owners[index];
  const int32_t kv_tokens = plan_.sequences[index].kv_tokens;
  const int32_t before = sequence.computed / kBlockTokens, full = kv_tokens / kBlockTokens;
  if (full > before &&
      (cache_.has_equal(chain_of(sequence), before, sequence.blocks) || is_being_computed(sequence, before)))
    return before;
  // What fills no block is in no cache. Behind the last token nobody writes to it any more.
  return kv_tokens == sequence.total() ? blocks_for(kv_tokens) : full;
}

// Blocks that would become available if every committed reservation were given up and, `from_paused`, every paused sequence
// preempted: those that nobody else holds.
int32_t Scheduler::blocks_on_demand(bool from_paused) {
  int32_t blocks = 0;
  const auto each = [&](auto visit) {
    for (const auto& [id, made] : reservations_)
      if (made.state == ReservationState::Committed) visit(made.blocks);
    for (const Sequence* other : running_)
      if (from_paused && !other->has_credit()) visit(other->blocks);
  };
  each([&](const std::vector<int32_t>& held_blocks) {
    for (const int32_t block : held_blocks)
      blocks += ++common_holders_[static_cast<size_t>(block)] == pool_.holders(block) ? 1 : 0;
  });
  each([&](const std::vector<int32_t>& held_blocks) {
    for (const int32_t block : held_blocks) common_holders_[static_cast<size_t>(block)] = 0;
  });
  return blocks;
}

// Gives the sequence `blocks_wanted` blocks in all, taking them from others where the rules allow.
bool Scheduler::make_room(Sequence& sequence, int32_t blocks_wanted) {
  const int32_t missing = blocks_wanted - held(sequence);
  if (missing <= 0) return true;
  while (cache_.blocks_available() < missing) {
    if (give_up_reservation()) continue;
    Sequence* victim = victim_for(sequence);
    if (victim == nullptr) return false;
    preempt(*victim);
  }
  cache_.allocate(missing, sequence.blocks);
  return true;
}

// Paused ones first: they lose nothing they could use now. Then whoever ranks last, if that is after `sequence`.
Sequence* Scheduler::victim_for(const Sequence& sequence) {
  Sequence* paused_one = last_paused();
  if (paused_one != nullptr) return paused_one;
  // Nobody takes the blocks of one that hands over: they are being read.
  const auto last = std::find_if(running_.rbegin(), running_.rend(), [](const Sequence* s) { return !s->hands_over(); });
  return last != running_.rend() && ranks_before(sequence, **last) ? *last : nullptr;
}

Sequence* Scheduler::last_paused() {
  const auto found =
      std::find_if(running_.rbegin(), running_.rend(), [](const Sequence* s) { return !s->has_credit(); });
  return found == running_.rend() ? nullptr : *found;
}

int32_t Scheduler::paused() const {
  return static_cast<int32_t>(
      std::count_if(running_.begin(), running_.end(), [](const Sequence* s) { return !s->has_credit(); }));
}

void Scheduler::add_rows(Sequence& sequence, int32_t rows) {
  const int32_t kv_tokens = sequence.computed + rows;
  const bool complete = kv_tokens == sequence.total();
  const bool wants_logits = complete && (sequence.samples() || sequence.draws());
  (sequence.decoding() ? plan_.decode_tokens : plan_.prefill_tokens) += rows;
  plan_.kv_tokens += kv_tokens;
  plan_.sequences.push_back({
      .first_row = static_cast<int32_t>(plan_.token_ids.size()),
      .rows = rows,
      .kv_tokens = kv_tokens,
      .block_table = std::span<const int32_t>(sequence.blocks).first(static_cast<size_t>(blocks_for(kv_tokens))),
      .wants_logits = wants_logits,
      .pooling = sequence.request.pooling,
      .pooled = {},
  });
  plan_.owners.push_back(&sequence);
  if (wants_logits) plan_.sampling.push_back(&sequence);
  if (complete && sequence.embeds()) plan_.embedding.push_back(&sequence);
  for (int32_t position = sequence.computed; position < kv_tokens; ++position) {
    plan_.token_ids.push_back(sequence.tokens[static_cast<size_t>(position)]);
    plan_.positions.push_back(position);
  }
}

// By recomputation: with the tokens known, K and V can be made again, and the next admission starts from what the cache
// still has of them.
void Scheduler::preempt(Sequence& sequence) {
  leave_running(sequence);
  sequence.computed = 0;
  sequence.state = SequenceState::Waiting;
  ++sequence.preemptions;
  ++preemptions_;
  preempted_in_step_ = true;
  waiting_.push_preempted(&sequence);
}

void Scheduler::leave_running(Sequence& sequence) {
  pool_.release(sequence.blocks);
  sequence.blocks.clear();
  slots_.push_back(*sequence.slot);
  sequence.slot.reset();
  std::erase(running_, &sequence);
}

// --- Applying --------------------------------------------------------------------------------------------------------

void Scheduler::apply(std::span<const Drawn> drawn, std::span<const Sequence* const> unusable) {
  if (drawn.size() != plan_.sampling.size()) throw std::logic_error("apply() needs one result for each sampled row");
  size_t next = 0;
  for (size_t i = 0; i < plan_.sequences.size(); ++i) {
    Sequence& sequence = *plan_.owners[i];
    const StepSequence& share = plan_.sequences[i];
    if (share.wants_logits) {
      const Drawn& result = drawn[next++];
      // Its tokens are for another engine; where none could be drawn, that one finds out why.
      if (sequence.hands_over()) {
        advance(sequence, share.rows);
        continue;
      }
      // What a failed row left behind is not offered to others.
      if (std::holds_alternative<FinishReason>(result)) {
        finish(sequence, std::get<FinishReason>(result));
        continue;
      }
      advance(sequence, share.rows);
      accept(sequence, result);
    } else if (std::find(unusable.begin(), unusable.end(), &sequence) != unusable.end()) {
      finish(sequence, FinishReason::Internal);
    } else {
      advance(sequence, share.rows);
      if (sequence.remaining() == 0 && sequence.embeds()) finish(sequence, FinishReason::Stop);
    }
  }
  clear_plan();
}

// The rows are computed, and the blocks they fill are for everybody.
void Scheduler::advance(Sequence& sequence, int32_t rows) {
  const int32_t first = sequence.computed / kBlockTokens;
  sequence.computed += rows;
  for (int32_t index = first; index < sequence.computed / kBlockTokens; ++index)
    cache_.store(chain_of(sequence), index, sequence.blocks);
}

void Scheduler::accept(Sequence& sequence, const Drawn& drawn) {
  const auto* last = std::get_if<LastToken>(&drawn);
  const int32_t token = last != nullptr ? last->token : std::get<int32_t>(drawn);
  sequence.tokens.push_back(token);
  cache_.extend_hashes(sequence.request.salt, sequence.tokens, sequence.block_hashes);
  --sequence.credit_tokens;
  if (last != nullptr || sequence.request.stops_at(token)) {
    finish(sequence, FinishReason::Stop);
  } else if (sequence.output_tokens() >= sequence.request.max_new_tokens || sequence.total() >= sequence_tokens_max_) {
    finish(sequence, FinishReason::Length);
  }
}

void Scheduler::abandon_step() {
  for (Sequence* sequence : plan_.owners) finish(*sequence, FinishReason::Internal);
  clear_plan();
}

void Scheduler::take_finished(std::vector<Finished>& out) {
  out.assign(finished_.begin(), finished_.end());
  finished_.clear();
}

void Scheduler::expire(int64_t now_ms) {
  while (!deadlines_.empty() && deadlines_.begin()->first.first <= now_ms)
    finish(*deadlines_.begin()->second, FinishReason::Deadline);
}

void Scheduler::finish(Sequence& sequence, FinishReason reason) {
  if (sequence.hands_over() && sequence.state == SequenceState::Running) {
    if (sequence.ending.has_value()) return;
    sequence.ending = reason;
    ending_.push_back(sequence.request.id);
    // Or it would be found past its deadline in every step.
    if (sequence.request.deadline_ms.has_value()) deadlines_.erase({*sequence.request.deadline_ms, sequence.arrival});
    return;
  }
  end(sequence, reason);
}

void Scheduler::end(Sequence& sequence, FinishReason reason) {
  finished_.push_back({
      .id = sequence.request.id,
      .reason = reason,
      .prompt_tokens = sequence.prompt_tokens(),
      .cached_tokens = sequence.prompt_cached_tokens.value_or(0),
      .output_tokens = sequence.output_tokens(),
  });
  if (sequence.state == SequenceState::Waiting)
    waiting_.remove(&sequence);
  else
    leave_running(sequence);
  if (sequence.request.deadline_ms.has_value() && !sequence.ending.has_value())
    deadlines_.erase({*sequence.request.deadline_ms, sequence.arrival});
  sequences_.erase(sequence.request.id);
}

void Scheduler::clear_plan() {
  plan_.token_ids.clear();
  plan_.positions.clear();
  plan_.sequences.clear();
  plan_.owners.clear();
  plan_.sampling.clear();
  plan_.embedding.clear();
  plan_.admitted.clear();
  plan_.prefill_tokens = plan_.decode_tokens = 0;
  plan_.kv_tokens = 0;
}

}  // namespace penstock
