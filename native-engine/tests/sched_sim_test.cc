// Random workloads against a model checker. Goal: whatever the mix of prompts, prefixes in common, salts, pools,
// priorities, tenants, credits, embeddings, output of earlier lives, cancellations, deadlines, reservations that others
// fill and sequences that are handed over, the books add up after every step, every block read holds what its reader would
// have computed (fake_runner.h), somebody who can run does run, every request ends exactly once for a reason that is true,
// and what it says is what it would say alone.
#include <gtest/gtest.h>

#include <cstdlib>
#include <exception>
#include <map>
#include <random>
#include <set>

#include "fake_runner.h"
#include "sched/scheduler.h"
#include "sched_sim_workload.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr int32_t kVocab = 61;

// The checker's own view of a request, kept from what went in and came out, never from the scheduler's state.
struct Expected {
  Request request;
  uint64_t credit_granted = 0;
  std::vector<int32_t> output;
  bool cancelled = false;
  bool failed = false;
  std::vector<int32_t> read;  // blocks of one that hands over, as its reader knows them
  bool arrived = false, broken = false;
  std::vector<float> accumulator;  // of an embedding
  std::vector<float> embedding;    // when complete
  std::optional<Finished> end;

  size_t sampled() const { return output.size() - request.output.size(); }
};

class Simulation {
 public:
  explicit Simulation(uint32_t seed)
      : random_(seed),
        workload_(draw_workload(random_)),
        scheduler_(workload_.config),
        runner_(workload_.config.blocks_total, workload_.config.context_tokens, kVocab,
                workload_.config.step_tokens_max) {}

  // Returns the number of steps, so that a run which did nothing can be noticed.
  int run() {
    int steps = 0, idle = 0;
    while (submitted_ < workload_.requests || !scheduler_.idle()) {
      now_ms_ += pick(0, 5);
      act();
      if (step()) {
        ++steps;
        idle = 0;
      } else {
        // Nothing can run: then nobody who has credit may be left.
        const bool held = somebody_is_read() || somebody_fills();
        for (const auto& [id, e] : live_) {
          if (!e.end && !held) {
            EXPECT_FALSE(e.request.hands_over) << "hand-over " << id << " could be computed and was not";
            EXPECT_EQ(e.request.pooling, Pooling::none) << "embedding " << id << " could be computed and was not";
            EXPECT_GE(e.sampled(), e.credit_granted) << "request " << id << " could run and did not";
          }
        }
        if (++idle > 20) feed_everybody();
      }
      // A bound on the whole: far above what recomputation can cost, far below for ever.
      if (steps > 200'000) {
        ADD_FAILURE() << "livelock";
        break;
      }
      if (::testing::Test::HasFailure()) break;
    }
    if (!::testing::Test::HasFailure()) check_ends();
    return steps;
  }

  uint64_t preemptions() const { return scheduler_.stats().preemptions; }
  uint64_t cached_tokens() const { return scheduler_.stats().cached_tokens; }
  uint64_t commits() const { return commits_; }
  uint64_t handed_over() const { return handed_over_; }
  // Steps in which blocks could be read as they were filled, and could not be because of an equal.
  uint64_t early() const { return early_; }
  uint64_t withheld() const { return withheld_; }
  // Every end with its reason, hits and time: equal for equal seeds.
  const std::vector<std::vector<uint64_t>>& log() const { return log_; }

 private:
  int32_t pick(int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(random_); }
  bool chance(int32_t percent) { return pick(1, 100) <= percent; }

  void act() {
    while (submitted_ < workload_.requests && chance(30)) submit();
    if (workload_.reserves) reserve();
    move_reservations();
    hand_over();
    if (live_.empty()) return;
    auto any = live_.begin();
    std::advance(any, pick(0, static_cast<int32_t>(live_.size()) - 1));
    if (workload_.credits && chance(40)) grant(any->second, static_cast<uint64_t>(pick(1, 12)));
    if (workload_.cancels && chance(3)) {
      if (!any->second.end) any->second.cancelled = true;
      scheduler_.cancel(any->first);
      collect();
    }
    scheduler_.check_integrity();
  }

