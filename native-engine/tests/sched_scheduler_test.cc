// The scheduler's rules one at a time, with the fake runner as the model.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <stdexcept>

#include "fake_runner.h"
#include "sched/scheduler.h"

namespace penstock {
namespace {

constexpr int32_t kVocab = 97;

struct Row {
  uint64_t id;
  int32_t rows;
  bool operator==(const Row&) const = default;
};
void PrintTo(const Row& row, std::ostream* out) { *out << row.id << "x" << row.rows; }
using Rows = std::vector<Row>;

// A scheduler and a fake model, stepped by hand.
class Bench {
 public:
  explicit Bench(SchedulerConfig config)
      : scheduler(config), runner(config.blocks_total, config.context_tokens, kVocab, config.step_tokens_max) {}

  static Request request(uint64_t id, int32_t prompt_tokens, int32_t max_new_tokens) {
    Request r;
    r.id = id;
    for (int32_t i = 0; i < prompt_tokens; ++i)
      r.prompt.push_back(static_cast<int32_t>((id * 31 + static_cast<uint64_t>(i)) % kVocab));
    r.max_new_tokens = max_new_tokens;
    r.credit_tokens = 1'000'000;
    return r;
  }

  // One step; what was in it.
  Rows step() {
    StepPlan& plan = scheduler.plan(now_ms);
    Rows rows;
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      rows.push_back({plan.owners[i]->request.id, plan.sequences[i].rows});
      rows_computed += plan.sequences[i].rows;
      if (plan.sequences[i].pooling == Pooling::none) continue;
      plan.sequences[i].pooled = accumulators[plan.owners[i]->request.id];
      if (plan.sequences[i].kv_tokens == plan.sequences[i].rows) std::ranges::fill(plan.sequences[i].pooled, 0.0f);
    }
    if (!plan.empty()) {
      std::vector<float> logits(plan.sampling.size() * kVocab);
      runner.forward(plan.batch(), logits);
      std::vector<Drawn> sampled;
      for (size_t i = 0; i < plan.sampling.size(); ++i) {
        const auto first = logits.begin() + static_cast<std::ptrdiff_t>(i * kVocab);
        const auto token = static_cast<int32_t>(std::max_element(first, first + kVocab) - first);
        sampled.emplace_back(token);
        outputs[plan.sampling[i]->request.id].push_back(token);
      }
      scheduler.apply(sampled);
    }
    collect();
    scheduler.check_integrity();
    return rows;
  }
  void collect() {
    std::vector<Finished> ended;
    scheduler.take_finished(ended);
    for (const Finished& f : ended)
      EXPECT_TRUE(finished.emplace(f.id, f).second) << "sequence " << f.id << " ended twice";
  }
  int run_dry(int steps_max = 10'000) {
    int steps = 0;
    while (!step().empty() && steps < steps_max) ++steps;
    return steps;
  }
  static std::vector<int32_t> alone(const Request& r, size_t count) {
    std::vector<int32_t> tokens = r.prompt;
    while (tokens.size() < r.prompt.size() + count) tokens.push_back(fake_next_token(tokens, kVocab));
    return {tokens.begin() + static_cast<std::ptrdiff_t>(r.prompt.size()), tokens.end()};
  }

  Scheduler scheduler;
  FakeRunner runner;
  int64_t now_ms = 0;
  std::map<uint64_t, Finished> finished;
  std::map<uint64_t, std::vector<int32_t>> outputs;
  std::map<uint64_t, std::array<float, kFakeEmbeddingDims>> accumulators;
  int64_t rows_computed = 0;
};

SchedulerConfig config(int32_t blocks, int32_t sequences = 4, int32_t step_tokens = 32, int32_t context = 256) {
  return {
      .blocks_total = blocks, .context_tokens = context, .sequences_max = sequences, .step_tokens_max = step_tokens};
}

TEST(Scheduler, RejectsLimitsThatMakeNoSense) {
  EXPECT_THROW(Scheduler(config(0)), std::invalid_argument);
  EXPECT_THROW(Scheduler(config(8, 0)), std::invalid_argument);
  EXPECT_THROW(Scheduler(config(8, 8, 7)), std::invalid_argument);
  EXPECT_THROW(Scheduler(config(8, 1, 1, 1)), std::invalid_argument);
}

TEST(Scheduler, ComputesALongPromptInChunksAndThenOneTokenPerStep) {
  Bench bench(config(64));
  const Request r = Bench::request(1, 70, 3);
  ASSERT_FALSE(bench.scheduler.submit(r).has_value());
  EXPECT_EQ(bench.step(), (Rows{{1, 32}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 32}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 6}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}}));
  EXPECT_EQ(bench.step(), Rows{});
  ASSERT_TRUE(bench.finished.contains(1));
  EXPECT_EQ(bench.finished[1].reason, FinishReason::Length);
  EXPECT_EQ(bench.finished[1].prompt_tokens, 70);
  EXPECT_EQ(bench.finished[1].cached_tokens, 0);
  EXPECT_EQ(bench.finished[1].output_tokens, 3);
  EXPECT_EQ(bench.outputs[1], Bench::alone(r, 3));
  EXPECT_EQ(bench.scheduler.stats().blocks_used, 0);
}

