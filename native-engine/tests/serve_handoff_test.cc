// Hand-overs between two serving engines. Goal: a prompt that is handed over gives exactly the tokens that one engine alone
// gives, in any schedule, and both engines hold no block in the end. What breaks on the way is serve_handoff_faults_test.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <random>
#include <set>

#include "handoff_serving.h"
#include "kv/endpoint.h"
#include "kv/transfer_wire.h"
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

// A receiver that takes note of which layers of which blocks have come.
class Listening {
 public:
  explicit Listening(std::string at) : address(std::move(at)), listener_(listen_at(address)) {}
  ~Listening() { stop_listening(address); }
  // Lets the sender in.
  void accept() {
    pollfd polled{listener_.get(), POLLIN, 0};
    if (poll(&polled, 1, 20'000) != 1) throw std::runtime_error("nobody came");
    socket_ = Descriptor(::accept(listener_.get(), nullptr, nullptr));
    const timeval limit{.tv_sec = 20, .tv_usec = 0};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    take(wire::read<wire::OfferHead>(take(sizeof(wire::OfferHead))).fingerprint_bytes);
    answer();
  }
  void answer() {
    const wire::Answer answer{};
    if (send(socket_.get(), &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer) throw std::runtime_error("the sender is gone");
  }
  // The head of the next message, whose payload is taken too.
  wire::PieceHead next(int64_t block_bytes) {
    const auto head = wire::read<wire::PieceHead>(take(sizeof(wire::PieceHead)));
    if (head.magic != wire::kBlocks) return head;
    take(static_cast<size_t>(head.count * head.layers * block_bytes) + sizeof(uint64_t));
    for (uint32_t block = head.first; block < head.first + head.count; ++block)
      for (uint32_t layer = head.layer; layer < head.layer + head.layers; ++layer) there.insert({block, layer});
    return head;
  }

  std::string address;
  std::set<std::pair<uint32_t, uint32_t>> there;

 private:
  std::vector<std::byte> take(size_t count) {
    std::vector<std::byte> bytes(count);
    for (size_t at = 0; at < count;) {
      const ssize_t got = recv(socket_.get(), bytes.data() + at, count - at, 0);
      if (got <= 0) throw std::runtime_error("nothing more came");
      at += static_cast<size_t>(got);
    }
    return bytes;
  }
  Descriptor listener_;
  Descriptor socket_;
};

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

struct Job {
  frame::Submit submit;
  bool handed_over = false, draws = false, cancelled_push = false, released = false;
  bool rival = false;  // P computes the same prompt for somebody else at the same time, from its first row on
};

// Runs everything on one engine, and returns what each said.
std::map<uint64_t, std::vector<int32_t>> aggregated(Engine& engine, const std::vector<Job>& jobs) {
  Client agent(engine.path());
  agent.hello();
  for (Job job : jobs) {
    job.submit.reservation = 0;
    agent.send(job.submit);
  }
  for (const Job& job : jobs) agent.finish_of(job.submit.id);
  return agent.tokens;
}

std::vector<Job> random_jobs(std::mt19937& random, int count, int32_t vocab, size_t prompt_max) {
  const auto pick = [&](size_t low, size_t high) { return low + random() % (high - low + 1); };
  std::vector<Job> jobs;
  for (uint64_t id = 1; id <= static_cast<uint64_t>(count); ++id) {
    Job job;
    // Half of them begin like others.
    const size_t common = random() % 2 == 0 ? pick(1, prompt_max) : 0;
    std::vector<uint32_t> prompt;
    const size_t stem = random() % 3;
    for (size_t i = 0; i < common; ++i) prompt.push_back(static_cast<uint32_t>((i * 7 + stem) % static_cast<size_t>(vocab)));
    for (const size_t total = std::max(common, pick(1, prompt_max)); prompt.size() < total;)
      prompt.push_back(static_cast<uint32_t>(random() % static_cast<size_t>(vocab)));
    job.submit = submit_frame(id, prompt, static_cast<uint32_t>(pick(1, 20)));
    if (random() % 2 == 0) {
      job.submit.temperature = 0.8f;
      job.submit.seed = random();
    }
    job.handed_over = random() % 4 != 0;
    job.draws = random() % 4 != 0;
    job.cancelled_push = random() % 6 == 0;
    job.released = random() % 8 == 0;
    job.rival = random() % 4 == 0;
    jobs.push_back(std::move(job));
  }
  return jobs;
}

// The same over both engines, with six of them under way at a time.
std::map<uint64_t, std::vector<int32_t>> handed_over(Engine& prefill, Engine& decode, const std::vector<Job>& jobs,
                                                     uint64_t& cached_tokens) {
  Client p(prefill.path()), d(decode.path());
  p.hello();
  const std::string address = d.hello().kv_address;
  std::map<uint64_t, const Job*> reserving, pushing;
  size_t next = 0, ended = 0;
  const auto submit = [&](const Job& job) {
    frame::Submit taken_over = job.submit;
    taken_over.reservation = job.handed_over ? taken_over.id : 0;
    d.send(taken_over);
  };
  while (ended < jobs.size()) {
    while (next < jobs.size() && next - ended < 6) {
      const Job& job = jobs[next++];
      if (!job.handed_over || job.submit.prompt.size() < kBlockTokens) {
        submit(job);
        continue;
      }
      reserving[job.submit.id] = &job;
      d.send(reserve_frame(job.submit.id, job.submit.prompt));
    }
    const auto frame = d.receive();
    if (!frame.has_value()) throw std::runtime_error("D is gone");
    d.note(*frame);
    if (std::holds_alternative<Finished>(*frame)) ++ended;
    if (const auto* admitted = std::get_if<frame::Admitted>(&*frame)) cached_tokens += admitted->cached_tokens;
    if (const auto* reserved = std::get_if<frame::Reserved>(&*frame)) {
      const Job& job = *reserving.at(reserved->id);
      if (reserved->code != frame::ReserveCode::Ok || reserved->blocks == reserved->cached_blocks) {
        submit(job);
        continue;
      }
      pushing[reserved->id] = &job;
      frame::Push push = push_frame(reserved->id, job.submit.prompt, *reserved, address);
      // Where the rest of the prompt is not handed over, there is nothing to draw behind.
      const bool whole = push.tokens.size() == job.submit.prompt.size();
      if (job.draws && whole) push.draw = draw_of(job.submit, {job.submit.seed});
      if (job.rival) {
        frame::Submit rival = submit_frame(1000 + push.id, push.tokens, 1);
        rival.pooling = Pooling::mean;
        p.send(rival);
      }
      p.send(push);
      if (job.cancelled_push) p.send(frame::Cancel{reserved->id});
      if (job.released) d.send(frame::Release{reserved->id});
      // What was released is never heard of again, and one whose push was cancelled before it began is the agent's to
      // release; for both it goes on at once.
      if (job.released || job.cancelled_push) {
        pushing.erase(reserved->id);
        submit(job);
      }
    }
    if (const auto* transferred = std::get_if<frame::Transferred>(&*frame)) {
      const auto found = pushing.find(transferred->id);
      if (found == pushing.end()) continue;
      submit(*found->second);
      pushing.erase(found);
    }
  }
  const auto said = d.tokens;
  d.settled(holds_nothing);
  p.settled(holds_nothing);
  return said;
}

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