  std::vector<int32_t> draw_prompt() {
    const int32_t prompt_tokens = pick(1, workload_.prompt_max);
    // A prefix in common is a run of tokens that its number decides; sometimes the whole prompt is in common, and
    // sometimes an earlier conversation is continued.
    std::vector<int32_t> prompt;
    if (!reserved_.empty() && chance(40)) {
      prompt = std::next(reserved_.begin(), pick(0, static_cast<int32_t>(reserved_.size()) - 1))->second;
    } else if (workload_.prefixes > 0 && chance(80)) {
      const int32_t prefix = pick(1, workload_.prefixes);
      const int32_t common = chance(40) ? prompt_tokens : pick(1, prompt_tokens);
      for (int32_t i = 0; i < common; ++i) prompt.push_back((prefix * 7 + i * prefix) % kVocab);
    } else if (workload_.prefixes > 0 && !live_.empty()) {
      const Expected& earlier = std::next(live_.begin(), pick(0, static_cast<int32_t>(live_.size()) - 1))->second;
      prompt = earlier.request.prompt;
      prompt.insert(prompt.end(), earlier.output.begin(), earlier.output.end());
    }
    while (static_cast<int32_t>(prompt.size()) < prompt_tokens) prompt.push_back(pick(0, kVocab - 1));
    return prompt;
  }

  // Another engine computes K and V of a prompt that may or may not be submitted here later.
  void reserve() {
    if (!chance(15)) return;
    const uint64_t id = next_reservation_++;
    const std::vector<int32_t> prompt = draw_prompt();
    const SchedulerStats before = scheduler_.stats();
    const auto made = scheduler_.reserve(id, 0, prompt);
    if (const auto* error = std::get_if<ReserveError>(&made)) {
      EXPECT_NE(*error, ReserveError::DuplicateId);
      EXPECT_EQ(scheduler_.stats().blocks_used, before.blocks_used) << "a refusal leaves nothing behind";
      return;
    }
    EXPECT_EQ(scheduler_.stats().preemptions, before.preemptions) << "it takes nothing from a sequence";
    reserved_.emplace(id, std::get<const Reservation*>(made)->tokens);
  }

  void move_reservations() {
    std::vector<uint64_t> gone;
    scheduler_.take_given_up(gone);
    for (const uint64_t id : gone) {
      EXPECT_TRUE(committed_.contains(id)) << "blocks that are written to were given up";
      reserved_.erase(id);
    }
    for (auto at = reserved_.begin(); at != reserved_.end();) {
      const auto& [id, tokens] = *at;
      const Reservation* made = scheduler_.reservation(id);
      const bool filling = made->state == ReservationState::Filling;
      // Its writer is at it, and nobody must notice.
      for (size_t i = static_cast<size_t>(made->cached); filling && i < made->blocks.size(); ++i)
        if (chance(30)) runner_.spoil_block(made->blocks[i]);
      if (filling && chance(25)) {
        for (size_t i = static_cast<size_t>(made->cached); i < made->blocks.size(); ++i)
          runner_.write_block(made->blocks[i], tokens, static_cast<int32_t>(i));
        scheduler_.commit(id);
        committed_.insert(id);
        ++commits_;
      } else if (chance(10)) {
        scheduler_.drop(id);
        at = reserved_.erase(at);
        continue;
      }
      ++at;
    }
  }

