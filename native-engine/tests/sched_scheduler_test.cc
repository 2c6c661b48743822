// The scheduler's rules one at a time, with the fake runner as the model; the prefix cache is sched_reuse_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "sched_bench.h"

namespace penstock {
namespace {

using namespace penstock::testing;

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

}  // namespace
}  // namespace penstock
