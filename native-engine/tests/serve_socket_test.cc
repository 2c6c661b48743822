// A serving engine with a fake model behind a real Unix socket: what an agent sees, and what is left when it is gone.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <thread>

#include "fake_runner.h"
#include "serve/log.h"
#include "serve/server.h"
#include "serve_client.h"

namespace penstock {
namespace {

constexpr int32_t kVocab = 97;
constexpr int32_t kContext = 256;

std::string fresh_directory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "penstock-serve-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
  return pattern;
}

class Serving : public testing::Test {
 protected:
  void SetUp() override { set_log_level(LogLevel::Error); }

  void start(int32_t blocks = 64, ServerConfig config = {.sequences_max = 4, .step_tokens_max = 32}) {
    config.epoch = 12345;
    runner = std::make_unique<FakeRunner>(blocks, kContext, kVocab, config.step_tokens_max);
    listener = std::make_unique<Listener>(path);
    thread = std::thread([this, config] { run_server(*listener, *runner, config, wake, stop); });
  }
  void TearDown() override {
    end();
    std::filesystem::remove_all(directory);
  }
  void end() {
    if (!thread.joinable()) return;
    runner->go();
    stop = true;
    wake.wake();
    thread.join();
    listener.reset();
  }

  static frame::Submit request(uint64_t id, uint32_t max_new_tokens, uint32_t prompt_tokens = 5) {
    frame::Submit submit;
    submit.id = id;
    for (uint32_t i = 0; i < prompt_tokens; ++i)
      submit.prompt.push_back(static_cast<uint32_t>(id * 17 + i * 3) % kVocab);
    submit.max_new_tokens = max_new_tokens;
    submit.credit_tokens = 1'000'000;
    return submit;
  }
  static std::vector<int32_t> alone(const frame::Submit& submit, size_t count) {
    std::vector<int32_t> tokens(submit.prompt.begin(), submit.prompt.end());
    while (tokens.size() < submit.prompt.size() + count) tokens.push_back(fake_next_token(tokens, kVocab));
    return {tokens.begin() + static_cast<std::ptrdiff_t>(submit.prompt.size()), tokens.end()};
  }