  // The reader of what is handed over: it reads what is complete, in any step, until it says that it is done.
  void hand_over() {
    std::vector<uint64_t> ending;
    scheduler_.take_ending(ending);
    for (auto& [id, e] : live_) {
      const Sequence* sequence = scheduler_.sequence(id);
      if (!e.request.hands_over || sequence == nullptr) continue;
      if (sequence->state == SequenceState::Waiting) {
        EXPECT_TRUE(e.read.empty()) << "blocks were taken from under a reader";
        continue;
      }
      const auto complete = sequence->remaining() == 0 ? sequence->blocks.size()
                                                       : static_cast<size_t>(sequence->computed / kBlockTokens);
      e.read.insert(e.read.end(), sequence->blocks.begin() + static_cast<std::ptrdiff_t>(e.read.size()),
                    sequence->blocks.begin() + static_cast<std::ptrdiff_t>(complete));
      for (size_t i = 0; i < complete; ++i) {
        EXPECT_EQ(e.read[i], sequence->blocks[i]);
        EXPECT_TRUE(runner_.holds(e.read[i], e.request.prompt, static_cast<int32_t>(i)));
      }
      const bool done = sequence->remaining() == 0;
      if (!chance(done || sequence->ending.has_value() ? 30 : 3)) continue;
      const bool arrived = done && chance(80);
      if (!sequence->ending.has_value()) (arrived ? e.arrived : e.broken) = true;
      scheduler_.hand_over_ended(id, arrived);
      ++handed_over_;
    }
    collect();
  }
  // Blocks that their reader may read while the step is computed.
  std::map<uint64_t, std::vector<int32_t>> early_blocks(const StepPlan& plan) {
    std::map<uint64_t, std::vector<int32_t>> early;
    for (size_t i = 0; i < plan.owners.size(); ++i) {
      const Sequence& sequence = *plan.owners[i];
      if (!sequence.hands_over()) continue;
      const int32_t settled = scheduler_.blocks_settled(i);
      EXPECT_GE(settled, sequence.computed / kBlockTokens);
      if (settled > sequence.computed / kBlockTokens) ++early_;
      else if (plan.sequences[i].kv_tokens / kBlockTokens > settled) ++withheld_;
      early[sequence.request.id].assign(sequence.blocks.begin(), sequence.blocks.begin() + settled);
    }
    return early;
  }
  bool somebody_is_read() const {
    for (const auto& [id, e] : live_) {
      const Sequence* sequence = scheduler_.sequence(id);
      if (e.request.hands_over && sequence != nullptr && sequence->state == SequenceState::Running) return true;
    }
    return false;
  }
  bool somebody_fills() const {
    for (const auto& [id, tokens] : reserved_)
      if (!committed_.contains(id)) return true;
    return false;
  }

  void submit() {
    Expected e;
    e.request.id = static_cast<uint64_t>(submitted_++);
    e.request.prompt = draw_prompt();
    if (chance(workload_.handing_share) && e.request.prompt.size() >= kBlockTokens) {
      e.request.hands_over = true;
      if (chance(50)) e.request.prompt.resize(e.request.prompt.size() / kBlockTokens * kBlockTokens);
      if (chance(50)) e.request.draw_seeds = {1, 2};
      e.request.draw_prompt_tokens = static_cast<int32_t>(e.request.prompt.size());
    }
    e.request.salt = chance(80) ? 0 : static_cast<uint64_t>(pick(1, 2));
    if (!e.request.hands_over && chance(workload_.pooling_share)) e.request.pooling = chance(50) ? Pooling::mean : Pooling::last;
    e.accumulator.resize(kFakeEmbeddingDims, -1.0f);
    e.request.max_new_tokens = pick(1, workload_.output_max);
    if (!e.request.hands_over && e.request.pooling == Pooling::none && chance(workload_.resumed_share)) draw_output(e);
    if (!e.request.hands_over && !reserved_.empty() && chance(60)) take_over(e);
    e.credit_granted = workload_.credits ? static_cast<uint64_t>(pick(0, 20)) : 1'000'000;
    e.request.credit_tokens = e.credit_granted;
    if (chance(30)) e.request.stop_ids = {pick(0, kVocab - 1), pick(0, kVocab - 1)};
    e.request.priority = chance(30) ? pick(-2, 2) : 0;
    e.request.tenant = static_cast<uint64_t>(pick(0, 3));
    if (workload_.deadlines && chance(30)) e.request.deadline_ms = now_ms_ + pick(1, 400);
    const auto error = scheduler_.submit(e.request);
    const auto known = static_cast<int32_t>(e.request.prompt.size() + e.request.output.size());
    const bool too_long = known >= scheduler_.sequence_tokens_max();
    EXPECT_EQ(error == SubmitError::TooLong, too_long);
    if (error == SubmitError::QueueFull && scheduler_.stats().waiting < workload_.config.queue_max) {
      EXPECT_GT(scheduler_.stats().prefill_tokens_queued + known, workload_.config.queue_tokens_max);
    }
    if (!error.has_value()) live_.emplace(e.request.id, std::move(e));
  }

