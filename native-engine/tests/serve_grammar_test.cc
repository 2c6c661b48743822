// Grammars through the socket: what the agent is told, what a sequence with one writes, and that a grammar which takes
// long to compile holds up nobody else. Part of builds with grammars only.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "fake_runner.h"
#include "grammar/matcher.h"
#include "serve/log.h"
#include "serve/server.h"
#include "serve_client.h"

namespace penstock {
namespace {

// The printable characters in order, and two ids that are not text.
constexpr int32_t kFirst = ' ';
constexpr int32_t kCharacters = 95;
constexpr uint32_t kEnd = 96;
constexpr int32_t kVocab = 97;

frame::Vocabulary characters() {
  frame::Vocabulary vocabulary;
  for (int32_t id = 0; id < kCharacters; ++id)
    vocabulary.tokens.push_back({false, {static_cast<uint8_t>(kFirst + id)}});
  for (const std::string name : {"<|im_start|>", "<|im_end|>"})
    vocabulary.tokens.push_back({true, {name.begin(), name.end()}});
  vocabulary.end_ids = {kEnd};
  return vocabulary;
}

std::string text_of(const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) text += static_cast<char>(kFirst + token);
  return text;
}

// Optional properties in any number are much work for the compiler: hundreds of milliseconds of it.
std::string slow_schema() {
  std::ostringstream schema;
  schema << R"({"type":"object","properties":{"p":{})";
  for (int i = 0; i < 1000; ++i) schema << ",\"p" << i << R"(":{"type":"string","maxLength":50})";
  schema << "}}";
  return schema.str();
}

class ServingGrammars : public testing::Test {
 protected:
  void SetUp() override {
    set_log_level(LogLevel::Error);
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-grammar-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory = pattern;
  }
  void start(int32_t blocks = 64) {
    const ServerConfig config = {.sequences_max = 4, .step_tokens_max = 32};
    runner = std::make_unique<FakeRunner>(blocks, 256, kVocab, config.step_tokens_max);
    listener = std::make_unique<Listener>(directory + "/engine.sock");
    thread = std::thread([this, config] { run_server(*listener, *runner, config, wake, stop); });
    agent = std::make_unique<Client>(directory + "/engine.sock");
    ready = agent->hello();
  }
  void TearDown() override {
    if (thread.joinable()) {
      stop = true;
      wake.wake();
      thread.join();
    }
    std::filesystem::remove_all(directory);
  }
  static frame::Submit request(uint64_t id, frame::GrammarKind kind, const std::string& text) {
    frame::Submit submit;
    submit.id = id;
    submit.prompt = {1, 2, static_cast<uint32_t>(id)};
    submit.max_new_tokens = 60;
    submit.credit_tokens = 1000;
    submit.stop_ids = {kEnd};
    submit.temperature = 1.0f;
    submit.seed = id;
    submit.grammar = frame::Grammar{kind, text};
    return submit;
  }

  std::string directory;
  WakePipe wake;
  std::atomic<bool> stop{false};
  std::unique_ptr<FakeRunner> runner;
  std::unique_ptr<Listener> listener;
  std::thread thread;
  std::unique_ptr<Client> agent;
  frame::Ready ready;
};

TEST_F(ServingGrammars, ReadySaysSoAndTheVocabularyComesFirst) {
  start();
  EXPECT_TRUE(ready.grammars);
  agent->send(request(1, frame::GrammarKind::Regex, "a"));
  const auto rejected = agent->expect<frame::Rejected>();
  EXPECT_EQ(rejected.code, frame::RejectCode::Invalid);
  EXPECT_NE(rejected.message.find("VOCABULARY"), std::string::npos) << rejected.message;
}

TEST_F(ServingGrammars, ASequenceWritesItsGrammarAndStopsWhereNothingMayFollow) {
  start();
  agent->send(characters());
  agent->send(request(1, frame::GrammarKind::Regex, "ab{3}[xy]"));
  agent->send(request(2, frame::GrammarKind::Lark, "start: \"[\" /[0-9]{1,5}/ \"]\""));
  const Finished fixed = agent->finish_of(1);
  EXPECT_EQ(fixed.reason, FinishReason::Stop);
  EXPECT_EQ(fixed.output_tokens, 5);
  const std::string first = text_of(agent->tokens[1]);
  EXPECT_TRUE(first == "abbbx" || first == "abbby") << first;
  const Finished number = agent->finish_of(2);
  const std::string second = text_of(agent->tokens[2]);
  EXPECT_EQ(number.reason, FinishReason::Stop);
  EXPECT_EQ(second.front(), '[');
  EXPECT_EQ(second.back(), ']');
  EXPECT_EQ(static_cast<size_t>(number.output_tokens), second.size());
}

TEST_F(ServingGrammars, AnEndTokenIsTakenWhereTheGrammarAcceptsAndIsNotText) {
  start();
  agent->send(characters());
  for (const bool stops : {true, false}) {
    frame::Submit submit = request(stops ? 1 : 2, frame::GrammarKind::Regex, "a*");
    if (!stops) submit.stop_ids.clear();  // the grammar's own end
    submit.max_new_tokens = 20;
    submit.bias = {{kEnd, 30.0f}};
    agent->send(submit);
    const Finished finished = agent->finish_of(submit.id);
    EXPECT_EQ(finished.reason, FinishReason::Stop);
    EXPECT_EQ(finished.output_tokens, 1);
    EXPECT_TRUE(agent->tokens[submit.id].empty());
  }
}

