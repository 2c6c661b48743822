// Planning and applying steps. See scheduler.h for the rules and why they cannot get stuck.
#include "sched/scheduler.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace penstock {
namespace {

int32_t blocks_for(int32_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

int32_t held(const Sequence& sequence) { return static_cast<int32_t>(sequence.blocks.size()); }

int32_t longest_sequence(const SchedulerConfig& config) {
  const int64_t pool_tokens = static_cast<int64_t>(config.blocks_total) * kBlockTokens;
  return static_cast<int32_t>(std::min<int64_t>(config.context_tokens, pool_tokens));
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config)
    : config_(config), sequence_tokens_max_(longest_sequence(config)), pool_(config.blocks_total) {
  if (config.context_tokens < 2) throw std::invalid_argument("context_tokens must be at least 2");
  if (config.sequences_max < 1) throw std::invalid_argument("sequences_max must be at least 1");
  if (config.step_tokens_max < config.sequences_max)
    throw std::invalid_argument("step_tokens_max must be at least sequences_max");
  if (config.queue_max < 1) throw std::invalid_argument("queue_max must be at least 1");
  const auto rows = static_cast<size_t>(config.step_tokens_max);
  const auto slots = static_cast<size_t>(config.sequences_max);
  plan_.token_ids.reserve(rows);
  plan_.positions.reserve(rows);
  plan_.sequences.reserve(slots);
  plan_.owners.reserve(slots);
  plan_.sampling.reserve(slots);
  running_.reserve(slots);
  order_.reserve(slots);
}

std::optional<SubmitError> Scheduler::submit(Request request) {
  if (request.prompt.empty() || request.max_new_tokens < 1) throw std::logic_error("submit() of an unchecked request");
  if (sequences_.contains(request.id)) return SubmitError::DuplicateId;
  if (request.prompt.size() >= static_cast<size_t>(sequence_tokens_max_)) return SubmitError::TooLong;
  if (waiting_.size() >= static_cast<size_t>(config_.queue_max)) return SubmitError::QueueFull;
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = request.prompt;
  sequence->credit_tokens = request.credit_tokens;
  sequence->arrival = arrivals_++;
  sequence->request = std::move(request);
  note_deadline(*sequence);
  waiting_.push(sequence.get());
  sequences_.emplace(sequence->request.id, std::move(sequence));
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
  finish_all(all, FinishReason::Cancelled);
  next_deadline_ms_.reset();
}

void Scheduler::add_credit(uint64_t id, uint64_t tokens) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  uint64_t& credit = found->second->credit_tokens;
  credit = tokens > UINT64_MAX - credit ? UINT64_MAX : credit + tokens;
}

// --- Planning --------------------------------------------------------------------------------------------------------

const StepPlan& Scheduler::plan(int64_t now_ms) {
  if (!plan_.empty()) throw std::logic_error("plan() before the last step was applied");
  expire(now_ms);
  int32_t budget_tokens = config_.step_tokens_max;
  preempted_in_step_ = false;
  plan_decodes(budget_tokens);
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
    if (sequence->state != SequenceState::Running || !sequence->decoding() || !sequence->has_credit()) continue;
    if (!make_room(*sequence, blocks_for(sequence->total()))) continue;
    add_rows(*sequence, 1);
    --budget_tokens;
  }
}

void Scheduler::plan_prefills(int32_t& budget_tokens) {
  for (Sequence* sequence : running_) {
    if (budget_tokens == 0) break;
    if (sequence->decoding() || !sequence->has_credit()) continue;
    const int32_t rows = std::min(sequence->remaining(), budget_tokens);
    add_rows(*sequence, rows);
    budget_tokens -= rows;
  }
}

