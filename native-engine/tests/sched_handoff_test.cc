// Blocks that move between engines, as the scheduler sees them: reservations that another engine fills, and sequences whose
// blocks another engine reads. The books are checked after each step.
#include <gtest/gtest.h>

#include "sched_bench.h"

namespace penstock {
namespace {

using namespace penstock::testing;

class Handoff : public ::testing::Test {
 protected:
  void make(const SchedulerConfig& c) { bench = std::make_unique<Bench>(c); }
  Scheduler& scheduler() { return bench->scheduler; }

  static std::vector<int32_t> tokens_of(uint64_t id, int32_t count) { return Bench::request(id, count, 1).prompt; }
  static Request handing(uint64_t id, int32_t blocks) {
    Request r = Bench::request(id, blocks * kBlockTokens, 1);
    r.hands_over = true;
    r.credit_tokens = 0;
    return r;
  }
  std::optional<ReserveError> reserve(uint64_t id, const std::vector<int32_t>& tokens) {
    const auto made = scheduler().reserve(id, 0, tokens);
    scheduler().check_integrity();
    const auto* error = std::get_if<ReserveError>(&made);
    return error != nullptr ? std::optional(*error) : std::nullopt;
  }
  // Another engine writes what is missing, and says so.
  void fill_and_commit(uint64_t id) {
    const Reservation* made = scheduler().reservation(id);
    for (size_t i = static_cast<size_t>(made->cached); i < made->blocks.size(); ++i)
      bench->runner.write_block(made->blocks[i], made->tokens, static_cast<int32_t>(i));
    scheduler().commit(id);
    scheduler().check_integrity();
  }
  void drop(uint64_t id) {
    scheduler().drop(id);
    scheduler().check_integrity();
  }
  std::vector<uint64_t> given_up() {
    std::vector<uint64_t> out;
    scheduler().take_given_up(out);
    return out;
  }
  std::vector<uint64_t> ending() {
    std::vector<uint64_t> out;
    scheduler().take_ending(out);
    return out;
  }
  void hand_over_ended(uint64_t id, bool arrived) {
    scheduler().hand_over_ended(id, arrived);
    bench->collect();
    scheduler().check_integrity();
  }
  int32_t used() { return scheduler().stats().blocks_used; }

