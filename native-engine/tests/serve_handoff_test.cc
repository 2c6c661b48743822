// Hand-overs between two serving engines. Goal: a prompt that is handed over gives exactly the tokens that one engine alone
// gives, in any schedule, and both engines hold no block in the end. What breaks on the way is serve_handoff_faults_test.
#include <gtest/gtest.h>

#include <random>

#include "handoff_listening.h"
#include "handoff_schedules.h"
#include "handoff_serving.h"
#include "model/load.h"
#include "model_fixtures.h"

namespace penstock {
namespace {

using namespace penstock::testing;

TEST_F(HandoffServing, GivesWhatOneEngineAloneGives) {
  for (const std::string listen : {"", "tcp:127.0.0.1:0"}) {
    start(listen);
    EXPECT_NE(address.find(listen.empty() ? "unix:/" : "tcp:127.0.0.1:"), std::string::npos);
    // With a rest, without one, and a single block.
    for (const size_t tokens : {100u, 96u, 17u, 16u}) {
      const auto prompt = prompt_of(tokens, tokens);
      const frame::Reserved reserved = reserve(tokens, prompt);
      ASSERT_EQ(reserved.code, frame::ReserveCode::Ok);
      EXPECT_EQ(reserved.blocks, (tokens + kBlockTokens - 1) / kBlockTokens);
      EXPECT_EQ(reserved.cached_blocks, 0u);
      p->send(push_frame(tokens, prompt, reserved, address));
      EXPECT_TRUE(d->expect<frame::Transferred>().complete);
      const Finished pushed = p->finish_of(tokens);
      EXPECT_EQ(pushed.reason, FinishReason::Stop);
      EXPECT_EQ(pushed.output_tokens, 0);
      expect_right_answer(prompt, tokens, tokens);
      // A shared block is computed again, one of its own is gone on with.
      EXPECT_EQ(cached_tokens, tokens % kBlockTokens == 0 ? tokens - kBlockTokens : tokens - 1) << "one token is always computed";
    }
    expect_nothing_held();
    TearDown();
  }
}

TEST_F(HandoffServing, HandsOverOnlyWhatIsMissing) {
  start();
  const auto prompt = prompt_of(1, 100);
  // D knows the first two blocks, and P all of them from before.
  expect_right_answer({prompt.begin(), prompt.begin() + 40});
  p->send(submit_frame(2, prompt, 1));
  p->finish_of(2);
  const frame::Reserved reserved = reserve(7, prompt);
  EXPECT_EQ(reserved.blocks, 7u);
  EXPECT_EQ(reserved.cached_blocks, 2u);
  p->send(push_frame(3, prompt, reserved, address));
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  EXPECT_EQ(p->finish_of(3).cached_tokens, 96) << "four rows were computed, which fill no block";
  expect_right_answer(prompt, 7, 51);
  EXPECT_EQ(cached_tokens, 99u);
  // Nothing is missing any more.
  const frame::Reserved again = reserve(8, prompt);
  EXPECT_EQ(again.cached_blocks, again.blocks);
  d->send(frame::Release{8});
  expect_nothing_held();
}

TEST_F(HandoffServing, RefusesWhatMakesNoSense) {
  start();
  const auto prompt = prompt_of(1, 64);
  EXPECT_EQ(reserve(1, prompt_of(1, 15)).code, frame::ReserveCode::Invalid);
  EXPECT_EQ(reserve(1, {std::vector<uint32_t>(20, kVocab)}).code, frame::ReserveCode::Invalid);
  EXPECT_EQ(reserve(1, prompt, 0).code, frame::ReserveCode::Invalid);
  EXPECT_EQ(reserve(1, prompt_of(1, kContext)).code, frame::ReserveCode::TooLong);
  p->send(reserve_frame(1, prompt));
  EXPECT_EQ(p->expect<frame::Reserved>().code, frame::ReserveCode::Invalid) << "it listens nowhere";
  const frame::Reserved reserved = reserve(1, prompt);
  EXPECT_EQ(reserve(1, prompt).code, frame::ReserveCode::Invalid) << "the number is taken";
  EXPECT_EQ(reserve(2, prompt_of(2, 240)).code, frame::ReserveCode::Ok);
  EXPECT_EQ(reserve(3, prompt_of(3, 240)).code, frame::ReserveCode::NoRoom);
  d->send(frame::Release{2});
  const auto rejected = [&](auto change) {
    frame::Push push = push_frame(1, prompt, reserved, address);
    change(push);
    p->send(push);
    return p->expect<frame::Rejected>().code;
  };
  using Code = frame::RejectCode;
  const auto rejected_draw = [&](auto change) {
    return rejected([&](frame::Push& push) {
      push.draw = draw_of(submit_frame(1, prompt, 1), {1});
      change(*push.draw);
    });
  };
  EXPECT_EQ(rejected_draw([](frame::Draw& f) { f.seeds.clear(); }), Code::Invalid);
  EXPECT_EQ(rejected_draw([](frame::Draw& f) { f.seeds.resize(1000); }), Code::Invalid);
  EXPECT_EQ(rejected_draw([](frame::Draw& f) { f.prompt_tokens = 0; }), Code::Invalid);
  EXPECT_EQ(rejected_draw([](frame::Draw& f) { f.prompt_tokens = 65; }), Code::Invalid);
  EXPECT_EQ(rejected_draw([](frame::Draw& f) { f.temperature = -1; }), Code::Invalid);
  EXPECT_EQ(rejected_draw([](frame::Draw& f) { f.bias = {{kVocab, 1}}; }), Code::Invalid);
  EXPECT_EQ(rejected([](frame::Push& f) { f.tokens.clear(); }), Code::Invalid);
  EXPECT_EQ(rejected([](frame::Push& f) { f.tokens[3] = kVocab; }), Code::Invalid);
  EXPECT_EQ(rejected([](frame::Push& f) { f.first_block = 4; }), Code::Invalid);
  EXPECT_EQ(rejected([](frame::Push& f) { f.address.clear(); }), Code::Invalid);
  EXPECT_EQ(rejected([](frame::Push& f) { f.tokens.resize(kContext, 1); }), Code::TooLong);
  d->send(frame::Release{1});
  d->send(frame::Release{1});
  d->send(frame::Renew{1, 1000});
  expect_nothing_held();
}

TEST_F(HandoffServing, AGrantWritesNothingForAnotherPromptOrWithAnotherSecret) {
  start();
  const auto prompt = prompt_of(1, 64);
  const frame::Reserved reserved = reserve(7, prompt);
  const auto fails = [&](uint64_t id, frame::Push push) {
    push.id = id;
    p->send(push);
    EXPECT_EQ(p->finish_of(id).reason, FinishReason::Transfer);
  };
  const frame::Push right = push_frame(100, prompt, reserved, address);
  frame::Push wrong = right;
  wrong.tokens = prompt_of(2, 64);
  fails(1, wrong);
  wrong = right;
  wrong.first_block = 1;
  fails(2, wrong);
  wrong = right;
  wrong.tokens.resize(48);
  fails(3, wrong);
  wrong = right;
  wrong.grant.secret[4] ^= 1;
  fails(4, wrong);
  wrong = right;
  ++wrong.grant.generation;
  fails(5, wrong);
  wrong = right;
  wrong.address = "unix:" + (folder / "nobody.sock");
  fails(6, wrong);
  p->send(right);
  EXPECT_TRUE(d->expect<frame::Transferred>().complete) << "it is as good as it was";
  fails(8, right);  // but only once
  expect_right_answer(prompt, 7);
  EXPECT_EQ(cached_tokens, 48u);
  expect_nothing_held();
}

TEST_F(HandoffServing, AnotherLayoutIsRefusedAndDComputesItself) {
  start("", {.sequences_max = 4, .step_tokens_max = kStepTokens}, 64, "fake/2");
  const auto prompt = prompt_of(1, 64);
  p->send(push_frame(1, prompt, reserve(7, prompt), address));
  EXPECT_FALSE(d->expect<frame::Transferred>().complete);
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Transfer);
  expect_right_answer(prompt, 7);
  EXPECT_EQ(cached_tokens, 0u);
  expect_nothing_held();
}

TEST_F(HandoffServing, ASubmitThatComesBeforeTheTransferIsOverComputesItself) {
  start();
  const auto prompt = prompt_of(1, 128);
  hold_halfway(prompt);
  expect_right_answer(prompt, 7);
  EXPECT_EQ(cached_tokens, 0u);
  d->settled(holds_nothing);
  prefill->fake().go();
  EXPECT_EQ(p->finish_of(1).reason, FinishReason::Transfer);
  expect_nothing_held();
}

TEST_F(HandoffServing, ARejectedSubmitLeavesItsReservationAndOneThatEndsInTheQueueDoesNot) {
  start("", {.sequences_max = 1, .step_tokens_max = kStepTokens});
  const auto prompt = prompt_of(1, 64);
  p->send(push_frame(1, prompt, reserve(7, prompt), address));
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  frame::Submit bad = submit_frame(2, prompt, 0, 7);
  d->send(bad);
  EXPECT_EQ(d->expect<frame::Rejected>().code, frame::RejectCode::Invalid);
  d->settled([](const frame::Stats& s) { return s.blocks_used == 4; });
  decode->fake().hold();
  d->send(submit_frame(3, prompt_of(3, 20), 5));
  decode->fake().wait_until_held();
  frame::Submit waiting = submit_frame(4, prompt, 5, 7);
  waiting.credit_tokens = 0;
  d->send(waiting);
  d->send(frame::Cancel{4});
  decode->fake().go();
  EXPECT_EQ(d->finish_of(4).reason, FinishReason::Cancelled);
  d->finish_of(3);
  expect_nothing_held();
}

TEST_F(HandoffServing, WhatIsCommittedGivesWayUnderPressureAndIsSaidToBeGone) {
  start("", {.sequences_max = 4, .step_tokens_max = kStepTokens}, 16);
  const auto prompt = prompt_of(1, 96);
  p->send(push_frame(1, prompt, reserve(7, prompt), address));
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  const auto large = prompt_of(2, 200);
  d->send(submit_frame(2, large, 40));
  EXPECT_FALSE(d->expect<frame::Transferred>().complete);
  d->finish_of(2);
  EXPECT_EQ(d->tokens[2], alone(large, 40));
  expect_right_answer(prompt, 7);
  expect_nothing_held();
}

TEST_F(HandoffServing, LayersTravelWhileTheOthersAreComputed) {
  start();
  const int64_t block_bytes = prefill->fake().kv().block_bytes;
  const auto prompt = prompt_of(1, 64);  // two steps of two blocks
  for (int32_t told = 1; told <= kFakeLayers; ++told) {
    SCOPED_TRACE(std::to_string(told) + " layers of the second step");
    Listening receiver("unix:" + (folder / "receiver.sock"));
    const auto id = static_cast<uint64_t>(told);
    frame::Push push = push_frame(id, prompt, {.id = id, .grant = {}, .blocks = 4}, receiver.address);
    push.salt = id;  // nothing is cached
    prefill->fake().hold(1, told);
    p->send(push);
    receiver.accept();
    prefill->fake().wait_until_held();
    const auto whole = static_cast<size_t>(2 * kFakeLayers);
    while (receiver.there.size() < whole + 2 * static_cast<size_t>(told)) receiver.next(block_bytes);
    for (uint32_t layer = 0; layer < static_cast<uint32_t>(told); ++layer)
      EXPECT_TRUE(receiver.there.contains({2, layer}) && receiver.there.contains({3, layer}));
    EXPECT_EQ(receiver.there.size(), whole + 2 * static_cast<size_t>(told)) << "and no other ones";
    prefill->fake().go();
    while (receiver.next(block_bytes).magic != wire::kEnd) {
    }
    EXPECT_EQ(receiver.there.size(), 2 * whole);
    receiver.answer();
    EXPECT_EQ(p->finish_of(id).reason, FinishReason::Stop);
  }
  p->settled(holds_nothing);
}

// --- Any schedule

TEST_F(HandoffServing, AnyScheduleSaysWhatOneEngineAloneSays) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  uint64_t cached_tokens_in_all = 0;
  for (const int32_t blocks : {20, 40, 120}) {
    layers_at_a_time = blocks == 40 ? 2 : 1;
    start("", {.sequences_max = 4, .step_tokens_max = kStepTokens}, blocks);
    p.reset();
    d.reset();
    auto jobs = random_jobs(random, 60, kVocab, 200);
    for (Job& job : jobs) job.submit.temperature = 0.0f;
    const auto said = handed_over(*prefill, *decode, jobs, cached_tokens_in_all);
    for (const Job& job : jobs) {
      const auto& tokens = said.at(job.submit.id);
      EXPECT_EQ(tokens, alone(job.submit.prompt, tokens.size()));
      EXPECT_EQ(tokens.size(), std::min<size_t>(job.submit.max_new_tokens, kContext - job.submit.prompt.size()));
    }
    TearDown();
  }
  EXPECT_GT(cached_tokens_in_all, 1000u);
}