void Scheduler::admit(int32_t& budget_tokens) {
  while (budget_tokens > 0) {
    // No bypass: if the first does not fit, nobody behind it is let in, or a long prompt could wait for ever.
    Sequence* sequence = waiting_.next();
    if (sequence == nullptr) return;
    int32_t paused = 0, blocks_paused = 0;
    for (const Sequence* other : running_) {
      if (other->has_credit()) continue;
      ++paused;
      blocks_paused += held(*other);
    }
    const auto running = static_cast<int32_t>(running_.size());
    if (running == config_.sequences_max && paused == 0) return;
    // A block of headroom for each sequence that is growing, so that the newcomer is not the next one's victim. With
    // nobody growing there is none, and any sequence fits.
    const int32_t blocks_wanted = blocks_for(sequence->total()) + (running - paused);
    if (blocks_wanted > pool_.blocks_free() + blocks_paused) return;
    while (!pool_.can_allocate(blocks_wanted) || running_.size() == static_cast<size_t>(config_.sequences_max))
      preempt(*last_paused());

    waiting_.take(sequence);
    sequence->state = SequenceState::Running;
    // All the memory it will ever need in lists, so that steps allocate nothing.
    const int64_t longest = std::min<int64_t>(
        sequence_tokens_max_, static_cast<int64_t>(sequence->prompt_tokens()) + sequence->request.max_new_tokens);
    sequence->tokens.reserve(static_cast<size_t>(longest));
    sequence->blocks.reserve(static_cast<size_t>(blocks_for(static_cast<int32_t>(longest))));
    pool_.allocate(blocks_for(sequence->total()), sequence->blocks);
    running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence,
                                     [](const Sequence* a, const Sequence* b) { return ranks_before(*a, *b); }),
                    sequence);
    const int32_t rows = std::min(sequence->remaining(), budget_tokens);
    add_rows(*sequence, rows);
    budget_tokens -= rows;
  }
}

// Gives the sequence `blocks_wanted` blocks in all, taking them from others where the rules allow.
bool Scheduler::make_room(const Sequence& sequence, int32_t blocks_wanted) {
  const int32_t missing = blocks_wanted - held(sequence);
  if (missing <= 0) return true;
  while (!pool_.can_allocate(missing)) {
    Sequence* victim = victim_for(sequence);
    if (victim == nullptr) return false;
    preempt(*victim);
  }
  pool_.allocate(missing, sequences_.at(sequence.request.id)->blocks);
  return true;
}

// Paused ones first: they lose nothing they could use now. Then whoever ranks last, if that is after `sequence`.
Sequence* Scheduler::victim_for(const Sequence& sequence) {
  Sequence* paused = last_paused();
  if (paused != nullptr) return paused;
  Sequence* last = running_.back();
  return ranks_before(sequence, *last) ? last : nullptr;
}

Sequence* Scheduler::last_paused() {
  const auto found =
      std::find_if(running_.rbegin(), running_.rend(), [](const Sequence* s) { return !s->has_credit(); });
  return found == running_.rend() ? nullptr : *found;
}

void Scheduler::add_rows(Sequence& sequence, int32_t rows) {
  const int32_t kv_tokens = sequence.computed + rows;
  const bool wants_logits = kv_tokens == sequence.total();
  (sequence.decoding() ? plan_.decode_tokens : plan_.prefill_tokens) += rows;
  plan_.kv_tokens += kv_tokens;
  plan_.sequences.push_back({
      .first_row = static_cast<int32_t>(plan_.token_ids.size()),
      .rows = rows,
      .kv_tokens = kv_tokens,
      .block_table = std::span<const int32_t>(sequence.blocks).first(static_cast<size_t>(blocks_for(kv_tokens))),
      .wants_logits = wants_logits,
  });
  plan_.owners.push_back(&sequence);
  if (wants_logits) plan_.sampling.push_back(&sequence);
  for (int32_t position = sequence.computed; position < kv_tokens; ++position) {
    plan_.token_ids.push_back(sequence.tokens[static_cast<size_t>(position)]);
    plan_.positions.push_back(position);
  }
}

// By recomputation: with the tokens known, K and V can be made again, and the next admission starts from them.
void Scheduler::preempt(Sequence& sequence) {
  pool_.release(sequence.blocks);
  sequence.blocks.clear();
  sequence.computed = 0;
  sequence.state = SequenceState::Waiting;
  ++sequence.preemptions;
  ++preemptions_;
  preempted_in_step_ = true;
  std::erase(running_, &sequence);
  waiting_.push_preempted(&sequence);
}

// --- Applying --------------------------------------------------------------------------------------------------------

void Scheduler::apply(std::span<const std::optional<int32_t>> sampled) {
  if (sampled.size() != plan_.sampling.size()) throw std::logic_error("apply() needs one token for each sampled row");
  size_t next = 0;
  for (size_t i = 0; i < plan_.sequences.size(); ++i) {
    Sequence& sequence = *plan_.owners[i];
    sequence.computed += plan_.sequences[i].rows;
    if (!plan_.sequences[i].wants_logits) continue;
    const std::optional<int32_t> token = sampled[next++];
    if (!token.has_value()) {
      finish(sequence, FinishReason::Internal);
      continue;
    }
    sequence.tokens.push_back(*token);
    --sequence.credit_tokens;
    if (sequence.stops_at(*token)) {
      finish(sequence, FinishReason::Stop);
    } else if (sequence.output_tokens() >= sequence.request.max_new_tokens ||
               sequence.total() >= sequence_tokens_max_) {
      finish(sequence, FinishReason::Length);
    }
  }
  clear_plan();
}