  // Names a reservation, of its own prompt or of another one, with the first token or without.
  void take_over(Expected& e) {
    const auto& [id, tokens] = *std::next(reserved_.begin(), pick(0, static_cast<int32_t>(reserved_.size()) - 1));
    const Reservation* made = scheduler_.reservation(id);
    if (made == nullptr || tokens.empty()) return;
    e.request.takes_over = ReservationName{id, made->order - (chance(10) ? 1 : 0)};
    if (!chance(80)) return;
    e.request.prompt = tokens;
    e.request.output.clear();
    if (e.request.pooling == Pooling::none && e.request.max_new_tokens > 1 && chance(50))
      e.request.output = {fake_next_token(tokens, kVocab)};
    e.output = e.request.output;
  }

  // Of an earlier life: what it said there, or anything at all; sometimes of one that the scheduler knows.
  void draw_output(Expected& e) {
    if (chance(50) && !live_.empty()) {
      const Expected& earlier = std::next(live_.begin(), pick(0, static_cast<int32_t>(live_.size()) - 1))->second;
      if (!earlier.request.hands_over) e.request.prompt = earlier.request.prompt;
      e.request.output = earlier.output;
    }
    const auto length = static_cast<size_t>(pick(0, e.request.max_new_tokens - 1));
    while (e.request.output.size() < length) e.request.output.push_back(pick(0, kVocab - 1));
    e.request.output.resize(length);
    e.output = e.request.output;
  }

  void grant(Expected& e, uint64_t tokens) {
    e.credit_granted += tokens;
    scheduler_.add_credit(e.request.id, tokens);
  }

  // A reader that comes back after a long pause: the run must end even then.
  void feed_everybody() {
    for (auto& [id, e] : live_) grant(e, 200);
  }