TEST(Scheduler, LetsDecodingSequencesGoOnBesideAPrefill) {
  Bench bench(config(64));
  bench.scheduler.submit(Bench::request(1, 4, 50));
  bench.step();
  bench.scheduler.submit(Bench::request(2, 60, 5));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}, {2, 31}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}, {2, 29}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}, {2, 1}}));
}

TEST(Scheduler, FillsTheRestOfAStepWithTheNextPrompt) {
  Bench bench(config(64));
  bench.scheduler.submit(Bench::request(1, 20, 2));
  bench.scheduler.submit(Bench::request(2, 20, 2));
  EXPECT_EQ(bench.step(), (Rows{{1, 20}, {2, 12}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}, {2, 8}}));
}

TEST(Scheduler, EndsAtAStopTokenWhichIsCounted) {
  Bench bench(config(64));
  Request r = Bench::request(1, 10, 50);
  const std::vector<int32_t> expected = Bench::alone(r, 50);
  r.stop_ids = {expected[4]};
  const auto stops_at = std::find(expected.begin(), expected.end(), expected[4]) - expected.begin();
  bench.scheduler.submit(r);
  bench.run_dry();
  EXPECT_EQ(bench.finished[1].reason, FinishReason::Stop);
  EXPECT_EQ(bench.finished[1].output_tokens, stops_at + 1);
}

TEST(Scheduler, EndsWithReasonLengthAtTheEndOfTheContextWindow) {
  Bench bench(config(64, 4, 32, 40));
  bench.scheduler.submit(Bench::request(1, 39, 1000));
  bench.scheduler.submit(Bench::request(2, 30, 1000));
  bench.run_dry();
  EXPECT_EQ(bench.finished[1].reason, FinishReason::Length);
  EXPECT_EQ(bench.finished[1].output_tokens, 1);
  EXPECT_EQ(bench.finished[2].output_tokens, 10);
}

TEST(Scheduler, LimitsASequenceToThePoolWhenThatIsSmallerThanTheContext) {
  Bench bench(config(3));
  EXPECT_EQ(bench.scheduler.sequence_tokens_max(), 48);
  bench.scheduler.submit(Bench::request(1, 20, 1000));
  EXPECT_EQ(bench.scheduler.submit(Bench::request(2, 48, 1)), SubmitError::TooLong);
  bench.run_dry();
  EXPECT_EQ(bench.finished[1].output_tokens, 28);
}

TEST(Scheduler, SaysWhyItDoesNotTakeARequest) {
  SchedulerConfig c = config(16, 1);
  c.queue_max = 2;
  Bench bench(c);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(1, 256, 1)), SubmitError::TooLong);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(1, 5, 1)), std::nullopt);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(1, 5, 1)), SubmitError::DuplicateId);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(2, 5, 1)), std::nullopt);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(3, 5, 1)), SubmitError::QueueFull);
  bench.step();  // the first leaves the queue, and ends
  EXPECT_EQ(bench.scheduler.submit(Bench::request(1, 5, 1)), std::nullopt);
}

