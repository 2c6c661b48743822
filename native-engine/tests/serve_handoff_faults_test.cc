// Hand-overs that are cancelled, forgotten, or lose one of their ends, in each phase. Goal: D computes what it lacks, every
// sequence ends once, and both engines hold no block in the end.
#include <gtest/gtest.h>

#include "handoff_serving.h"
#include "kv/checksum.h"
#include "kv/endpoint.h"
#include "kv/sender.h"

namespace penstock {
namespace {

using namespace penstock::testing;

// Halfway is before any layer of a step, between two groups of its layers, and when all of them are told.
class HandoffFaults : public HandoffServing, public ::testing::WithParamInterface<int32_t> {
 protected:
  HandoffFaults() { layers_held = GetParam(); }
};

TEST_P(HandoffFaults, APushIsCancelledInTheQueueWhileItIsComputedAndWhenItIsOver) {
  start("", {.sequences_max = 1, .step_tokens_max = kStepTokens});
  const auto prompt = prompt_of(1, 128);
  const frame::Reserved reserved = hold_halfway(prompt);
  p->send(push_frame(2, prompt, reserved, address));
  p->send(frame::Cancel{2});
  p->send(frame::Cancel{1});
  p->send(frame::Ping{1});
  p->expect<frame::Pong>();  // the socket thread has passed them on
  prefill->fake().go();
  EXPECT_EQ(p->finish_of(2).reason, FinishReason::Cancelled);
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Cancelled);
  EXPECT_FALSE(d->expect<frame::Transferred>().complete);
  // The number of one that ended in the queue is free again.
  const frame::Reserved again = reserve(8, prompt);
  p->send(push_frame(2, prompt, again, address));
  p->finished.clear();
  EXPECT_EQ(p->finish_of(2).reason, FinishReason::Stop);
  p->send(frame::Cancel{2});
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  expect_right_answer(prompt, 8);
  expect_nothing_held();
}

TEST_P(HandoffFaults, APushEndsAtItsDeadline) {
  start("", {.sequences_max = 1, .step_tokens_max = kStepTokens});
  const auto prompt = prompt_of(1, 128);
  const frame::Reserved reserved = reserve(7, prompt);
  prefill->fake().hold(1, layers_held);
  frame::Push push = push_frame(1, prompt, reserved, address);
  push.deadline_ms = 1'500;  // it has to be held by then
  p->send(push);
  prefill->fake().wait_until_held();
  std::this_thread::sleep_for(std::chrono::milliseconds(*push.deadline_ms + 20));
  prefill->fake().go();
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Deadline);
  EXPECT_FALSE(d->expect<frame::Transferred>().complete);
  expect_nothing_held();
}

TEST_P(HandoffFaults, AReservationIsReleasedInEachPhase) {
  start();
  const auto prompt = prompt_of(1, 128);
  // Before anybody writes.
  const frame::Reserved early = reserve(6, prompt);
  d->send(frame::Release{6});
  d->settled(holds_nothing);
  p->send(push_frame(9, prompt, early, address));
  EXPECT_EQ(p->finish_of(9).reason, FinishReason::Transfer);
  // While somebody does.
  const auto other = prompt_of(2, 128);
  hold_halfway(other);
  d->send(frame::Release{7});
  d->settled(holds_nothing);  // although P says nothing
  EXPECT_EQ(reserve(7, other).code, frame::ReserveCode::Ok) << "the number is free";
  prefill->fake().go();
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Transfer);
  d->send(frame::Release{7});
  // When everything is there.
  p->send(push_frame(2, other, reserve(8, other), address));
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  d->send(frame::Release{8});
  expect_nothing_held();
  expect_right_answer(other);
  EXPECT_EQ(cached_tokens, 112u) << "what was released is in the cache nevertheless";
}

