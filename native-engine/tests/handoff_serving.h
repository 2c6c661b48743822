// Two serving engines, one that computes prompts (P) and one that decodes (D), and the agent of each, for tests.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "serve_engine.h"

namespace penstock::testing {

inline constexpr int32_t kVocab = 97;
inline constexpr int32_t kContext = 256;
inline constexpr int32_t kStepTokens = 32;

inline std::unique_ptr<FakeRunner> fake_runner(int32_t blocks) {
  return std::make_unique<FakeRunner>(blocks, kContext, kVocab, kStepTokens);
}

inline std::vector<uint32_t> prompt_of(uint64_t which, size_t tokens) {
  std::vector<uint32_t> prompt;
  for (size_t i = 0; i < tokens; ++i) prompt.push_back(static_cast<uint32_t>((which * 17 + i * 3 + i * i) % kVocab));
  return prompt;
}

inline frame::Submit submit_frame(uint64_t id, const std::vector<uint32_t>& prompt, uint32_t max_new_tokens,
                           uint64_t reservation = 0) {
  frame::Submit submit;
  submit.id = id;
  submit.prompt = prompt;
  submit.max_new_tokens = max_new_tokens;
  submit.credit_tokens = 1'000'000;
  submit.reservation = reservation;
  return submit;
}

// The first tokens of sequences like this one, for each seed.
inline frame::Draw draw_of(const frame::Submit& submit, std::vector<uint64_t> seeds) {
  frame::Draw draw;
  static_cast<frame::Sampling&>(draw) = submit;
  draw.prompt_tokens = static_cast<uint32_t>(submit.prompt.size());
  draw.seeds = std::move(seeds);
  return draw;
}

inline std::vector<uint32_t> known_tokens(const frame::Submit& submit) {
  std::vector<uint32_t> tokens = submit.prompt;
  tokens.insert(tokens.end(), submit.output.begin(), submit.output.end());
  return tokens;
}

inline std::vector<int32_t> alone(const std::vector<uint32_t>& prompt, size_t count) {
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  while (tokens.size() < prompt.size() + count) tokens.push_back(fake_next_token(tokens, kVocab));
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt.size()), tokens.end()};
}

inline bool holds_nothing(const frame::Stats& stats) { return stats.blocks_used == 0 && stats.running == 0 && stats.waiting == 0; }

class HandoffServing : public ::testing::Test {
 protected:
  void SetUp() override { set_log_level(LogLevel::Error); }
  void TearDown() override {
    if (decode) decode->end();
    if (prefill) prefill->end();
  }

  void start(const std::string& listen = "", ServerConfig config = {.sequences_max = 4, .step_tokens_max = kStepTokens},
             int32_t blocks = 64, const std::string& fingerprint = "fake/1") {
    config.epoch = 1;
    config.kv_layers_at_a_time = layers_at_a_time;
    auto runner = fake_runner(blocks);
    runner->set_fingerprint(fingerprint);
    prefill = std::make_unique<Engine>(std::move(runner), config, folder / "p.sock");
    config.epoch = 2;
    config.kv_listen = listen.empty() ? "unix:" + (folder / "kv.sock") : listen;
    decode = std::make_unique<Engine>(fake_runner(blocks), config, folder / "d.sock");
    connect();
  }
  void connect() {
    p = std::make_unique<Client>(prefill->path());
    d = std::make_unique<Client>(decode->path());
    EXPECT_EQ(p->hello().kv_address, "");
    address = d->hello().kv_address;
  }
  frame::Reserved reserve(uint64_t id, const std::vector<uint32_t>& prompt, uint32_t lease_ms = 60'000) {
    d->send(reserve_frame(id, prompt, lease_ms));
    return d->expect<frame::Reserved>();
  }
  // P's next step waits in the middle of `prompt`, of which two blocks are handed over by then, and some layers of two more.
  // The lease ends soon, so that D lets go also where P stops before D has heard of it.
  frame::Reserved hold_halfway(const std::vector<uint32_t>& prompt, uint32_t lease_ms = 3'000) {
    const frame::Reserved reserved = reserve(7, prompt, lease_ms);
    prefill->fake().hold(1, layers_held);
    p->send(push_frame(1, prompt, reserved, address));
    prefill->fake().wait_until_held();
    return reserved;
  }
  // D computes what it lacks, and it is what one engine alone says.
  void expect_right_answer(const std::vector<uint32_t>& prompt, uint64_t reservation = 0, uint64_t id = 50) {
    d->send(submit_frame(id, prompt, 12, reservation));
    cached_tokens = d->expect<frame::Admitted>().cached_tokens;
    EXPECT_EQ(d->finish_of(id).reason, FinishReason::Length);
    EXPECT_EQ(d->tokens[id], alone(prompt, 12));
  }
  void expect_nothing_held() {
    d->settled(holds_nothing);
    p->settled(holds_nothing);
  }

  TempFolder folder;
  std::unique_ptr<Engine> prefill, decode;
  std::unique_ptr<Client> p, d;
  std::string address;
  uint32_t cached_tokens = 0;  // of the last right answer
  int32_t layers_at_a_time = 1;  // by their size, those of the fake model would all go at once
  int32_t layers_held = 0;     // that P's step has told when it is held halfway
};

}  // namespace penstock::testing