TEST(Scheduler, DoesNotScheduleASequenceWithoutCreditButKeepsItsBlocks) {
  Bench bench(config(64));
  Request r = Bench::request(1, 10, 20);
  r.credit_tokens = 3;
  bench.scheduler.submit(r);
  EXPECT_EQ(bench.run_dry(), 3);
  EXPECT_EQ(bench.outputs[1].size(), 3u);
  EXPECT_GT(bench.scheduler.stats().blocks_used, 0);
  EXPECT_EQ(bench.scheduler.stats().running, 1);
  bench.scheduler.add_credit(1, 2);
  EXPECT_EQ(bench.run_dry(), 2);
  bench.scheduler.add_credit(1, UINT64_MAX);
  bench.scheduler.add_credit(1, UINT64_MAX);
  bench.run_dry();
  EXPECT_EQ(bench.outputs[1], Bench::alone(r, 20));
  EXPECT_EQ(bench.scheduler.stats().preemptions, 0u);
}

TEST(Scheduler, DoesNotAdmitASequenceWithoutCredit) {
  Bench bench(config(64));
  Request r = Bench::request(1, 10, 5);
  r.credit_tokens = 0;
  bench.scheduler.submit(r);
  EXPECT_TRUE(bench.step().empty());
  EXPECT_EQ(bench.scheduler.stats().waiting, 1);
  bench.scheduler.add_credit(99, 5);  // unknown: ignored
  bench.scheduler.add_credit(1, 5);
  bench.run_dry();
  EXPECT_EQ(bench.outputs[1].size(), 5u);
}

TEST(Scheduler, TakesTheSlotAndBlocksOfAPausedSequenceForOneThatCanRun) {
  Bench bench(config(4, 1, 32));
  Request slow = Bench::request(1, 40, 10);
  slow.credit_tokens = 2;
  bench.scheduler.submit(slow);
  bench.run_dry();
  const Request fast = Bench::request(2, 50, 5);
  bench.scheduler.submit(fast);
  bench.run_dry();
  EXPECT_EQ(bench.outputs[2], Bench::alone(fast, 5));
  EXPECT_EQ(bench.scheduler.stats().preemptions, 1u);
  EXPECT_EQ(bench.scheduler.stats().waiting, 1);
  // It resumes from its tokens, and none is sampled twice.
  bench.scheduler.add_credit(1, 100);
  bench.run_dry();
  EXPECT_EQ(bench.outputs[1], Bench::alone(slow, 10));
}

TEST(Scheduler, PreemptsTheLowestPriorityAndThenTheLatestArrival) {
  // Three sequences of two blocks each fill the pool; each soon needs a third.
  Bench bench(config(9, 3, 96));
  Request first = Bench::request(1, 30, 60), second = Bench::request(2, 30, 60), third = Bench::request(3, 30, 60);
  first.priority = -1;
  bench.scheduler.submit(second);
  bench.scheduler.submit(third);
  bench.scheduler.submit(first);
  bool seen_low_out = false;
  for (Rows rows = bench.step(); !rows.empty(); rows = bench.step()) {
    bool has[4] = {};
    for (const Row& row : rows) has[row.id] = true;
    if (!has[1] && !seen_low_out && bench.scheduler.stats().preemptions == 1) {
      seen_low_out = true;
      EXPECT_TRUE(has[2]);
      EXPECT_TRUE(has[3]);
    }
    if (!bench.finished.contains(2)) {
      EXPECT_TRUE(has[2]) << "the first in rank always runs";
    }
  }
  EXPECT_TRUE(seen_low_out);
  for (const Request* r : {&first, &second, &third}) EXPECT_EQ(bench.outputs[r->id], Bench::alone(*r, 60));
}

TEST(Scheduler, LeavesHeadroomSoThatANewcomerIsNotTheNextVictim) {
  Bench bench(config(4, 2, 64));
  bench.scheduler.submit(Bench::request(1, 30, 10));  // two blocks, and a third when it reaches 33 tokens
  bench.step();
  bench.scheduler.submit(Bench::request(2, 20, 4));  // two blocks: they fit, but not with headroom
  bench.run_dry();
  EXPECT_EQ(bench.scheduler.stats().preemptions, 0u);
  EXPECT_EQ(bench.finished.size(), 2u);
}

TEST(Scheduler, DoesNotLetAShortPromptPassALongOneThatMustWait) {
  Bench bench(config(8, 4, 128));
  bench.scheduler.submit(Bench::request(1, 60, 40));
  bench.step();
  bench.scheduler.submit(Bench::request(2, 100, 2));
  bench.scheduler.submit(Bench::request(3, 5, 2));
  while (!bench.finished.contains(2)) {
    ASSERT_FALSE(bench.step().empty());
    if (bench.finished.contains(3)) {
      EXPECT_TRUE(bench.finished.contains(1));
    }
  }
}

