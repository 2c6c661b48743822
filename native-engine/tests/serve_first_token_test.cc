// First tokens that the engine which computes a prompt (P) draws for the one that decodes (D). Goal: D says exactly what one engine
// alone says, tokens, probabilities, reason and counts, whether the token arrived or not; and where it did, without a step of its own.
#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <numeric>
#include <tuple>

#include "grammar/matcher.h"
#include "handoff_serving.h"
#include "kv/checksum.h"
#include "kv/sender.h"
#include "serve/first_tokens.h"
#include "serve/submit.h"

namespace penstock {
namespace {

using namespace penstock::testing;

using Seen = std::tuple<uint32_t, uint32_t, std::vector<std::pair<int32_t, uint32_t>>>;

std::vector<Seen> seen_of(const std::vector<frame::Token>& tokens) {
  std::vector<Seen> seen;
  for (const frame::Token& token : tokens) {
    std::vector<std::pair<int32_t, uint32_t>> top;
    for (const TokenLogprob& each : token.top) top.emplace_back(each.token, std::bit_cast<uint32_t>(each.logprob));
    seen.emplace_back(token.token, std::bit_cast<uint32_t>(token.logprob), std::move(top));
  }
  return seen;
}

class FirstToken : public HandoffServing {
 protected:
  void SetUp() override {
    HandoffServing::SetUp();
    start();
    ServerConfig config{.sequences_max = 4, .step_tokens_max = kStepTokens};
    one_ = std::make_unique<Engine>(fake_runner(64), config, folder / "one.sock");
    one = std::make_unique<Client>(one_->path());
    one->hello();
  }
  void TearDown() override {
    expect_nothing_held();
    HandoffServing::TearDown();
    one_->end();
  }
  // Everything that `submit` begins with is computed by P, and a token drawn for each seed.
  void hand_over(uint64_t id, const frame::Submit& submit, std::vector<uint64_t> seeds) {
    frame::Push push = push_frame(id, known_tokens(submit), reserve(id, known_tokens(submit)), address);
    push.draw = draw_of(submit, std::move(seeds));
    p->send(push);
    EXPECT_TRUE(d->expect<frame::Transferred>().complete);
    const Finished pushed = p->finish_of(id);
    EXPECT_EQ(pushed.reason, FinishReason::Stop);
    EXPECT_EQ(pushed.output_tokens, 0);
  }
  // The same by a sender of its own, which says what it likes with the end. Of whole blocks, fewer than eight.
  void hand_over_saying(const frame::Submit& submit, TransferNote note) {
    const frame::Reserved reserved = reserve(submit.id, submit.prompt);
    FakeRunner source(8, kContext, kVocab, kStepTokens);
    const std::vector<int32_t> tokens(submit.prompt.begin(), submit.prompt.end());
    std::vector<int32_t> blocks(tokens.size() / kBlockTokens);
    std::iota(blocks.begin(), blocks.end(), 0);
    for (const int32_t block : blocks) source.write_block(block, tokens, block);
    Checksum content;
    content.update(std::as_bytes(std::span(&reserved.cached_blocks, 1)));
    content.update(std::as_bytes(std::span(tokens)));
    KvSender sender(source.kv(), source.info().kv_fingerprint, [](uint64_t, bool, const std::string&) {});
    sender.begin({1, address, reserved.grant, content.value(), static_cast<uint32_t>(blocks.size())});
    sender.extend(1, blocks);
    sender.finish(1, std::move(note));
    EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  }
  static TransferNote note_saying(const frame::Submit& submit, const Sampled& sampled) {
    const std::vector<int32_t> prompt(submit.prompt.begin(), submit.prompt.end());
    const penstock::FirstToken first{draw_key(sampling_of(submit, 0, kVocab), submit.seed, submit.grammar, prompt, {}), sampled};
    return note_of(std::span(&first, 1));
  }
  // D's first step waits: whatever is said before comes from P.
  void expect_first_without_a_step(const frame::Submit& submit) {
    decode->fake().hold();
    d->send(submit);
    const size_t before = d->details[submit.id].size();
    while (d->details[submit.id].size() == before && !d->finished.contains(submit.id)) {
      const auto frame = d->receive();
      if (!frame.has_value()) throw std::runtime_error("D is gone");
      d->note(*frame);
      if (const auto* admitted = std::get_if<frame::Admitted>(&*frame)) admitted_early[admitted->id] = *admitted;
    }
    decode->fake().go();
  }
  void expect_as_alone(frame::Submit submit) {
    d->finish_of(submit.id);
    submit.reservation = 0;
    one->send(submit);
    const Finished right = one->finish_of(submit.id), got = d->finish_of(submit.id);
    EXPECT_EQ(seen_of(d->details[submit.id]), seen_of(one->details[submit.id]));
    EXPECT_EQ(got.reason, right.reason);
    EXPECT_EQ(got.prompt_tokens, right.prompt_tokens);
    EXPECT_EQ(got.output_tokens, right.output_tokens);
  }
  frame::Submit request(uint64_t id, size_t prompt_tokens, uint32_t max_new_tokens = 6) const {
    return submit_frame(id, prompt_of(id, prompt_tokens), max_new_tokens, id);
  }
  frame::Admitted admitted(uint64_t id) {
    while (!admitted_early.contains(id)) {
      const auto frame = d->expect<frame::Admitted>();
      admitted_early[frame.id] = frame;
    }
    return admitted_early.at(id);
  }
  static int32_t greedy_first(const frame::Submit& submit) { return alone(known_tokens(submit), 1)[0]; }