TEST_P(HandoffFaults, ALeaseThatNobodyRenewsEnds) {
  start();
  const auto prompt = prompt_of(1, 128);
  reserve(5, prompt_of(5, 64), 40);
  const auto expired = d->expect<frame::Transferred>();
  EXPECT_EQ(expired.id, 5u);
  EXPECT_FALSE(expired.complete);
  // In the middle of the transfer; a second one is renewed in time.
  reserve(6, prompt_of(6, 64), 2'000);
  d->send(frame::Renew{6, 60'000});
  hold_halfway(prompt, 60'000);
  std::this_thread::sleep_for(std::chrono::milliseconds(2'050));
  d->send(frame::Renew{7, 1});
  EXPECT_EQ(d->expect<frame::Transferred>().id, 7u);
  d->settled([](const frame::Stats& s) { return s.blocks_used == 4; });
  prefill->fake().go();
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Transfer);
  d->send(frame::Release{6});
  // When everything is there: told a second time.
  const auto other = prompt_of(2, 64);
  p->send(push_frame(2, other, reserve(9, other), address));
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  d->send(frame::Renew{9, 1});
  EXPECT_FALSE(d->expect<frame::Transferred>().complete);
  expect_nothing_held();
  expect_right_answer(prompt, 7);
}

TEST_P(HandoffFaults, TheAgentOfDGoesInEachPhase) {
  start();
  const auto prompt = prompt_of(1, 128);
  for (const int phase : {0, 1, 2}) {
    SCOPED_TRACE("phase " + std::to_string(phase));
    const frame::Reserved reserved = phase == 1 ? hold_halfway(prompt_of(2, 128)) : reserve(7, prompt);
    if (phase == 2) {
      p->send(push_frame(1, prompt, reserved, address));
      EXPECT_TRUE(d->expect<frame::Transferred>().complete);
      EXPECT_EQ(p->finish_of(1).reason, FinishReason::Stop);
    }
    d->hang_up();
    d = std::make_unique<Client>(decode->path());
    d->hello();
    d->settled(holds_nothing);
    EXPECT_EQ(reserve(7, prompt_of(9, 64)).code, frame::ReserveCode::Ok) << "numbers begin anew";
    d->send(frame::Release{7});
    if (phase == 1) {
      prefill->fake().go();
      EXPECT_EQ(p->finish_of(1).reason, FinishReason::Transfer);
    }
    p->finished.clear();
  }
  expect_right_answer(prompt);
  expect_nothing_held();
}

TEST_P(HandoffFaults, TheAgentOfPGoesInEachPhaseAndTheNextOneHearsOnlyOfItsOwn) {
  start();
  for (const int phase : {0, 1}) {
    SCOPED_TRACE("phase " + std::to_string(phase));
    const auto prompt = prompt_of(20 + static_cast<uint64_t>(phase), 128);
    const frame::Reserved reserved = reserve(7, prompt, 3'000);
    if (phase == 0) prefill->fake().hold(0, layers_held);
    if (phase == 1) prefill->fake().hold(1, layers_held);
    p->send(push_frame(1, prompt, reserved, address));
    prefill->fake().wait_until_held();
    p->hang_up();
    p = std::make_unique<Client>(prefill->path());
    p->hello();  // the step loop knows before its step ends
    prefill->fake().go();
    EXPECT_FALSE(d->expect<frame::Transferred>().complete);
    p->settled(holds_nothing);
    // The same number, and its end is not taken for that of the one before.
    p->send(submit_frame(1, prompt_of(3, 20), 4));
    EXPECT_EQ(p->finish_of(1).reason, FinishReason::Length);
    EXPECT_EQ(p->tokens[1], alone(prompt_of(3, 20), 4));
    expect_right_answer(prompt, 7, 60 + static_cast<uint64_t>(phase));
  }
  expect_nothing_held();
}

TEST_P(HandoffFaults, PDiesInTheMiddleAndDComputesItself) {
  start();
  const auto prompt = prompt_of(1, 128);
  hold_halfway(prompt);
  p->send(frame::Shutdown{});
  p->send(frame::Ping{1});
  p->expect<frame::Pong>();  // the socket thread has passed it on
  prefill->fake().go();
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Cancelled) << "said also by an engine that stops";
  EXPECT_FALSE(d->expect<frame::Transferred>().complete);
  expect_right_answer(prompt, 7);
  d->settled(holds_nothing);
}

TEST_P(HandoffFaults, PDiesBetweenTheLastBlockAndTheEndAndNothingOfItCounts) {
  start();
  // A sender of its own, which has told all blocks and never says that this is all.
  const auto prompt = prompt_of(1, 32);
  const frame::Reserved reserved = reserve(7, prompt);
  FakeRunner source(8, kContext, kVocab, kStepTokens);
  const std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  for (const int32_t block : {0, 1}) source.write_block(block, tokens, block);
  Checksum content;
  const uint32_t first_block = 0;
  content.update(std::as_bytes(std::span(&first_block, 1)));
  content.update(std::as_bytes(std::span(prompt)));
  {
    KvSender sender(source.kv(), source.info().kv_fingerprint, [](uint64_t, bool arrived, const std::string&) {
      EXPECT_FALSE(arrived);
    });
    sender.begin({1, address, reserved.grant, content.value(), 2});
    sender.extend(1, std::vector<int32_t>{0, 1});
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // most often they are there by then
  }
  // Where it was never let in, the reservation goes with its lease.
  d->send(frame::Renew{7, 1});
  EXPECT_FALSE(d->expect<frame::Transferred>().complete);
  expect_right_answer(prompt, 7);
  EXPECT_EQ(cached_tokens, 0u);
  expect_nothing_held();
}

TEST_P(HandoffFaults, DDiesInTheMiddleAndPLetsGo) {
  start();
  const auto prompt = prompt_of(1, 128);
  hold_halfway(prompt);
  decode->end();
  prefill->fake().go();
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Transfer);
  p->settled(holds_nothing);
}

TEST_P(HandoffFaults, APeerThatSaysNothingIsGivenUp) {
  start("", {.sequences_max = 4, .step_tokens_max = kStepTokens, .kv_silence_max = std::chrono::milliseconds(800)});
  const auto prompt = prompt_of(1, 64);
  // A receiver that is there and does not answer.
  std::string mute = "unix:" + (folder / "mute.sock");
  const Descriptor listener = listen_at(mute);
  const frame::Reserved reserved = reserve(7, prompt);
  frame::Push push = push_frame(1, prompt_of(2, 64), reserved, mute);
  p->send(push);
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Transfer);
  // A computing engine is no silent one.
  push = push_frame(2, prompt, reserved, address);
  prefill->fake().hold(0, layers_held);
  p->send(push);
  prefill->fake().wait_until_held();
  std::this_thread::sleep_for(std::chrono::milliseconds(2'000));
  prefill->fake().go();
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  expect_right_answer(prompt, 7);
  expect_nothing_held();
}

TEST_P(HandoffFaults, AStepThatFailsLeavesNothingThatCounts) {
  start();
  const auto prompt = prompt_of(1, 128);
  hold_halfway(prompt);
  prefill->fake().fail_next();
  prefill->fake().go();
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Internal);
  EXPECT_FALSE(d->expect<frame::Transferred>().complete);
  expect_right_answer(prompt, 7);
  EXPECT_EQ(cached_tokens, 0u);
  expect_nothing_held();
  // What it had computed before is as good as it was, and the rest is computed again.
  const auto other = prompt_of(2, 128);
  p->finished.clear();
  p->send(push_frame(1, other, reserve(8, other), address));
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Stop);
  expect_right_answer(other, 8, 51);
  expect_nothing_held();
}

INSTANTIATE_TEST_SUITE_P(Held, HandoffFaults, ::testing::Values(0, 1, kFakeLayers),
                         [](const auto& which) { return "After" + std::to_string(which.param) + "Layers"; });

}  // namespace
}  // namespace penstock