TEST(Scheduler, CancelsBetweenSteps) {
  Bench bench(config(64));
  bench.scheduler.submit(Bench::request(1, 40, 20));
  bench.scheduler.submit(Bench::request(2, 40, 20));
  bench.step();
  bench.step();
  bench.scheduler.cancel(1);
  bench.scheduler.cancel(1);
  bench.scheduler.cancel(77);
  bench.scheduler.check_integrity();
  bench.collect();
  EXPECT_EQ(bench.finished[1].reason, FinishReason::Cancelled);
  EXPECT_EQ(bench.finished[1].output_tokens, 1);
  bench.scheduler.cancel_all();
  bench.collect();
  EXPECT_EQ(bench.finished[2].reason, FinishReason::Cancelled);
  EXPECT_EQ(bench.scheduler.stats().blocks_used, 0);
  EXPECT_TRUE(bench.scheduler.idle());
}

TEST(Scheduler, CancelsAllInOrderOfArrival) {
  Bench bench(config(64, 2));
  for (const uint64_t id : {9, 4, 7, 1}) bench.scheduler.submit(Bench::request(id, 4, 20));
  bench.step();
  bench.scheduler.cancel_all();
  std::vector<Finished> ended;
  bench.scheduler.take_finished(ended);
  std::vector<uint64_t> ids;
  for (const Finished& f : ended) ids.push_back(f.id);
  EXPECT_EQ(ids, (std::vector<uint64_t>{9, 4, 7, 1}));
}

TEST(Scheduler, EndsRunningAndWaitingSequencesAtTheirDeadlines) {
  Bench bench(config(64, 1));
  Request running = Bench::request(1, 4, 1000), waiting = Bench::request(2, 4, 1000), patient = Bench::request(3, 4, 2);
  running.deadline_ms = 100;
  waiting.deadline_ms = 50;
  for (const Request* r : {&running, &waiting, &patient}) bench.scheduler.submit(*r);
  EXPECT_EQ(bench.scheduler.next_deadline_ms(), 50);
  bench.now_ms = 49;
  bench.step();
  EXPECT_TRUE(bench.finished.empty());
  bench.now_ms = 50;
  bench.step();
  EXPECT_EQ(bench.finished[2].reason, FinishReason::Deadline);
  EXPECT_EQ(bench.finished[2].output_tokens, 0);
  EXPECT_EQ(bench.scheduler.next_deadline_ms(), 100);
  bench.now_ms = 100;
  bench.step();
  EXPECT_EQ(bench.finished[1].reason, FinishReason::Deadline);
  EXPECT_EQ(bench.finished[1].output_tokens, 2);
  EXPECT_EQ(bench.scheduler.next_deadline_ms(), std::nullopt);
  bench.run_dry();
  EXPECT_EQ(bench.finished[3].reason, FinishReason::Length);
}

TEST(Scheduler, EndsASequenceWhoseResultIsUnusableAndNoOther) {
  Bench bench(config(64));
  bench.scheduler.submit(Bench::request(1, 4, 10));
  bench.scheduler.submit(Bench::request(2, 4, 10));
  const StepPlan& plan = bench.scheduler.plan(0);
  ASSERT_EQ(plan.sampling.size(), 2u);
  EXPECT_THROW(bench.scheduler.cancel(1), std::logic_error);
  const std::vector<Drawn> sampled{FinishReason::Internal, 3};
  bench.scheduler.apply(sampled);
  bench.collect();
  EXPECT_EQ(bench.finished[1].reason, FinishReason::Internal);
  EXPECT_FALSE(bench.finished.contains(2));
  bench.scheduler.check_integrity();
}

TEST(Scheduler, EndsEverythingInAnAbandonedStep) {
  Bench bench(config(64, 1));
  bench.scheduler.submit(Bench::request(1, 4, 10));
  const Request second = Bench::request(2, 4, 10);
  bench.scheduler.submit(second);
  bench.scheduler.plan(0);
  bench.scheduler.abandon_step();
  bench.collect();
  EXPECT_EQ(bench.finished[1].reason, FinishReason::Internal);
  bench.run_dry();
  EXPECT_EQ(bench.outputs[2], Bench::alone(second, 10));
}