  std::unique_ptr<Engine> one_;
  std::unique_ptr<Client> one;
  std::map<uint64_t, frame::Admitted> admitted_early;
};

TEST_F(FirstToken, IsSaidWithoutAStepAndTheSecondCostsOneRow) {
  for (const size_t tokens : {100u, 96u, 17u, 16u}) {
    const frame::Submit submit = request(tokens, tokens);
    hand_over(submit.id, submit, {0});
    expect_first_without_a_step(submit);
    EXPECT_EQ(admitted(submit.id).cached_tokens, tokens) << "all that is left is the first token's own row";
    expect_as_alone(submit);
  }
}

TEST_F(FirstToken, IsTheOneThatDWouldHaveDrawn) {
  using Change = std::function<void(frame::Submit&)>;
  const std::vector<Change> changes = {
      [](frame::Submit&) {},
      [](frame::Submit& s) { s.temperature = 8.0f; },
      [](frame::Submit& s) { s.temperature = 8.0f, s.top_k = 40, s.top_p = 0.9f, s.min_p = 0.01f; },
      [](frame::Submit& s) { s.logprobs_top = 5; },
      [](frame::Submit& s) { s.temperature = 8.0f, s.logprobs_top = 20; },
      // Greedy but for the penalty, which is large enough to change the token where the prompt has it.
      [](frame::Submit& s) { s.prompt[3] = static_cast<uint32_t>(greedy_first(s)), s.repetition_penalty = 100.0f; },
      [](frame::Submit& s) { s.temperature = 8.0f, s.repetition_penalty = 3.0f, s.presence_penalty = 2.0f; },
      [](frame::Submit& s) { s.bias = {{static_cast<uint32_t>(greedy_first(s)), -1000.0f}}, s.logprobs_top = 1; },
      [](frame::Submit& s) { s.max_new_tokens = 1; },
      [](frame::Submit& s) { s.stop_ids = {static_cast<uint32_t>(greedy_first(s))}; },
      [](frame::Submit& s) { s.stop_ids = {1, static_cast<uint32_t>(greedy_first(s))}, s.max_new_tokens = 1; },
      // Of an earlier life: its draws and penalties go on.
      [](frame::Submit& s) {
        s.output = {5, 6, 7}, s.max_new_tokens = 9, s.temperature = 8.0f, s.frequency_penalty = 5.0f;
      },
      [](frame::Submit& s) { s.output = {5, 6, 7}, s.max_new_tokens = 4; },
  };
  uint64_t id = 100;
  for (size_t which = 0; which < changes.size(); ++which) {
    for (const size_t tokens : {100u, 64u}) {
      SCOPED_TRACE("change " + std::to_string(which) + " of " + std::to_string(tokens));
      frame::Submit submit = request(++id, tokens);
      submit.seed = id * 77;
      changes[which](submit);
      hand_over(submit.id, submit, {submit.seed});
      expect_first_without_a_step(submit);
      expect_as_alone(submit);
    }
  }
}

TEST_F(FirstToken, IsThereForEachChoiceFromItsOwnSeedInWhateverOrderTheyCome) {
  frame::Submit submit = request(1, 100);
  submit.temperature = 8.0f;
  submit.logprobs_top = 2;
  hand_over(1, submit, {11, 12, 13, 12});
  std::vector<frame::Submit> choices;
  for (const uint64_t seed : {13u, 12u, 11u, 12u}) {
    frame::Submit choice = submit;
    choice.id = 20 + choices.size();
    choice.seed = seed;
    // The first one takes the blocks over; the tokens of the others stay.
    expect_first_without_a_step(choice);
    expect_as_alone(choice);
    choices.push_back(choice);
  }
}

TEST_F(FirstToken, IsForNobodyWhoWouldDrawAnother) {
  frame::Submit submit = request(1, 100);
  submit.temperature = 8.0f;
  submit.seed = 5;
  using Change = std::function<void(frame::Submit&)>;
  const std::vector<Change> changes = {
      [](frame::Submit& s) { s.seed = 6; },
      [](frame::Submit& s) { s.temperature = 7.0f; },
      [](frame::Submit& s) { s.logprobs_top = 0; },
      [](frame::Submit& s) { s.bias = {{3, 1.0f}}; },
      [](frame::Submit& s) { s.prompt.pop_back(); },
      [](frame::Submit& s) { s.output = {s.prompt.back()}, s.prompt.pop_back(); },
      [](frame::Submit& s) { s.credit_tokens = 0; },
      [](frame::Submit& s) { s.reservation = 0; },
  };
  uint64_t id = 100;
  for (const Change& change : changes) {
    SCOPED_TRACE(id);
    submit.prompt = prompt_of(++id, 100);
    hand_over(id, submit, {5});
    frame::Submit other = submit;
    other.id = other.reservation = id;
    change(other);
    const bool lent = other.prompt.size() + other.output.size() == 100 && other.reservation != 0;
    d->send(other);
    if (other.credit_tokens == 0) d->send(frame::Credit{other.id, 1000});
    EXPECT_EQ(d->expect<frame::Admitted>().cached_tokens, lent ? 99u : 96u) << "a token is computed";
    other.credit_tokens = 1000;
    expect_as_alone(other);
    d->send(frame::Release{id});
  }
}

TEST_F(FirstToken, IsGoneWithWhoeverItWasFor) {
  const frame::Submit submit = request(1, 100);
  // Released before anybody came for it; the number and the prompt come again.
  hand_over(1, submit, {0});
  d->send(frame::Release{1});
  d->send(submit);
  EXPECT_EQ(admitted(1).cached_tokens, 96u);
  expect_as_alone(submit);
  // Its sequence waits for room, has said its token, and is cancelled.
  decode->fake().hold();
  std::vector<frame::Submit> company;
  for (uint64_t id = 30; id < 34; ++id) d->send(submit_frame(id, prompt_of(id, 20), 30));
  decode->fake().wait_until_held();
  decode->fake().go();
  const frame::Submit waiting = request(2, 100);
  hand_over(2, waiting, {0});
  d->send(waiting);
  while (d->details[2].empty()) d->expect<frame::Tokens>();
  d->send(frame::Cancel{2});
  const Finished cancelled = d->finish_of(2);
  if (cancelled.reason == FinishReason::Cancelled) {
    EXPECT_GE(cancelled.output_tokens, 1);
  }
  for (uint64_t id = 30; id < 34; ++id) d->finish_of(id);
  // Its agent is gone, and the next one begins its numbers anew.
  hand_over(3, request(3, 100), {0});
  d->hang_up();
  d = std::make_unique<Client>(decode->path());
  d->hello();
  d->settled(holds_nothing);
  const frame::Submit again = request(3, 100);
  d->send(again);
  EXPECT_EQ(d->expect<frame::Admitted>().cached_tokens, 96u) << "the blocks are everybody's, the token nobody's";
  expect_as_alone(again);
}

TEST_F(FirstToken, IsNotDrawnFromWhatIsNoNumberAndDFindsOut) {
  const frame::Submit submit = request(1, 100);
  prefill->fake().spoil_prompts_with(static_cast<int32_t>(submit.prompt[0]));
  hand_over(1, submit, {0});
  d->send(submit);
  EXPECT_EQ(d->expect<frame::Admitted>().cached_tokens, 99u);
  expect_as_alone(submit);
}

// --- Peers that are not well

TEST_F(FirstToken, OfAPeerThatSaysNoDrawIsNotSaid) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  frame::Submit submit = request(1, 96);
  submit.logprobs_top = 2;
  const std::vector<Sampled> lies = {
      {kVocab, -1, {}}, {-1, -1, {}}, {INT32_MIN, -1, {}}, {5, nan, {}}, {5, infinity, {}},
      {5, -1, {{kVocab, -1}}}, {5, -1, {{-1, -1}}}, {5, -1, {{5, nan}}}, {5, -1, {{5, -1}, {6, infinity}}},
      {5, -1, {{5, -1}, {6, -2}, {7, -3}}},
  };
  std::vector<TransferNote> notes = {TransferNote(1), TransferNote(19, std::byte{0xff}), TransferNote(20, std::byte{0xff}),
                                     TransferNote(60'000, std::byte{7})};
  uint64_t id = 1;
  for (size_t which = 0; which < lies.size() + notes.size(); ++which) {
    SCOPED_TRACE(which);
    submit.prompt = prompt_of(submit.id = submit.reservation = ++id, 96);
    hand_over_saying(submit, which < lies.size() ? note_saying(submit, lies[which]) : notes[which - lies.size()]);
    d->send(submit);
    expect_as_alone(submit);
  }
  // Such a peer's word counts where it is one.
  submit.prompt = prompt_of(submit.id = submit.reservation = ++id, 96);
  hand_over_saying(submit, note_saying(submit, {5, -infinity, {{5, -infinity}}}));
  expect_first_without_a_step(submit);
  EXPECT_EQ(d->tokens[id][0], 5);
  d->finish_of(id);
}

TEST_F(FirstToken, ComesWithWhatPHadInItsCacheAlready) {
  frame::Submit submit = request(1, 96);
  p->send(submit_frame(9, submit.prompt, 1));
  p->finish_of(9);
  hand_over(1, submit, {0});
  EXPECT_EQ(p->finish_of(1).cached_tokens, 80) << "its last row is computed again";
  expect_first_without_a_step(submit);
  expect_as_alone(submit);
}

// --- Grammars

constexpr uint32_t kEnd = 96;

frame::Vocabulary characters() {
  frame::Vocabulary vocabulary;
  for (int32_t id = 0; id < 95; ++id) vocabulary.tokens.push_back({false, {static_cast<uint8_t>(' ' + id)}});
  for (const std::string name : {"<|im_start|>", "<|im_end|>"})
    vocabulary.tokens.push_back({true, {name.begin(), name.end()}});
  vocabulary.end_ids = {kEnd};
  return vocabulary;
}

TEST_F(FirstToken, IsOneThatTheGrammarAllowsAndMovesItOn) {
  if (!grammars_available()) GTEST_SKIP() << "built without grammars";
  for (Client* client : {p.get(), d.get(), one.get()}) client->send(characters());
  uint64_t id = 1;
  // One of a few words; nothing but one letter; nothing at all, so that the first token ends it.
  for (const std::string text : {"(yes|no|maybe)[a-z]*", "[a-c]", "a?", ""}) {
    for (const uint64_t seed : {1u, 2u, 3u}) {
      SCOPED_TRACE("grammar " + text + " with " + std::to_string(seed));
      frame::Submit submit = request(++id, 100, 12);
      submit.temperature = 8.0f;
      submit.seed = seed;
      submit.stop_ids = {kEnd};
      submit.grammar = frame::Grammar{frame::GrammarKind::Regex, text};
      hand_over(id, submit, {seed});
      expect_first_without_a_step(submit);
      expect_as_alone(submit);
    }
  }
}

// Nor of a build without grammars, which this one may be.
TEST_F(FirstToken, OfAPThatHasNoVocabularyIsNotDrawnUnderAGrammarAndTheBlocksArriveAllTheSame) {
  frame::Submit submit = request(1, 100);
  submit.grammar = frame::Grammar{frame::GrammarKind::Regex, "[a-c]"};
  hand_over(1, submit, {0});
  submit.grammar.reset();
  d->send(submit);
  EXPECT_EQ(d->expect<frame::Admitted>().cached_tokens, 99u) << "a token is computed";
  expect_as_alone(submit);
}

TEST_F(FirstToken, OfAGrammarThatCannotBeCompiledIsNotDrawnAndDSaysWhy) {
  if (!grammars_available()) GTEST_SKIP() << "built without grammars";
  for (Client* client : {p.get(), d.get()}) client->send(characters());
  frame::Submit submit = request(1, 100);
  submit.grammar = frame::Grammar{frame::GrammarKind::Regex, "[a-"};
  hand_over(1, submit, {0});
  d->send(submit);
  EXPECT_EQ(d->expect<frame::Rejected>().code, frame::RejectCode::Invalid);
  d->send(frame::Release{1});
  // Cancelled before it is known.
  submit.grammar->text = "[a-z]+";
  frame::Push push = push_frame(2, submit.prompt, reserve(2, prompt_of(2, 100)), address);
  push.tokens = prompt_of(2, 100);
  push.draw = draw_of(submit, {0});
  p->send(push);
  p->send(frame::Cancel{2});
  const Finished cancelled = p->finish_of(2);
  EXPECT_TRUE(cancelled.reason == FinishReason::Cancelled || cancelled.reason == FinishReason::Stop);
  d->send(frame::Release{2});
}

}  // namespace
}  // namespace penstock