TEST_F(ServingGrammars, APreemptedSequenceGoesOnWhereItsTextStands) {
  start(6);  // of 16 tokens: three sequences of 60 do not fit side by side
  agent->send(characters());
  for (uint64_t id = 1; id <= 3; ++id) agent->send(request(id, frame::GrammarKind::Regex, "(abcdefghij){5}"));
  for (uint64_t id = 1; id <= 3; ++id) {
    EXPECT_EQ(agent->finish_of(id).reason, FinishReason::Stop);
    EXPECT_EQ(text_of(agent->tokens[id]), "abcdefghijabcdefghijabcdefghijabcdefghijabcdefghij");
  }
  EXPECT_GT(agent->stats_where([](const frame::Stats& stats) { return stats.running == 0; }).preemptions, 0u);
}

TEST_F(ServingGrammars, ASequenceGoesOnInTheMiddleOfItsTextAndIsOverWhereNothingMayFollow) {
  start();
  agent->send(characters());
  const auto resumed = [&](uint64_t id, const std::string& text) {
    frame::Submit submit = request(id, frame::GrammarKind::Regex, "ab{3}[xy]");
    for (const char c : text) submit.output.push_back(static_cast<uint32_t>(c - kFirst));
    return submit;
  };
  agent->send(resumed(1, "abb"));
  const Finished middle = agent->finish_of(1);
  EXPECT_EQ(middle.reason, FinishReason::Stop);
  EXPECT_EQ(middle.output_tokens, 5);
  EXPECT_TRUE(text_of(agent->tokens[1]) == "bx" || text_of(agent->tokens[1]) == "by") << text_of(agent->tokens[1]);

  agent->send(resumed(2, "abbby"));
  const Finished over = agent->finish_of(2);
  EXPECT_EQ(over.reason, FinishReason::Stop);
  EXPECT_EQ(over.prompt_tokens, 3);
  EXPECT_EQ(over.output_tokens, 5);
  EXPECT_TRUE(agent->tokens[2].empty());

  for (const std::string wrong : {"abc", "abbbxx"}) {
    agent->send(resumed(3, wrong));
    const auto rejected = agent->expect<frame::Rejected>();
    EXPECT_EQ(rejected.code, frame::RejectCode::Invalid);
    const size_t at = wrong.size() - 1;
    const std::string message = "output[" + std::to_string(at) + "] is token " + std::to_string(wrong[at] - kFirst) +
                                ", which the grammar does not allow there";
    EXPECT_EQ(rejected.message, message);
  }
  frame::Submit control = resumed(4, "ab");
  control.output.push_back(kEnd - 1);
  agent->send(control);
  EXPECT_EQ(agent->expect<frame::Rejected>().id, 4u) << "a control token is no text";
}

TEST_F(ServingGrammars, WhatCannotBeCompiledIsRejectedInTheCompilersWords) {
  start();
  agent->send(characters());
  agent->send(request(1, frame::GrammarKind::JsonSchema, R"({"type":"string","minLength":3,"maxLength":1})"));
  const auto rejected = agent->expect<frame::Rejected>();
  EXPECT_EQ(rejected.id, 1u);
  EXPECT_EQ(rejected.code, frame::RejectCode::Invalid);
  EXPECT_EQ(rejected.message.rfind("grammar: ", 0), 0u) << rejected.message;
  agent->send(request(2, frame::GrammarKind::Regex, std::string(kGrammarBytesMax + 1, 'a')));
  EXPECT_EQ(agent->expect<frame::Rejected>().id, 2u);
}

TEST_F(ServingGrammars, AGrammarThatTakesLongHoldsUpNobodyAndCanBeGivenUp) {
  start();
  agent->send(characters());
  frame::Submit late = request(1, frame::GrammarKind::JsonSchema, slow_schema());
  late.deadline_ms = 30;
  agent->send(late);
  frame::Submit given_up = request(2, frame::GrammarKind::JsonSchema, slow_schema());
  given_up.output = {'{' - kFirst, '"' - kFirst};
  agent->send(given_up);
  frame::Submit plain = request(3, frame::GrammarKind::Regex, "");
  plain.grammar.reset();
  plain.max_new_tokens = 10;
  agent->send(plain);
  EXPECT_EQ(agent->finish_of(3).reason, FinishReason::Length);
  EXPECT_FALSE(agent->finished.contains(2));
  agent->send(frame::Cancel{2});
  const Finished cancelled = agent->finish_of(2);
  EXPECT_EQ(cancelled.reason, FinishReason::Cancelled);
  EXPECT_EQ(cancelled.prompt_tokens, 3);
  EXPECT_EQ(cancelled.output_tokens, 2) << "those of its earlier life";
  EXPECT_EQ(agent->finish_of(1).reason, FinishReason::Deadline);
}

}  // namespace
}  // namespace penstock
