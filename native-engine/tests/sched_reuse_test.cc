// What the scheduler does with the prefix cache, with embeddings, and with more than fits: one rule at a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "sched_bench.h"

namespace penstock {
namespace {

using namespace penstock::testing;

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

TEST(SchedulerCache, GoesOnWithOutputOfAnEarlierLifeWhichIsNoCachedInput) {
  Bench bench(config(64));
  const Request whole = with_prefix(1, 20, 0, 60);
  bench.scheduler.submit(whole);
  bench.run_dry();
  const int64_t rows_before = bench.rows_computed;
  Request resumed = whole;
  resumed.id = 2;
  resumed.output.assign(bench.outputs[1].begin(), bench.outputs[1].begin() + 40);
  bench.scheduler.submit(resumed);
  EXPECT_EQ(bench.step(), (Rows{{2, 12}})) << "three of the four blocks, and the last token of the fourth";
  bench.run_dry();
  EXPECT_EQ(bench.rows_computed - rows_before, 12 + 19);
  EXPECT_EQ(bench.finished[2].prompt_tokens, 20);
  EXPECT_EQ(bench.finished[2].cached_tokens, 20);
  EXPECT_EQ(bench.finished[2].output_tokens, 60);
  EXPECT_EQ(bench.finished[2].reason, FinishReason::Length);
  EXPECT_EQ(bench.outputs[2], std::vector(bench.outputs[1].begin() + 40, bench.outputs[1].end()));
  EXPECT_EQ(bench.scheduler.stats().cached_tokens, 20u);
  EXPECT_EQ(bench.scheduler.stats().prompt_tokens, 40u);
}

TEST(SchedulerCache, RefusesOutputThatLeavesNoRoomForAnother) {
  Bench bench(config(64, 4, 32, 100));
  Request r = with_prefix(1, 60, 0, 50);
  r.output.assign(40, 1);
  EXPECT_EQ(bench.scheduler.submit(r), SubmitError::TooLong);
  r.output.assign(50, 1);
  EXPECT_THROW(bench.scheduler.submit(r), std::logic_error);
  r.output.assign(39, 1);
  EXPECT_EQ(bench.scheduler.submit(r), std::nullopt);
  bench.run_dry();
  EXPECT_EQ(bench.finished[1].output_tokens, 40);
  EXPECT_EQ(bench.finished[1].reason, FinishReason::Length);
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