TEST_F(HandoffServing, ARealModelSaysTheSameWhereverItsPromptsAreComputed) {
  const TempFile file(random_model({64, 128, 3, 4, 2, 32, kVocab, kContext}, TensorType::q8_0, TensorType::q8_0, true, 5));
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const KvType type : {KvType::f16, KvType::q8_0}) {
    ServerConfig config{.sequences_max = 4, .step_tokens_max = kStepTokens};
    config.kv_layers_at_a_time = type == KvType::f16 ? 1 : 2;
    const auto load = [&] {
      LoadOptions options;
      options.path = file.path();
      options.threads = 1;
      options.blocks_total = 80;
      options.step_tokens_max = kStepTokens;
      options.step_sequences_max = 4;
      options.kv_type = type;
      return load_model(options);
    };
    prefill = std::make_unique<Engine>(load(), config, folder / "p.sock");
    config.kv_listen = "tcp:127.0.0.1:0";
    decode = std::make_unique<Engine>(load(), config, folder / "d.sock");
    Engine one(load(), config, folder / "one.sock");
    const auto jobs = random_jobs(random, 30, kVocab, 200);
    uint64_t cached = 0;
    EXPECT_EQ(handed_over(*prefill, *decode, jobs, cached), aggregated(one, jobs));
    EXPECT_GT(cached, 300u);
    TearDown();
  }
}

}  // namespace
}  // namespace penstock