TEST(Scheduler, CountsWhatWaitsAndWhatDecodes) {
  Bench bench(config(64, 2, 32));
  bench.scheduler.submit(Bench::request(1, 10, 50));
  bench.step();
  bench.scheduler.submit(Bench::request(2, 100, 50));
  bench.scheduler.submit(Bench::request(3, 7, 50));
  bench.step();  // one decode row, 31 of the second prompt
  const SchedulerStats stats = bench.scheduler.stats();
  EXPECT_EQ(stats.running, 2);
  EXPECT_EQ(stats.waiting, 1);
  EXPECT_EQ(stats.prefill_tokens_queued, 69 + 7);
  EXPECT_EQ(stats.decode_kv_tokens, 11);
  EXPECT_EQ(stats.blocks_used, 1 + 7);
}

// Prompts that share their first `common` tokens.
Request with_prefix(uint64_t id, int32_t common, int32_t own, int32_t max_new_tokens) {
  Request r = Bench::request(id, 0, max_new_tokens);
  for (int32_t i = 0; i < common; ++i) r.prompt.push_back((i * 5 + 1) % kVocab);
  for (int32_t i = 0; i < own; ++i) r.prompt.push_back((static_cast<int32_t>(id) * 13 + i) % kVocab);
  return r;
}

TEST(SchedulerCache, ComputesOnlyTheNewTokensOfAPromptWhosePrefixIsCached) {
  for (const int32_t common : {160, 1600}) {
    Bench bench(config(256, 4, 64, 4096));
    bench.scheduler.submit(with_prefix(1, common, 10, 1));
    bench.run_dry();
    EXPECT_EQ(bench.rows_computed, common + 10);
    bench.rows_computed = 0;
    const Request second = with_prefix(2, common, 25, 1);
    bench.scheduler.submit(second);
    EXPECT_EQ(bench.step(), (Rows{{2, 25}})) << "the first token comes after one step, however long the prefix";
    EXPECT_EQ(bench.finished[2].cached_tokens, common);
    EXPECT_EQ(bench.outputs[2], Bench::alone(second, 1));
    EXPECT_EQ(bench.scheduler.stats().prompt_tokens, static_cast<uint64_t>(2 * common + 35));
    EXPECT_EQ(bench.scheduler.stats().cached_tokens, static_cast<uint64_t>(common));
  }
}

TEST(SchedulerCache, AlwaysComputesTheLastTokenOfAPrompt) {
  Bench bench(config(64));
  const Request first = with_prefix(1, 32, 0, 1), again = with_prefix(2, 32, 0, 3);
  bench.scheduler.submit(first);
  bench.run_dry();
  bench.scheduler.submit(again);
  bench.run_dry();
  EXPECT_EQ(bench.finished[2].cached_tokens, 16);
  EXPECT_EQ(bench.outputs[2], Bench::alone(again, 3));
}

TEST(SchedulerCache, FindsAConversationWithItsAnswer) {
  Bench bench(config(64));
  Request turn = with_prefix(1, 40, 0, 30);
  bench.scheduler.submit(turn);
  bench.run_dry();
  Request next = turn;
  next.id = 2;
  next.prompt.insert(next.prompt.end(), bench.outputs[1].begin(), bench.outputs[1].end());
  for (int32_t i = 0; i < 10; ++i) next.prompt.push_back(i);
  bench.scheduler.submit(next);
  bench.run_dry();
  // 69 of the 70 tokens were computed: the last sampled one never was.
  EXPECT_EQ(bench.finished[2].cached_tokens, 64);
  EXPECT_EQ(bench.outputs[2], Bench::alone(next, 30));
}

TEST(SchedulerCache, SharesNothingBetweenSalts) {
  Bench bench(config(64));
  for (uint64_t id : {1, 2, 3}) {
    Request r = with_prefix(id, 64, 3, 2);
    r.salt = id % 2;
    bench.scheduler.submit(r);
    bench.run_dry();
  }
  EXPECT_EQ(bench.finished[2].cached_tokens, 0);
  EXPECT_EQ(bench.finished[3].cached_tokens, 64);
}