  bool step() {
    StepPlan& plan = scheduler_.plan(now_ms_);
    collect();
    if (plan.empty()) return false;
    for (const Sequence* owner : plan.owners) {
      const Expected& e = live_.at(owner->request.id);
      EXPECT_TRUE(e.sampled() < e.credit_granted || e.request.pooling != Pooling::none ||
                  e.request.hands_over)
          << "request " << owner->request.id << " ran without credit";
      EXPECT_FALSE(e.end.has_value());
    }
    EXPECT_LE(plan.token_ids.size(), static_cast<size_t>(workload_.config.step_tokens_max));
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      StepSequence& share = plan.sequences[i];
      if (share.pooling == Pooling::none) continue;
      share.pooled = live_.at(plan.owners[i]->request.id).accumulator;
      if (share.kv_tokens == share.rows) std::fill(share.pooled.begin(), share.pooled.end(), 0.0f);
    }
    const auto early = early_blocks(plan);
    if (workload_.failures && chance(2)) {
      for (const Sequence* owner : plan.owners) live_.at(owner->request.id).failed = true;
      scheduler_.abandon_step();
    } else {
      std::vector<float> logits(plan.sampling.size() * kVocab);
      runner_.forward(plan.batch(), logits);
      std::vector<Drawn> sampled;
      for (size_t i = 0; i < plan.sampling.size(); ++i) {
        const auto first = logits.begin() + static_cast<std::ptrdiff_t>(i * kVocab);
        const auto token = static_cast<int32_t>(std::max_element(first, first + kVocab) - first);
        sampled.emplace_back(token);
        // Of one that hands over, the token is another engine's.
        if (!plan.sampling[i]->hands_over()) live_.at(plan.sampling[i]->request.id).output.push_back(token);
      }
      std::vector<const Sequence*> unusable;
      for (const Sequence* sequence : plan.embedding) {
        Expected& e = live_.at(sequence->request.id);
        e.embedding = e.accumulator;
        if (e.request.pooling == Pooling::mean)
          for (float& value : e.embedding) value /= static_cast<float>(e.request.prompt.size());
        if (!workload_.failures || !chance(10)) continue;
        e.failed = true;
        unusable.push_back(sequence);
      }
      scheduler_.apply(sampled, unusable);
      for (const auto& [id, blocks] : early) {
        const Sequence* sequence = scheduler_.sequence(id);
        const auto complete = static_cast<size_t>(sequence->computed / kBlockTokens);
        EXPECT_LE(blocks.size(), sequence->remaining() == 0 ? sequence->blocks.size() : complete);
        EXPECT_TRUE(std::equal(blocks.begin(), blocks.end(), sequence->blocks.begin())) << "what was being read is another's";
      }
    }
    collect();
    scheduler_.check_integrity();
    return true;
  }

  void collect() {
    std::vector<Finished> ended;
    scheduler_.take_finished(ended);
    for (const Finished& f : ended) {
      Expected& e = live_.at(f.id);
      EXPECT_FALSE(e.end.has_value()) << "request " << f.id << " ended twice";
      e.end = f;
      const bool more = e.request.hands_over || !e.request.output.empty();
      EXPECT_LT(f.cached_tokens, f.prompt_tokens + (more ? 1 : 0)) << "one token is always computed";
      EXPECT_TRUE(f.cached_tokens % kBlockTokens == 0 || e.request.takes_over.has_value() ||
                  (more && f.cached_tokens == f.prompt_tokens));
      EXPECT_TRUE(e.request.pooling != Pooling::mean || f.cached_tokens == 0);
      log_.push_back({f.id, static_cast<uint64_t>(f.reason), static_cast<uint64_t>(f.cached_tokens),
                      static_cast<uint64_t>(now_ms_)});
      ended_at_ms_[f.id] = now_ms_;
    }
  }

  void check_ends() {
    for (const auto& [id, tokens] : reserved_) scheduler_.drop(id);
    scheduler_.check_integrity();
    EXPECT_EQ(scheduler_.stats().blocks_used, 0);
    EXPECT_EQ(scheduler_.stats().prefill_tokens_queued, 0);
    for (const auto& [id, e] : live_) {
      SCOPED_TRACE("request " + std::to_string(id));
      ASSERT_TRUE(e.end.has_value());
      ASSERT_EQ(e.end->prompt_tokens, static_cast<int32_t>(e.request.prompt.size()));
      ASSERT_EQ(e.end->output_tokens, static_cast<int32_t>(e.output.size()));
      std::vector<int32_t> tokens = e.request.prompt;
      tokens.insert(tokens.end(), e.request.output.begin(), e.request.output.end());
      bool stopped = false;
      for (const int32_t token : std::span(e.output).subspan(e.request.output.size())) {
        ASSERT_FALSE(stopped) << "sampled on after a stop token";
        ASSERT_EQ(token, fake_next_token(tokens, kVocab)) << "differs from running alone";
        tokens.push_back(token);
        stopped = std::find(e.request.stop_ids.begin(), e.request.stop_ids.end(), token) != e.request.stop_ids.end();
      }
      if (e.request.pooling != Pooling::none) {
        ASSERT_EQ(e.end->output_tokens, 0);
        ASSERT_NE(e.end->reason, FinishReason::Length);
        stopped = e.end->reason == FinishReason::Stop;
        if (stopped) {
          ASSERT_EQ(e.embedding, fake_embedding(e.request.prompt, e.request.pooling));
        }
      }
      if (e.request.hands_over) {
        ASSERT_TRUE(e.output.empty());
        stopped = e.arrived;
      }
      const bool full = static_cast<int32_t>(e.output.size()) == e.request.max_new_tokens ||
                        static_cast<int32_t>(tokens.size()) == scheduler_.sequence_tokens_max();
      switch (e.end->reason) {
        case FinishReason::Stop:
          EXPECT_TRUE(stopped);
          break;
        case FinishReason::Length:
          EXPECT_TRUE(full && !stopped);
          break;
        case FinishReason::Cancelled:
          EXPECT_TRUE(e.cancelled && !stopped && !full);
          break;
        case FinishReason::Deadline:
          EXPECT_TRUE(e.request.deadline_ms.has_value() && *e.request.deadline_ms <= ended_at_ms_.at(id));
          break;
        case FinishReason::Internal:
          EXPECT_TRUE(e.failed);
          break;
        case FinishReason::Transfer:
          EXPECT_TRUE(e.broken && !stopped);
          break;
        case FinishReason::Grammar:
          ADD_FAILURE() << "there are no grammars here";
          break;
      }
    }
  }

  std::mt19937 random_;
  Workload workload_;
  Scheduler scheduler_;
  FakeRunner runner_;
  std::map<uint64_t, Expected> live_;  // every accepted request, ended ones included
  std::map<uint64_t, int64_t> ended_at_ms_;
  std::map<uint64_t, std::vector<int32_t>> reserved_;  // live reservations and their tokens
  std::set<uint64_t> committed_;                       // of all that ever were
  uint64_t next_reservation_ = 0, commits_ = 0, handed_over_ = 0, early_ = 0, withheld_ = 0;
  std::vector<std::vector<uint64_t>> log_;
  int64_t now_ms_ = 0;
  int submitted_ = 0;
};