void Scheduler::abandon_step() {
  for (Sequence* sequence : plan_.owners) finish(*sequence, FinishReason::Internal);
  clear_plan();
}

void Scheduler::take_finished(std::vector<Finished>& out) {
  out.clear();
  std::swap(out, finished_);
}

void Scheduler::expire(int64_t now_ms) {
  if (!next_deadline_ms_.has_value() || now_ms < *next_deadline_ms_) return;
  std::vector<Sequence*> expired;
  next_deadline_ms_.reset();
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->request.deadline_ms.has_value() && *sequence->request.deadline_ms <= now_ms)
      expired.push_back(sequence.get());
    else
      note_deadline(*sequence);
  }
  finish_all(expired, FinishReason::Deadline);
}

void Scheduler::note_deadline(const Sequence& sequence) {
  const auto& deadline_ms = sequence.request.deadline_ms;
  if (deadline_ms.has_value()) next_deadline_ms_ = std::min(next_deadline_ms_.value_or(*deadline_ms), *deadline_ms);
}

// By arrival, so that the same history gives the same order of ends.
void Scheduler::finish_all(std::vector<Sequence*>& sequences, FinishReason reason) {
  std::sort(sequences.begin(), sequences.end(),
            [](const Sequence* a, const Sequence* b) { return a->arrival < b->arrival; });
  for (Sequence* sequence : sequences) finish(*sequence, reason);
}

void Scheduler::finish(Sequence& sequence, FinishReason reason) {
  finished_.push_back({
      .id = sequence.request.id,
      .reason = reason,
      .prompt_tokens = sequence.prompt_tokens(),
      .cached_tokens = 0,
      .output_tokens = sequence.output_tokens(),
  });
  if (sequence.state == SequenceState::Waiting) {
    waiting_.remove(&sequence);
  } else {
    pool_.release(sequence.blocks);
    std::erase(running_, &sequence);
  }
  sequences_.erase(sequence.request.id);
}

void Scheduler::clear_plan() {
  plan_.token_ids.clear();
  plan_.positions.clear();
  plan_.sequences.clear();
  plan_.owners.clear();
  plan_.sampling.clear();
  plan_.prefill_tokens = plan_.decode_tokens = 0;
  plan_.kv_tokens = 0;
}

// --- Looking in ------------------------------------------------------------------------------------------------------

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats{
      .blocks_total = pool_.blocks_total(),
      .blocks_used = pool_.blocks_held(),
      .running = static_cast<int32_t>(running_.size()),
      .waiting = static_cast<int32_t>(waiting_.size()),
      .prefill_tokens_queued = 0,
      .decode_kv_tokens = 0,
      .preemptions = preemptions_,
  };
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->decoding())
      stats.decode_kv_tokens += sequence->computed;
    else
      stats.prefill_tokens_queued += sequence->remaining();
  }
  return stats;
}

void Scheduler::check_integrity() const {
  int64_t holdings = 0;
  size_t running = 0;
  for (const auto& [id, sequence] : sequences_) {
    const Sequence& s = *sequence;
    const std::string name = "sequence " + std::to_string(id);
    if (s.computed < 0 || s.computed > s.total()) throw std::logic_error(name + " has computed more than it knows");
    if (s.total() > sequence_tokens_max_) throw std::logic_error(name + " is longer than any sequence may be");
    if (s.output_tokens() >= s.request.max_new_tokens) throw std::logic_error(name + " should have ended");
    holdings += held(s);
    if (s.state == SequenceState::Running) {
      ++running;
      if (held(s) < blocks_for(s.computed)) throw std::logic_error(name + " has tokens outside its blocks");
      if (held(s) > blocks_for(s.total())) throw std::logic_error(name + " holds more blocks than it can fill");
      if (s.remaining() < 1) throw std::logic_error(name + " is running with nothing to compute");
    } else if (held(s) != 0 || s.computed != 0) {
      throw std::logic_error(name + " is waiting and holds blocks");
    }
  }
  if (running != running_.size() || running + waiting_.size() != sequences_.size())
    throw std::logic_error("a sequence is neither running nor waiting");
  if (running > static_cast<size_t>(config_.sequences_max)) throw std::logic_error("more sequences run than may");
  if (!std::is_sorted(running_.begin(), running_.end(),
                      [](const Sequence* a, const Sequence* b) { return ranks_before(*a, *b); }))
    throw std::logic_error("running sequences are out of order");
  pool_.check_integrity(holdings);
}

}  // namespace penstock