TEST(SchedulerCache, ComputesAPromptOnceThatSeveralSendAtTheSameTime) {
  Bench bench(config(64, 8, 64));
  std::vector<Request> all;
  for (uint64_t id = 1; id <= 5; ++id) {
    Request r = with_prefix(1, 103, 0, 6);
    r.id = id;
    all.push_back(r);
    bench.scheduler.submit(r);
  }
  EXPECT_EQ(bench.step(), (Rows{{1, 64}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 39}})) << "the others wait for blocks that are just being computed";
  EXPECT_EQ(bench.step(), (Rows{{1, 1}, {2, 7}, {3, 7}, {4, 7}, {5, 7}}));
  EXPECT_EQ(bench.scheduler.stats().blocks_used, 6 + 5) << "six blocks in common, one of each";
  bench.run_dry();
  for (const Request& r : all) {
    EXPECT_EQ(bench.outputs[r.id], Bench::alone(r, 6));
    EXPECT_EQ(bench.finished[r.id].cached_tokens, r.id == 1 ? 0 : 96);
  }
}

// Whatever becomes of the one that computes, the ones that wait for it go on.
TEST(SchedulerCache, TwinsGoOnWhenTheOneTheyWaitForIsGone) {
  enum class Fate { Cancelled, Expired, Abandoned, Unusable };
  for (const Fate fate : {Fate::Cancelled, Fate::Expired, Fate::Abandoned, Fate::Unusable}) {
    for (const int32_t steps_before : {0, 1}) {
      SCOPED_TRACE(static_cast<int>(fate) * 10 + steps_before);
      Bench bench(config(64, 4, 64));
      Request first = with_prefix(1, 100, 0, 5), second = first;
      second.id = 2;
      first.deadline_ms = fate == Fate::Expired ? std::optional<int64_t>(50) : std::nullopt;
      bench.scheduler.submit(first);
      bench.scheduler.submit(second);
      for (int32_t i = 0; i < steps_before; ++i) bench.step();
      if (fate == Fate::Abandoned) {
        ASSERT_FALSE(bench.scheduler.plan(0).empty());
        bench.scheduler.abandon_step();
      } else if (fate == Fate::Unusable && steps_before == 1) {
        ASSERT_EQ(bench.scheduler.plan(0).sampling.size(), 1u);
        bench.scheduler.apply(std::vector<Drawn>{FinishReason::Internal});
      } else {
        bench.step();
        if (fate == Fate::Expired) bench.now_ms = 60;
        if (fate != Fate::Expired) bench.scheduler.cancel(1);
      }
      bench.collect();
      bench.scheduler.check_integrity();
      bench.run_dry();
      EXPECT_EQ(bench.outputs[2], Bench::alone(second, 5));
      EXPECT_EQ(bench.finished[2].reason, FinishReason::Length);
      EXPECT_TRUE(bench.scheduler.idle());
    }
  }
}

TEST(SchedulerCache, APreemptedSequenceFindsItsOwnBlocksAndIsBilledAsBefore) {
  Bench bench(config(8, 1, 32));
  Request slow = Bench::request(1, 40, 10);
  slow.credit_tokens = 2;
  bench.scheduler.submit(slow);
  bench.run_dry();
  bench.scheduler.submit(Bench::request(2, 20, 2));  // takes the only slot
  bench.run_dry();
  EXPECT_EQ(bench.scheduler.stats().preemptions, 1u);
  bench.rows_computed = 0;
  bench.scheduler.add_credit(1, 100);
  bench.run_dry();
  EXPECT_EQ(bench.rows_computed, 42 - 32 + 7) << "what lies behind two full blocks, then seven more tokens";
  EXPECT_EQ(bench.outputs[1], Bench::alone(slow, 10));
  EXPECT_EQ(bench.finished[1].cached_tokens, 0) << "its own work, done twice, is no discount";
}

TEST(SchedulerCache, CachedBlocksCountAsFreeForWhoeverComes) {
  Bench bench(config(4, 2, 64));
  for (uint64_t id = 1; id <= 6; ++id) {
    bench.scheduler.submit(Bench::request(id, 50, 10));
    bench.run_dry();
    EXPECT_EQ(bench.finished[id].reason, FinishReason::Length);
    const SchedulerStats stats = bench.scheduler.stats();
    EXPECT_EQ(stats.blocks_used, 0);
    EXPECT_GT(stats.blocks_cached, 0);
  }
  EXPECT_EQ(bench.scheduler.stats().preemptions, 0u);
}