TEST(SchedulerSimulation, EndsEveryRequestOnceWithTheWordsItWouldSayAlone) {
  // PENSTOCK_SIM_SEED repeats one run; PENSTOCK_SIM_RUNS makes a long night of it.
  const char* one = std::getenv("PENSTOCK_SIM_SEED");
  const char* many = std::getenv("PENSTOCK_SIM_RUNS");
  const uint32_t first =
      one != nullptr ? static_cast<uint32_t>(std::strtoul(one, nullptr, 10)) : std::random_device{}();
  const int runs = one != nullptr ? 1 : many != nullptr ? std::atoi(many) : 2000;
  uint64_t preemptions = 0, cached_tokens = 0, commits = 0, handed_over = 0, early = 0, withheld = 0;
  int64_t steps = 0;
  for (int i = 0; i < runs; ++i) {
    const uint32_t seed = first + static_cast<uint32_t>(i);
    try {
      Simulation simulation(seed);
      steps += simulation.run();
      preemptions += simulation.preemptions();
      cached_tokens += simulation.cached_tokens();
      commits += simulation.commits();
      handed_over += simulation.handed_over();
      early += simulation.early();
      withheld += simulation.withheld();
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
    if (HasFailure()) {
      FAIL() << "PENSTOCK_SIM_SEED=" << seed;
    }
  }
  RecordProperty("steps", std::to_string(steps));
  // A simulation that never gets tight proves nothing.
  if (runs >= 1000) {
    EXPECT_GT(preemptions, static_cast<uint64_t>(runs));
    EXPECT_GT(cached_tokens, 16u * static_cast<uint64_t>(runs));
    EXPECT_GT(commits, static_cast<uint64_t>(runs));
    EXPECT_GT(handed_over, static_cast<uint64_t>(runs) / 4);
    EXPECT_GT(early, static_cast<uint64_t>(runs) / 4);
    EXPECT_GT(withheld, static_cast<uint64_t>(runs) / 100);
  }
}

TEST(SchedulerSimulation, IsTheSameEveryTimeForOneSeed) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    Simulation first(seed), second(seed);
    first.run();
    second.run();
    ASSERT_EQ(first.log(), second.log()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace penstock