  std::string directory = fresh_directory();
  std::string path = directory + "/engine.sock";
  WakePipe wake;
  std::atomic<bool> stop{false};
  std::unique_ptr<FakeRunner> runner;
  std::unique_ptr<Listener> listener;
  std::thread thread;
};

TEST_F(Serving, AnswersHelloWithWhatItIs) {
  start(8);
  Client agent(path);
  const frame::Ready ready = agent.hello();
  EXPECT_EQ(ready.protocol, kEngineProtocol);
  EXPECT_EQ(ready.epoch, 12345u);
  EXPECT_EQ(ready.arch, "fake");
  EXPECT_EQ(ready.vocab_size, 97u);
  EXPECT_EQ(ready.context_tokens, 8u * 16) << "the pool is smaller than the context";
  EXPECT_EQ(ready.block_tokens, 16u);
  EXPECT_EQ(ready.blocks_total, 8u);
  EXPECT_EQ(ready.sequences_max, 4u);
  EXPECT_EQ(ready.step_tokens_max, 32u);
  EXPECT_EQ(ready.kv_fingerprint, "fake/1");
  EXPECT_EQ(agent.expect<frame::Stats>().blocks_used, 0u);
}

TEST_F(Serving, StreamsSeveralSequencesAtOnceEachAsIfItWereAlone) {
  start();
  Client agent(path);
  agent.hello();
  std::vector<frame::Submit> all;
  for (uint64_t id = 1; id <= 9; ++id)
    all.push_back(request(id, static_cast<uint32_t>(10 + id), static_cast<uint32_t>(id * 7)));
  for (const auto& submit : all) agent.send(submit);
  for (const auto& submit : all) {
    const Finished end = agent.finish_of(submit.id);
    EXPECT_EQ(end.reason, FinishReason::Length);
    EXPECT_EQ(end.prompt_tokens, static_cast<int32_t>(submit.prompt.size()));
    EXPECT_EQ(end.output_tokens, static_cast<int32_t>(submit.max_new_tokens));
    EXPECT_EQ(agent.tokens[submit.id], alone(submit, submit.max_new_tokens));
  }
  const auto stats = agent.stats_where([](const frame::Stats& s) { return s.running == 0; });
  EXPECT_EQ(stats.blocks_used, 0u);
  EXPECT_EQ(stats.waiting, 0u);
  EXPECT_GT(stats.step, 0u);
  EXPECT_GT(stats.prefill_tokens_per_second, 0.0f);
  EXPECT_GT(stats.decode_tokens_per_second, 0.0f);
  EXPECT_GT(stats.memory_bytes_per_second, 0.0f);
}

TEST_F(Serving, CountsAStopTokenAndDoesNotSendIt) {
  start();
  Client agent(path);
  agent.hello();
  frame::Submit submit = request(1, 50);
  const auto expected = alone(submit, 50);
  const auto at = static_cast<size_t>(std::find(expected.begin(), expected.end(), expected[6]) - expected.begin());
  submit.stop_ids = {static_cast<uint32_t>(expected[6])};
  agent.send(submit);
  const Finished end = agent.finish_of(1);
  EXPECT_EQ(end.reason, FinishReason::Stop);
  EXPECT_EQ(end.output_tokens, static_cast<int32_t>(at) + 1);
  EXPECT_EQ(agent.tokens[1].size(), at);
}

TEST_F(Serving, SendsLogprobsOnlyWhenAskedFor) {
  start();
  Client agent(path);
  agent.hello();
  frame::Submit with = request(1, 2);
  with.logprobs_top = 3;
  agent.send(with);
  agent.send(request(2, 2));
  agent.finish_of(1);
  agent.finish_of(2);
  for (const frame::Token& token : agent.details[1]) {
    EXPECT_LT(token.logprob, 0.0f);
    ASSERT_EQ(token.top.size(), 3u);
    EXPECT_EQ(token.top[0].token, static_cast<int32_t>(token.token));
  }
  for (const frame::Token& token : agent.details[2]) {
    EXPECT_EQ(token.logprob, 0.0f);
    EXPECT_TRUE(token.top.empty());
  }
}

TEST_F(Serving, StopsAtTheLastCreditAndGoesOnWithTheNext) {
  start();
  Client agent(path);
  agent.hello();
  frame::Submit submit = request(1, 20);
  submit.credit_tokens = 3;
  agent.send(submit);
  const auto paused = [](const frame::Stats& s) { return s.running == 1 && s.step == 3; };
  agent.stats_where(paused);
  EXPECT_EQ(agent.tokens[1].size(), 3u);
  // Another sequence runs to its end meanwhile; the paused one keeps its blocks and says nothing.
  agent.send(request(2, 10));
  agent.finish_of(2);
  EXPECT_EQ(agent.tokens[1].size(), 3u);
  agent.send(frame::Credit{1, 4});
  agent.send(frame::Credit{999, 4});
  agent.stats_where([](const frame::Stats& s) { return s.running == 1 && s.step == 3 + 10 + 4; });
  EXPECT_EQ(agent.tokens[1].size(), 7u);
  agent.send(frame::Credit{1, 1000});
  agent.finish_of(1);
  EXPECT_EQ(agent.tokens[1], alone(submit, 20));
}

TEST_F(Serving, CancelsOneSequenceAndLeavesTheOthers) {
  start();
  Client agent(path);
  agent.hello();
  runner->hold();
  // It runs out of credit before its end: however late the CANCEL is read, it still has something to cancel.
  frame::Submit cancelled = request(1, 200);
  cancelled.credit_tokens = 20;
  agent.send(cancelled);
  agent.send(request(2, 30));
  runner->wait_until_held();
  agent.send(frame::Cancel{1});
  agent.send(frame::Cancel{55});
  runner->go();
  EXPECT_EQ(agent.finish_of(1).reason, FinishReason::Cancelled);
  EXPECT_EQ(agent.finish_of(2).reason, FinishReason::Length);
  EXPECT_EQ(agent.tokens[2], alone(request(2, 30), 30));
  EXPECT_EQ(agent.finish_of(1).output_tokens, static_cast<int32_t>(agent.tokens[1].size()));
  EXPECT_EQ(agent.stats_where([](const frame::Stats& s) { return s.running == 0; }).blocks_used, 0u);
}

TEST_F(Serving, EndsASequenceAtItsDeadline) {
  start();
  Client agent(path);
  agent.hello();
  frame::Submit submit = request(1, 100);
  submit.credit_tokens = 1;
  submit.deadline_ms = 30;
  agent.send(submit);
  EXPECT_EQ(agent.finish_of(1).reason, FinishReason::Deadline);
}

TEST_F(Serving, SaysWhyItRejects) {
  start(64, {.sequences_max = 1, .step_tokens_max = 32, .queue_max = 2});
  Client agent(path);
  agent.hello();
  frame::Submit bad = request(1, 5);
  bad.prompt[2] = 97;
  agent.send(bad);
  auto rejected = agent.expect<frame::Rejected>();
  EXPECT_EQ(rejected.id, 1u);
  EXPECT_EQ(rejected.code, frame::RejectCode::Invalid);
  EXPECT_EQ(rejected.message, "prompt[2] is 97, the vocabulary has 97 tokens");
  agent.send(request(2, 5, 256));
  EXPECT_EQ(agent.expect<frame::Rejected>().code, frame::RejectCode::TooLong);
  frame::Submit waits = request(3, 5);
  waits.credit_tokens = 0;
  agent.send(waits);
  agent.send(waits);
  rejected = agent.expect<frame::Rejected>();
  EXPECT_EQ(rejected.code, frame::RejectCode::Invalid);
  EXPECT_TRUE(rejected.message.starts_with("id ")) << rejected.message;
  waits.id = 4;
  agent.send(waits);
  waits.id = 5;
  agent.send(waits);
  rejected = agent.expect<frame::Rejected>();
  EXPECT_EQ(rejected.id, 5u);
  EXPECT_EQ(rejected.code, frame::RejectCode::QueueFull);
}

TEST_F(Serving, AnswersPingWhileAStepRuns) {
  start();
  Client agent(path);
  agent.hello();
  runner->hold();
  agent.send(request(1, 3));
  runner->wait_until_held();
  agent.send(frame::Ping{77});
  EXPECT_EQ(agent.expect<frame::Pong>().nonce, 77u);
  EXPECT_TRUE(agent.tokens.empty());
  runner->go();
  agent.finish_of(1);
}

TEST_F(Serving, FreesEverythingWhenTheAgentHangsUpInMidStream) {
  start(16);
  for (int round = 0; round < 3; ++round) {
    Client agent(path);
    agent.hello();
    runner->hold(20);
    for (uint64_t id = 1; id <= 8; ++id) agent.send(request(id, 200, 40));
    runner->wait_until_held();
    agent.expect<frame::Tokens>();
    agent.hang_up();
    // The next agent is served at once, and finds the old sequences gone, the ids free and every block too.
    Client next(path);
    next.send(frame::Hello{kEngineProtocol});
    next.expect<frame::Ready>();
    next.send(request(1, 12));
    runner->go();
    const auto first = next.expect<frame::Stats>();
    EXPECT_EQ(first.blocks_used, 0u);
    EXPECT_EQ(first.running + first.waiting, 0u);
    next.finish_of(1);
    EXPECT_EQ(next.tokens[1], alone(request(1, 12), 12));
    EXPECT_EQ(next.finished.size(), 1u);
  }
}

TEST_F(Serving, RefusesASecondConnectionAndKeepsTheFirst) {
  start();
  Client agent(path);
  agent.hello();
  Client second(path);
  second.send(frame::Hello{kEngineProtocol});
  const auto fatal = second.receive();
  ASSERT_TRUE(fatal.has_value() && std::holds_alternative<frame::Fatal>(*fatal));
  EXPECT_EQ(std::get<frame::Fatal>(*fatal).message, "the engine is owned by another connection");
  EXPECT_EQ(second.receive(), std::nullopt);
  agent.send(request(1, 4));
  EXPECT_EQ(agent.finish_of(1).output_tokens, 4);
}

struct Breach {
  std::string reason;
  std::vector<Frame> frames;
};

TEST_F(Serving, ClosesAConnectionThatBreaksTheProtocolAndServesTheNext) {
  start();
  const Breach breaches[] = {
      {"the first frame must be HELLO", {frame::Ping{1}}},
      {"HELLO came twice", {frame::Hello{kEngineProtocol}, frame::Hello{kEngineProtocol}}},
      {"protocol 9 is not spoken here, only " + std::to_string(kEngineProtocol), {frame::Hello{9}}},
      {"a frame that only an engine sends", {frame::Hello{kEngineProtocol}, frame::Pong{1}}},
  };
  for (const Breach& breach : breaches) {
    SCOPED_TRACE(breach.reason);
    Client agent(path);
    for (const Frame& frame : breach.frames) agent.send(frame);
    std::string said;
    while (const auto frame = agent.receive())
      if (const auto* fatal = std::get_if<frame::Fatal>(&*frame)) said = fatal->message;
    EXPECT_EQ(said, breach.reason);
  }
  Client garbage(path);
  garbage.hello();
  garbage.send(request(1, 200));
  garbage.send_bytes({8, 0, 0, 0, 3, 7, 0, 0});
  std::string said;
  while (const auto frame = garbage.receive())
    if (const auto* fatal = std::get_if<frame::Fatal>(&*frame)) said = fatal->message;
  EXPECT_EQ(said, "not a frame header");
  Client next(path);
  next.hello();
  EXPECT_EQ(next.expect<frame::Stats>().blocks_used, 0u);
}

TEST_F(Serving, DropsAnAgentThatDoesNotRead) {
  start();
  Client deaf(path);
  deaf.hello();
  std::vector<uint8_t> pings;
  for (uint64_t i = 0; i < 4096; ++i) append_frame(pings, frame::Ping{i});
  int batches = 0;
  while (deaf.send_bytes(pings) && batches < 4096) ++batches;
  EXPECT_LT(batches, 4096) << "it was never dropped";
  Client next(path);
  next.hello();
  next.send(request(1, 3));
  EXPECT_EQ(next.finish_of(1).output_tokens, 3);
}

TEST_F(Serving, ASequenceThatCannotBeDrawnFromEndsAloneAndTheOthersOfItsStepGoOn) {
  start();
  runner->spoil_prompts_with(3);
  Client agent(path);
  agent.hello();
  frame::Submit spoilt = request(2, 5);
  spoilt.prompt = {3, 1, 2};
  frame::Submit sound = request(1, 40);
  sound.prompt = {4, 1, 2};
  runner->hold();
  agent.send(sound);
  agent.send(spoilt);
  runner->wait_until_held();
  runner->go();
  EXPECT_EQ(agent.finish_of(2).reason, FinishReason::Internal);
  const auto end = agent.finish_of(1);
  EXPECT_EQ(end.reason, FinishReason::Length);
  EXPECT_EQ(end.output_tokens, 40);
}

TEST_F(Serving, EndsTheSequencesOfAStepThatFailsAndGoesOn) {
  start();
  Client agent(path);
  agent.hello();
  runner->fail_next();
  agent.send(request(1, 5));
  EXPECT_EQ(agent.finish_of(1).reason, FinishReason::Internal);
  agent.send(request(2, 5));
  EXPECT_EQ(agent.finish_of(2).reason, FinishReason::Length);
  EXPECT_EQ(agent.stats_where([](const frame::Stats& s) { return s.running == 0 && s.step >= 6; }).blocks_used, 0u);
}

TEST_F(Serving, AnswersAnEmbeddingAndThenEndsIt) {
  start();
  Client agent(path);
  agent.hello();
  for (const Pooling pooling : {Pooling::mean, Pooling::last}) {
    frame::Submit submit = request(static_cast<uint64_t>(pooling), 0, 70);
    submit.pooling = pooling;
    submit.credit_tokens = 0;
    agent.send(submit);
    const auto embedding = agent.expect<frame::Embedding>();
    EXPECT_EQ(embedding.id, submit.id);
    EXPECT_FALSE(agent.finished.contains(submit.id)) << "the end comes last";
    const std::vector<int32_t> prompt(submit.prompt.begin(), submit.prompt.end());
    EXPECT_EQ(embedding.values, fake_embedding(prompt, pooling));
    const Finished end = agent.finish_of(submit.id);
    EXPECT_EQ(end.reason, FinishReason::Stop);
    EXPECT_EQ(end.output_tokens, 0);
  }
  runner->spoil_prompts_with(3);
  frame::Submit spoilt = request(9, 1);
  spoilt.prompt = {3, 1, 2};
  spoilt.pooling = Pooling::mean;
  agent.send(spoilt);
  EXPECT_EQ(agent.finish_of(9).reason, FinishReason::Internal);
}

TEST_F(Serving, TellsWhichBlocksAPromptHasAndWhichTheCacheHolds) {
  start(8);
  std::vector<uint64_t> known;
  {
    Client agent(path);
    agent.hello();
    auto blocks = agent.expect<frame::Blocks>();
    EXPECT_EQ(blocks.sequence, 1u);
    ASSERT_EQ(blocks.events.size(), 1u);
    EXPECT_EQ(blocks.events[0].kind, BlockEventKind::Cleared);
    agent.send(request(1, 2, 40));
    const auto admitted = agent.expect<frame::Admitted>();
    EXPECT_EQ(admitted.id, 1u);
    EXPECT_EQ(admitted.cached_tokens, 0u);
    ASSERT_EQ(admitted.hashes.size(), 2u);
    known = admitted.hashes;
    blocks = agent.expect<frame::Blocks>();
    EXPECT_EQ(blocks.sequence, 2u);
    ASSERT_EQ(blocks.events.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(blocks.events[i].kind, BlockEventKind::Stored);
      EXPECT_EQ(blocks.events[i].hash, known[i]);
      EXPECT_EQ(blocks.events[i].parent, i == 0 ? 0 : known[0]);
    }
    frame::Submit again = request(2, 2, 40);
    again.prompt = request(1, 2, 40).prompt;
    agent.send(again);
    EXPECT_EQ(agent.expect<frame::Admitted>().cached_tokens, 32u);
    EXPECT_EQ(agent.finish_of(2).cached_tokens, 32);
    const auto stats = agent.stats_where([](const frame::Stats& s) { return s.running == 0 && s.prompt_tokens == 80; });
    EXPECT_EQ(stats.cached_tokens, 32u);
    EXPECT_EQ(stats.blocks_cached, 2u);
  }
  // The next agent hears of what is still there.
  Client next(path);
  next.hello();
  const auto blocks = next.expect<frame::Blocks>();
  EXPECT_EQ(blocks.sequence, 1u);
  ASSERT_EQ(blocks.events.size(), 3u);
  EXPECT_EQ(blocks.events[0].kind, BlockEventKind::Cleared);
  EXPECT_EQ(blocks.events[1].hash, known[0]);
  EXPECT_EQ(blocks.events[2].hash, known[1]);
  EXPECT_EQ(blocks.events[2].parent, known[0]);
}

TEST_F(Serving, ShutsDownWithAnEndForEverySequence) {
  start();
  Client agent(path);
  agent.hello();
  runner->hold(20);
  for (uint64_t id = 1; id <= 6; ++id) agent.send(request(id, 200));
  runner->wait_until_held();
  agent.expect<frame::Tokens>();
  agent.send(frame::Shutdown{});
  agent.send(request(7, 5));
  EXPECT_EQ(agent.expect<frame::Rejected>().code, frame::RejectCode::Draining);
  runner->go();
  for (uint64_t id = 1; id <= 6; ++id) EXPECT_EQ(agent.finish_of(id).reason, FinishReason::Cancelled);
  while (agent.receive().has_value()) {
  }
  thread.join();
  EXPECT_TRUE(std::filesystem::exists(path));
  listener.reset();
  EXPECT_FALSE(std::filesystem::exists(path)) << "the socket file leaves with its listener";
}

TEST_F(Serving, ShutsDownWhenItIsAskedFromOutside) {
  start();
  Client agent(path);
  agent.hello();
  frame::Submit submit = request(1, 200);
  submit.credit_tokens = 5;
  agent.send(submit);
  agent.expect<frame::Tokens>();
  end();
  EXPECT_EQ(agent.finish_of(1).reason, FinishReason::Cancelled);
  EXPECT_EQ(agent.receive(), std::nullopt);
}

TEST_F(Serving, ShutsDownWithNobodyConnected) {
  start();
  end();
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace penstock