TEST(SchedulerCache, WorksWithAPoolOfOneBlock) {
  Bench bench(config(1, 2, 32));
  EXPECT_EQ(bench.scheduler.sequence_tokens_max(), 16);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(1, 16, 1)), SubmitError::TooLong);
  for (uint64_t id = 1; id <= 3; ++id) {
    bench.scheduler.submit(with_prefix(id, 12, 0, 100));
    EXPECT_EQ(bench.scheduler.submit(with_prefix(id, 12, 0, 100)), SubmitError::DuplicateId);
  }
  bench.run_dry();
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_EQ(bench.finished[id].output_tokens, 4);
}

TEST(SchedulerEmbeddings, EndAfterThePromptWithStopAndNoOutput) {
  Bench bench(config(64, 4, 32));
  for (const Pooling pooling : {Pooling::mean, Pooling::last}) {
    for (int32_t i = 0; i < 2; ++i) {
      Request r = with_prefix(static_cast<uint64_t>(pooling) * 10 + static_cast<uint64_t>(i), 70, 0, 1);
      r.pooling = pooling;
      r.credit_tokens = 0;
      bench.scheduler.submit(r);
      bench.run_dry();
      ASSERT_TRUE(bench.finished.contains(r.id));
      EXPECT_EQ(bench.finished[r.id].reason, FinishReason::Stop);
      EXPECT_EQ(bench.finished[r.id].output_tokens, 0);
      // A mean is made of all tokens, so it reads nothing from the cache; what it writes is there for others.
      EXPECT_EQ(bench.finished[r.id].cached_tokens, pooling == Pooling::mean ? 0 : 64);
      std::vector<float> values(bench.accumulators[r.id].begin(), bench.accumulators[r.id].end());
      if (pooling == Pooling::mean)
        for (float& value : values) value /= 70.0f;
      EXPECT_EQ(values, fake_embedding(r.prompt, pooling));
    }
  }
}

TEST(SchedulerQueue, RefusesMoreThanItsBoundsAndServesTheRest) {
  SchedulerConfig c = config(64, 4, 32, 256);
  Bench bench(c);
  int32_t accepted = 0;
  for (uint64_t id = 1; id <= 10'000; ++id) {
    const auto error = bench.scheduler.submit(Bench::request(id, 4, 1));
    if (!error.has_value()) ++accepted;
    if (error.has_value()) {
      ASSERT_EQ(error, SubmitError::QueueFull);
    }
  }
  EXPECT_EQ(accepted, kQueueMax);
  EXPECT_EQ(bench.scheduler.stats().prefill_tokens_queued, 4 * kQueueMax);
  bench.run_dry();
  EXPECT_EQ(bench.finished.size(), static_cast<size_t>(kQueueMax));
}

TEST(SchedulerQueue, BoundsTheTokensThatWait) {
  SchedulerConfig c = config(64, 4, 32, 256);
  c.queue_tokens_max = 100;
  Bench bench(c);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(1, 150, 1)), std::nullopt) << "one of any length is let in";
  EXPECT_EQ(bench.scheduler.submit(Bench::request(2, 1, 1)), SubmitError::QueueFull);
  bench.step();
  EXPECT_EQ(bench.scheduler.submit(Bench::request(3, 60, 1)), std::nullopt);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(4, 41, 1)), SubmitError::QueueFull);
  EXPECT_EQ(bench.scheduler.submit(Bench::request(5, 40, 1)), std::nullopt);
  bench.run_dry();
  EXPECT_EQ(bench.finished.size(), 3u);
}

TEST(SchedulerBudget, LimitsPromptsOnlyWhileOthersDecode) {
  SchedulerConfig c = config(64);
  c.prefill_tokens_max = 8;
  Bench bench(c);
  bench.scheduler.submit(Bench::request(1, 40, 4));
  EXPECT_EQ(bench.step(), (Rows{{1, 32}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 8}}));
  bench.scheduler.submit(Bench::request(2, 40, 2));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}, {2, 8}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}, {2, 8}}));
  EXPECT_EQ(bench.step(), (Rows{{1, 1}, {2, 8}}));
  EXPECT_EQ(bench.step(), (Rows{{2, 16}})) << "nobody decodes any more";
  c.prefill_tokens_max = 0;
  EXPECT_THROW(Scheduler{c}, std::invalid_argument);
}

}  // namespace
}  // namespace penstock