  std::unique_ptr<Bench> bench;
};

TEST_F(Handoff, WhatAnotherEngineFilledIsFoundByTheRequestItWasFor) {
  make(config(32));
  const Request r = Bench::request(1, 70, 10);
  ASSERT_EQ(reserve(5, r.prompt), std::nullopt);
  EXPECT_EQ(scheduler().reservation(5)->blocks.size(), 5u) << "the last one for six tokens";
  EXPECT_EQ(used(), 5);
  fill_and_commit(5);
  scheduler().submit(r);
  EXPECT_EQ(bench->step(), (Rows{{1, 6}})) << "what is no whole block is in no cache";
  drop(5);
  bench->run_dry();
  EXPECT_EQ(bench->finished[1].cached_tokens, 64);
  EXPECT_EQ(bench->outputs[1], Bench::alone(r, 10));
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, HoldsWhatTheCacheHasAndReservesTheRest) {
  make(config(32));
  scheduler().submit(Bench::request(1, 40, 1));
  bench->run_dry();
  ASSERT_EQ(reserve(5, tokens_of(1, 70)), std::nullopt);
  EXPECT_EQ(scheduler().reservation(5)->cached, 2);
  EXPECT_EQ(scheduler().reservation(5)->blocks.size(), 5u);
  drop(5);
  EXPECT_EQ(used(), 0);
  drop(5);  // unknown by now
  ASSERT_EQ(reserve(5, tokens_of(1, 40)), std::nullopt) << "nothing is missing";
  scheduler().commit(5);
  EXPECT_THROW(scheduler().commit(5), std::logic_error);
  EXPECT_THROW(scheduler().commit(6), std::logic_error);
  drop(5);
}

TEST_F(Handoff, TheRestOfAPromptGoesToOneSequenceThatNamesTheReservation) {
  make(config(32));
  Request r = Bench::request(1, 70, 10);
  ASSERT_EQ(reserve(5, r.prompt), std::nullopt);
  fill_and_commit(5);
  r.takes_over = ReservationName{5, scheduler().reservation(5)->order};
  // With the first token, which another engine has drawn: its row alone is left.
  r.output = {fake_next_token(r.prompt, kVocab)};
  Request second = r;
  second.id = 2;
  Request stranger = Bench::request(3, 70, 2);
  stranger.takes_over = r.takes_over;
  scheduler().submit(r);
  scheduler().submit(second);
  scheduler().submit(stranger);
  EXPECT_EQ(bench->step(), (Rows{{1, 1}, {2, 7}, {3, 24}})) << "the others compute the rest, or all of it";
  EXPECT_FALSE(scheduler().reservation(5)->has_rest());
  drop(5);
  bench->run_dry();
  EXPECT_EQ(bench->finished[1].cached_tokens, 70);
  EXPECT_EQ(bench->finished[2].cached_tokens, 64);
  for (const uint64_t id : {1u, 2u}) {
    std::vector<int32_t> said = r.output;
    said.insert(said.end(), bench->outputs[id].begin(), bench->outputs[id].end());
    EXPECT_EQ(said, Bench::alone(r, 10));
  }
  EXPECT_EQ(bench->outputs[3], Bench::alone(stranger, 2));
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, TheRestOfAPromptWithoutItsFirstTokenLeavesOneRow) {
  make(config(32));
  Request r = Bench::request(1, 70, 3);
  ASSERT_EQ(reserve(5, r.prompt), std::nullopt);
  fill_and_commit(5);
  r.takes_over = ReservationName{5, scheduler().reservation(5)->order + 1};  // that of a later one with the number
  scheduler().submit(r);
  EXPECT_EQ(bench->step(), (Rows{{1, 6}}));
  bench->run_dry();
  r.id = 2;
  r.takes_over->order -= 1;
  scheduler().submit(r);
  EXPECT_EQ(bench->step(), (Rows{{2, 1}}));
  drop(5);
  bench->run_dry();
  EXPECT_EQ(bench->finished[2].cached_tokens, 69);
  EXPECT_EQ(bench->outputs[2], Bench::alone(r, 3));
}

TEST_F(Handoff, ARestThatIsLentToOneThatDoesNotFitIsGivenBack) {
  make(config(8));
  Request r = Bench::request(1, 40, 2);
  ASSERT_EQ(reserve(5, r.prompt), std::nullopt);
  fill_and_commit(5);
  scheduler().submit(handing(2, 4));
  while (!bench->step().empty()) {
  }
  r.prompt.resize(100, 3);  // five more blocks, one is free
  r.takes_over = ReservationName{5, scheduler().reservation(5)->order};
  scheduler().submit(r);
  EXPECT_EQ(bench->step(), Rows{});
  EXPECT_TRUE(scheduler().reservation(5)->has_rest());
  hand_over_ended(2, true);
  EXPECT_EQ(bench->step(), (Rows{{1, 32}}));
  bench->run_dry();
  EXPECT_EQ(bench->finished[1].cached_tokens, 40);
  EXPECT_EQ(bench->outputs[1], Bench::alone(r, 2));
  drop(5);
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, OneThatDrawsComputesItsLastRowAlwaysAndKeepsItsTokenForOthers) {
  make(config(16));
  Request drawing = handing(1, 2);
  drawing.draw_seeds = {1};
  scheduler().submit(drawing);
  EXPECT_EQ(bench->step(), (Rows{{1, 32}}));
  EXPECT_EQ(bench->outputs[1].size(), 1u) << "one row with logits";
  hand_over_ended(1, true);
  EXPECT_EQ(bench->finished[1].output_tokens, 0);
  bench->finished.clear();
  scheduler().submit(drawing);
  EXPECT_EQ(bench->step(), (Rows{{1, 16}})) << "no shared block is written";
  hand_over_ended(1, true);
  EXPECT_EQ(bench->finished[1].cached_tokens, 16);
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, AReservationThatIsDroppedUnfilledIsInNobodysCache) {
  make(config(32));
  const Request r = Bench::request(1, 70, 2);
  ASSERT_EQ(reserve(5, r.prompt), std::nullopt);
  bench->runner.spoil_block(scheduler().reservation(5)->blocks[0]);
  scheduler().submit(r);
  bench->step();
  drop(5);
  bench->run_dry();
  EXPECT_EQ(bench->finished[1].cached_tokens, 0);
  EXPECT_EQ(bench->outputs[1], Bench::alone(r, 2));
}

TEST_F(Handoff, TwoReservationsAndARequestForOnePromptShareItsBlocksInTheEnd) {
  make(config(32));
  ASSERT_EQ(reserve(5, tokens_of(1, 64)), std::nullopt);
  ASSERT_EQ(reserve(6, tokens_of(1, 64)), std::nullopt);
  EXPECT_EQ(used(), 8);
  scheduler().submit(Bench::request(1, 64, 3));
  bench->run_dry();
  fill_and_commit(5);
  fill_and_commit(6);
  EXPECT_EQ(scheduler().reservation(5)->blocks, scheduler().reservation(6)->blocks);
  EXPECT_EQ(used(), 4);
  drop(5);
  drop(6);
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, SaysWhyItReservesNothing) {
  SchedulerConfig c = config(16, 4, 32, 1024);
  c.reservations_max = 3;
  make(c);
  EXPECT_EQ(reserve(1, tokens_of(1, 16 * 16)), ReserveError::TooLong) << "no token would fit behind it";
  EXPECT_EQ(reserve(1, tokens_of(1, 9 * 16)), ReserveError::TooLong) << "half of the pool at most, also later";
  EXPECT_EQ(reserve(1, tokens_of(1, 5 * 16)), std::nullopt);
  EXPECT_EQ(reserve(1, tokens_of(2, 16)), ReserveError::DuplicateId);
  EXPECT_EQ(reserve(2, tokens_of(2, 4 * 16)), ReserveError::NoRoom) << "five and four are over the cap";
  EXPECT_EQ(reserve(2, tokens_of(2, 3 * 16)), std::nullopt);
  fill_and_commit(1);
  EXPECT_EQ(reserve(3, tokens_of(3, 5 * 16)), std::nullopt) << "what is committed does not count";
  EXPECT_EQ(reserve(4, tokens_of(1, 16)), ReserveError::NoRoom) << "three at a time";
  for (const uint64_t id : {1u, 2u, 3u}) drop(id);
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, ReservesTheWholeBlocksWhereThereIsNoneForTheRest) {
  make(config(16));
  ASSERT_EQ(reserve(1, tokens_of(1, 8 * 16 + 5)), std::nullopt) << "nine blocks are over the cap";
  EXPECT_EQ(scheduler().reservation(1)->blocks.size(), 8u);
  EXPECT_FALSE(scheduler().reservation(1)->has_rest());
  fill_and_commit(1);
  drop(1);
  ASSERT_EQ(reserve(2, tokens_of(2, 7 * 16 + 5)), std::nullopt);
  EXPECT_TRUE(scheduler().reservation(2)->has_rest());
  fill_and_commit(2);
  drop(2);
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, LeavesABlockForEachSequenceThatGrows) {
  make(config(8));
  scheduler().submit(Bench::request(1, 60, 100));
  bench->step();
  bench->step();
  EXPECT_EQ(reserve(5, tokens_of(2, 64)), ReserveError::NoRoom) << "four are free, and one is the sequence's next";
  EXPECT_EQ(reserve(5, tokens_of(2, 48)), std::nullopt);
  EXPECT_EQ(bench->scheduler.stats().preemptions, 0u);
}

TEST_F(Handoff, GivesUpWhatIsCommittedBeforeItTakesFromSequences) {
  make(config(8));
  ASSERT_EQ(reserve(5, tokens_of(2, 32)), std::nullopt);
  fill_and_commit(5);
  ASSERT_EQ(reserve(6, tokens_of(3, 32)), std::nullopt);
  fill_and_commit(6);
  const Request r = Bench::request(1, 60, 60);  // eight blocks in the end
  scheduler().submit(r);
  for (int i = 0; i < 7; ++i) bench->step();
  EXPECT_EQ(given_up(), std::vector<uint64_t>{5}) << "the oldest one, and it alone";
  EXPECT_EQ(scheduler().reservation(5), nullptr);
  bench->run_dry();
  EXPECT_EQ(given_up(), std::vector<uint64_t>{6});
  EXPECT_EQ(bench->outputs[1], Bench::alone(r, 60));
  EXPECT_EQ(scheduler().stats().preemptions, 0u);
}

TEST_F(Handoff, GivesUpWhatIsCommittedForANewcomerAndNeverWhatIsBeingFilled) {
  make(config(8));
  ASSERT_EQ(reserve(5, tokens_of(2, 64)), std::nullopt);
  scheduler().submit(Bench::request(1, 70, 2));  // five blocks, four are free
  EXPECT_EQ(bench->step(), Rows{});
  EXPECT_TRUE(given_up().empty());
  fill_and_commit(5);
  EXPECT_FALSE(bench->step().empty());
  EXPECT_EQ(given_up(), std::vector<uint64_t>{5});
  bench->run_dry();
  EXPECT_EQ(bench->outputs[1], Bench::alone(Bench::request(1, 70, 2), 2));
}

TEST_F(Handoff, ANewcomerGetsBlocksThatOnlyAReservationAndAPausedSequenceShare) {
  make(config(8));
  Request paused = Bench::request(1, 64, 100);
  paused.credit_tokens = 1;
  scheduler().submit(paused);
  bench->run_dry();
  ASSERT_EQ(reserve(5, tokens_of(1, 64)), std::nullopt);
  scheduler().commit(5);
  scheduler().submit(Bench::request(2, 110, 1));  // seven blocks: those of both are needed
  EXPECT_FALSE(bench->step().empty());
  EXPECT_EQ(given_up(), std::vector<uint64_t>{5});
  bench->run_dry();
  EXPECT_TRUE(bench->finished.contains(2));
}

TEST_F(Handoff, ASequenceThatHandsOverIsComputedWholeAndStaysUntilItIsRead) {
  make(config(16));
  scheduler().submit(handing(1, 3));
  EXPECT_EQ(bench->step(), (Rows{{1, 32}}));
  EXPECT_EQ(bench->step(), (Rows{{1, 16}})) << "the last block too, and no logits";
  EXPECT_EQ(bench->step(), Rows{});
  EXPECT_EQ(used(), 3);
  const Sequence* sequence = scheduler().sequence(1);
  for (int32_t i = 0; i < 3; ++i)
    EXPECT_TRUE(bench->runner.holds(sequence->blocks[static_cast<size_t>(i)], sequence->tokens, i));
  hand_over_ended(1, true);
  EXPECT_EQ(bench->finished[1].reason, FinishReason::Stop);
  EXPECT_EQ(bench->finished[1].output_tokens, 0);
  EXPECT_EQ(used(), 0);
  // What it left is handed over again without a row.
  scheduler().submit(handing(1, 3));
  bench->finished.clear();
  EXPECT_EQ(bench->step(), Rows{});
  EXPECT_EQ(scheduler().sequence(1)->remaining(), 0);
  hand_over_ended(1, false);
  EXPECT_EQ(bench->finished[1].reason, FinishReason::Transfer);
  EXPECT_EQ(bench->finished[1].cached_tokens, 48);
}

TEST_F(Handoff, NobodyTakesBlocksFromUnderAReader) {
  make(config(8));
  Request low = handing(1, 4);
  low.priority = -5;
  scheduler().submit(low);
  while (!bench->step().empty()) {
  }
  const std::vector<int32_t> read = scheduler().sequence(1)->blocks;
  const Request r = Bench::request(2, 40, 60);  // wants seven blocks in the end
  scheduler().submit(r);
  bench->run_dry();
  EXPECT_FALSE(bench->finished.contains(2)) << "it waits with what it has";
  EXPECT_EQ(scheduler().stats().preemptions, 0u);
  EXPECT_EQ(scheduler().sequence(1)->blocks, read);
  hand_over_ended(1, true);
  bench->run_dry();
  EXPECT_EQ(bench->outputs[2], Bench::alone(r, 60));
}

TEST_F(Handoff, ItsEndWaitsForItsReader) {
  make(config(16));
  Request late = handing(2, 2);
  late.deadline_ms = 50;
  scheduler().submit(handing(1, 2));
  scheduler().submit(late);
  scheduler().submit(handing(3, 3));
  bench->step();
  bench->step();
  scheduler().cancel(1);
  scheduler().cancel(1);
  EXPECT_EQ(ending(), std::vector<uint64_t>{1});
  bench->now_ms = 60;
  bench->step();
  bench->now_ms = 70;
  bench->step();
  EXPECT_EQ(ending(), std::vector<uint64_t>{2});
  EXPECT_TRUE(bench->finished.empty());
  EXPECT_EQ(scheduler().next_deadline_ms(), std::nullopt) << "or the loop would never sleep";
  const int32_t held = used();
  hand_over_ended(1, true);
  EXPECT_EQ(bench->finished[1].reason, FinishReason::Cancelled);
  EXPECT_EQ(used(), held - 2);
  hand_over_ended(2, false);
  EXPECT_EQ(bench->finished[2].reason, FinishReason::Deadline);
  scheduler().cancel_all();
  EXPECT_EQ(ending(), std::vector<uint64_t>{3});
  hand_over_ended(3, false);
  hand_over_ended(3, false);  // unknown by now
  EXPECT_TRUE(scheduler().idle());
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, WhatIsToEndIsNotComputedAnyMore) {
  make(config(16));
  scheduler().submit(handing(1, 4));
  EXPECT_EQ(bench->step(), (Rows{{1, 32}}));
  scheduler().cancel(1);
  EXPECT_EQ(bench->step(), Rows{});
  hand_over_ended(1, false);
  EXPECT_EQ(bench->finished[1].reason, FinishReason::Cancelled);
}

TEST_F(Handoff, EndsAtOnceInTheQueueAndWhenItsReaderIsGoneEarly) {
  make(config(4, 1));
  scheduler().submit(handing(1, 3));
  scheduler().submit(handing(2, 2));
  bench->step();
  scheduler().cancel(2);
  bench->collect();
  EXPECT_EQ(bench->finished[2].reason, FinishReason::Cancelled);
  EXPECT_TRUE(ending().empty());
  hand_over_ended(1, false);  // with a block still to compute
  EXPECT_EQ(bench->finished[1].reason, FinishReason::Transfer);
  EXPECT_EQ(used(), 0);
}

TEST_F(Handoff, AStepThatFailsEndsItWhenItsReaderIsGone) {
  make(config(16));
  scheduler().submit(handing(1, 2));
  ASSERT_FALSE(scheduler().plan(0).empty());
  EXPECT_THROW(scheduler().reserve(1, 0, tokens_of(1, 16)), std::logic_error);
  EXPECT_THROW(scheduler().hand_over_ended(1, false), std::logic_error);
  scheduler().abandon_step();
  scheduler().check_integrity();
  EXPECT_EQ(ending(), std::vector<uint64_t>{1});
  EXPECT_EQ(used(), 2);
  hand_over_ended(1, false);
  EXPECT_EQ(bench->finished[1].reason, FinishReason::Internal);
  EXPECT_EQ(used(), 0);
}

}  // namespace
}  // namespace penstock
