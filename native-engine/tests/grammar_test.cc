// Grammars end to end in the engine: whatever a model prefers, what is sampled under a mask is a text of the grammar,
// and what cannot be compiled is refused in words. Part of builds with grammars only.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <regex>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/compiler.h"
#include "grammar/mask_pool.h"
#include "grammar/matcher.h"
#include "model/json.h"
#include "model/sampler.h"

namespace penstock {
namespace {

// Every byte is a token, so that characters are split; some words are too; and three ids are not text.
constexpr int32_t kWords = 256;
constexpr int32_t kControl = 264;
constexpr int32_t kEnd = 265;
constexpr int32_t kOtherEnd = 266;
constexpr int32_t kVocab = 300;  // of the model: more rows than the vocabulary has tokens

std::vector<std::vector<uint8_t>> test_tokens() {
  std::vector<std::vector<uint8_t>> tokens;
  for (int byte = 0; byte < kWords; ++byte) tokens.push_back({static_cast<uint8_t>(byte)});
  for (const std::string word : {"{\"", "\":", "true", "name", "12", "\", \"", "é", "川"})
    tokens.emplace_back(word.begin(), word.end());
  tokens.resize(kOtherEnd + 1);  // without bytes
  return tokens;
}

const std::vector<uint32_t> kEndIds{kEnd, kOtherEnd};

std::shared_ptr<const GrammarVocabulary> vocabulary() {
  static const auto made = std::make_shared<const GrammarVocabulary>(test_tokens(), kEndIds);
  return made;
}

struct Written {
  std::string text;
  bool ended = false;  // by the grammar or an end token, not by the limit
};

// What a model with random preferences writes under the grammar.
Written write(const GrammarMatcher& compiled, uint32_t seed, int32_t tokens_max) {
  static const auto tokens = test_tokens();
  SequenceGrammar grammar(compiled, kVocab);
  std::mt19937 random(seed);
  std::normal_distribution<float> noise(0.0f, 2.0f);
  Sampler sampler;
  SamplingParams params;
  params.seed = seed;
  Written written;
  std::vector<int32_t> output;
  while (output.size() < static_cast<size_t>(tokens_max)) {
    std::vector<float> logits(kVocab);
    for (float& logit : logits) logit = noise(random);
    const std::span<const uint32_t> mask = grammar.mask();
    if (mask.empty()) throw GrammarError("no token is possible after '" + written.text + "'");
    const int32_t token = sampler.sample(logits, params, {}, output, mask).token;
    output.push_back(token);
    EXPECT_NE(token, kControl);
    const bool is_end = grammar.is_end(token);
    if (!is_end)
      written.text.append(tokens.at(static_cast<size_t>(token)).begin(), tokens.at(static_cast<size_t>(token)).end());
    const auto state = grammar.consume(token);
    EXPECT_NE(state, GrammarMatcher::State::failed) << grammar.error();
    written.ended = state == GrammarMatcher::State::complete;
    EXPECT_TRUE(written.ended || !is_end);
    if (state != GrammarMatcher::State::open) break;
  }
  return written;
}

std::string refusal(GrammarKind kind, const std::string& text) {
  try {
    const GrammarMatcher matcher(vocabulary(), kind, text);
  } catch (const GrammarError& error) {
    return error.what();
  }
  return "";
}

TEST(Grammar, WhateverIsSampledUnderASchemaIsJsonOfIt) {
  const GrammarMatcher matcher(vocabulary(), GrammarKind::JsonSchema, R"({
    "type": "object", "additionalProperties": false, "required": ["name", "kind", "tags", "size"],
    "properties": {
      "name": {"type": "string", "maxLength": 6},
      "kind": {"enum": ["river", "été", 7]},
      "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
      "size": {"type": "integer", "minimum": 3, "maximum": 120}
    }})");
  for (uint32_t seed = 1; seed <= 40; ++seed) {
    const Written written = write(matcher, seed, 2000);
    ASSERT_TRUE(written.ended) << written.text;
    JsonReader json("answer", std::as_bytes(std::span(written.text)));
    std::vector<std::string> keys;
    json.object([&](std::string_view key) {
      keys.emplace_back(key);
      if (key == "size") {
        const int64_t size = json.integer(3, 120);
        EXPECT_TRUE(size >= 3 && size <= 120);
      } else if (key == "tags") {
        int count = 0;
        json.array([&] { json.boolean(), ++count; });
        EXPECT_LE(count, 3);
      } else if (key == "kind" && json.kind() == JsonKind::number) {
        EXPECT_EQ(json.integer(0, 100), 7);
      } else if (key == "kind") {
        const std::string kind = json.string();
        EXPECT_TRUE(kind == "river" || kind == "été") << kind;
      } else {
        EXPECT_NE(json.string(), written.text);
      }
    });
    json.end();
    EXPECT_EQ(keys, (std::vector<std::string>{"name", "kind", "tags", "size"})) << written.text;
  }
}

TEST(Grammar, WhateverIsSampledUnderARegularExpressionMatchesIt) {
  const std::string pattern = "(GET|POST) /[a-z]{1,8}(\\?id=[0-9]{1,4})?";
  const GrammarMatcher matcher(vocabulary(), GrammarKind::Regex, pattern);
  for (uint32_t seed = 1; seed <= 40; ++seed) {
    const Written written = write(matcher, seed, 200);
    EXPECT_TRUE(written.ended);
    EXPECT_TRUE(std::regex_match(written.text, std::regex(pattern))) << written.text;
  }
}

TEST(Grammar, ARecursiveGrammarIsFollowedToAnyDepth) {
  const GrammarMatcher matcher(vocabulary(), GrammarKind::Lark, "start: item\nitem: \"(\" item* \")\"\n");
  int deepest = 0;
  for (uint32_t seed = 1; seed <= 40; ++seed) {
    const Written written = write(matcher, seed, 300);
    int depth = 0;
    for (const char character : written.text) {
      depth += character == '(' ? 1 : -1;
      ASSERT_GE(depth, 0) << written.text;
      deepest = std::max(deepest, depth);
    }
    EXPECT_EQ(depth == 0, written.ended) << written.text;
  }
  EXPECT_GT(deepest, 3);
}

TEST(Grammar, ACharacterSplitOverTokensIsWholeInTheText) {
  // 川 and é can come as one token or as their bytes; no byte alone is a text.
  const GrammarMatcher matcher(vocabulary(), GrammarKind::Lark, "start: /[川é]{4}/");
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    const Written written = write(matcher, seed, 100);
    ASSERT_TRUE(written.ended);
    std::string rest = written.text;
    for (const std::string character : {"川", "é"}) {
      for (size_t at; (at = rest.find(character)) != std::string::npos;) rest.erase(at, character.size());
    }
    EXPECT_EQ(rest, "") << written.text;
  }
}

TEST(Grammar, EndTokensAreAllowedExactlyWhereTheTextMayEnd) {
  SequenceGrammar grammar(GrammarMatcher(vocabulary(), GrammarKind::Regex, "ab?"), kVocab);
  const auto allows = [&](int32_t token) {
    const auto mask = grammar.mask();
    return !mask.empty() && (mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1u) != 0;
  };
  EXPECT_TRUE(allows('a'));
  EXPECT_FALSE(allows(kEnd));
  EXPECT_EQ(grammar.consume('a'), GrammarMatcher::State::open);
  EXPECT_TRUE(allows('b'));
  EXPECT_TRUE(allows(kEnd));
  EXPECT_TRUE(allows(kOtherEnd));
  EXPECT_FALSE(allows(kControl));
  EXPECT_EQ(grammar.consume(kOtherEnd), GrammarMatcher::State::complete);
}

TEST(Grammar, ATextAfterWhichNothingMayFollowIsCompleteAtOnce) {
  GrammarMatcher matcher(vocabulary(), GrammarKind::Regex, "ab");
  std::vector<uint32_t> mask(10);
  EXPECT_EQ(matcher.mask(mask), GrammarMatcher::State::open);
  EXPECT_EQ(matcher.consume('a'), GrammarMatcher::State::open);
  EXPECT_EQ(matcher.mask(mask), GrammarMatcher::State::open);
  EXPECT_EQ(matcher.consume('b'), GrammarMatcher::State::complete);
}

TEST(Grammar, ACopyGoesItsOwnWay) {
  GrammarMatcher first(vocabulary(), GrammarKind::Regex, "(ab|cd)");
  std::vector<uint32_t> mask(10);
  first.mask(mask);
  GrammarMatcher second = first;
  EXPECT_EQ(first.consume('a'), GrammarMatcher::State::open);
  EXPECT_EQ(second.consume('c'), GrammarMatcher::State::open);
  EXPECT_EQ(second.consume('d'), GrammarMatcher::State::complete);
  EXPECT_EQ(first.consume('b'), GrammarMatcher::State::complete);
}

TEST(Grammar, ATokenTheGrammarForbidsIsAFailureInWords) {
  GrammarMatcher matcher(vocabulary(), GrammarKind::Regex, "ab");
  EXPECT_EQ(matcher.consume('z'), GrammarMatcher::State::failed);
  EXPECT_NE(matcher.error(), "");
  std::vector<uint32_t> mask(10);
  EXPECT_EQ(matcher.mask(mask), GrammarMatcher::State::failed);
}

TEST(Grammar, WhatCannotBeCompiledIsRefusedInWords) {
  EXPECT_NE(refusal(GrammarKind::JsonSchema, "{").find("not JSON"), std::string::npos);
  EXPECT_NE(refusal(GrammarKind::JsonSchema, R"({"type":"string","minLength":5,"maxLength":2})"), "");
  EXPECT_NE(refusal(GrammarKind::JsonSchema, R"({"$ref":"https://example.com/schema"})"), "");
  EXPECT_NE(refusal(GrammarKind::JsonSchema, R"({"type":"number","multipleOf":-1,"not":{}})"), "");
  EXPECT_NE(refusal(GrammarKind::Regex, "(a"), "");
  EXPECT_NE(refusal(GrammarKind::Regex, "a(?=b)"), "");
  EXPECT_NE(refusal(GrammarKind::Lark, "start: missing"), "");
  EXPECT_NE(refusal(GrammarKind::Lark, ""), "");
  EXPECT_NE(refusal(GrammarKind::Lark, "\xff\xfe").find("UTF-8"), std::string::npos);
}

// A refusal or a compiled grammar, within the limits, and never a stack that overflows.
TEST(Grammar, HostileGrammarsAreBounded) {
  const auto nested = [](std::string_view start, std::string_view open, std::string_view inner, char close, int depth) {
    std::string all(start);
    for (int i = 0; i < depth; ++i) all += open;
    all += inner;
    all.append(static_cast<size_t>(depth), close);
    return all;
  };
  EXPECT_NE(refusal(GrammarKind::JsonSchema, std::string(kGrammarBytesMax + 1, ' ')).find("bytes"), std::string::npos);
  EXPECT_NO_THROW(write(GrammarMatcher(vocabulary(), GrammarKind::Regex, "(.*a.{14})(.*b.{14})"), 1, 50));
  refusal(GrammarKind::Regex, nested("", "(", "a", ')', 60'000));
  refusal(GrammarKind::Lark, nested("start: ", "(", "\"a\"", ')', 60'000));
  EXPECT_NE(refusal(GrammarKind::JsonSchema, nested("", R"({"items":)", "{}", '}', 20'000)), "");
  std::string lark = "start: r0\n";
  for (int i = 0; i < 30; ++i) {
    std::ostringstream rule;
    rule << "r" << i << ": r" << i + 1 << " r" << i + 1 << "\n";
    lark += rule.str();
  }
  lark += "r30: \"a\"\n";
  refusal(GrammarKind::Lark, lark);
  std::ostringstream schema;
  schema << R"({"type":"object","properties":{"p":{})";
  for (int i = 0; i < 1000; ++i) schema << ",\"p" << i << R"(":{"type":"string","maxLength":50})";
  schema << "}}";
  refusal(GrammarKind::JsonSchema, schema.str());
}

// --- The compiler's thread ---

class Compiling : public testing::Test {
 protected:
  std::vector<CompiledGrammar> wait_for(size_t count) {
    std::vector<CompiledGrammar> all, some;
    std::unique_lock lock(mutex_);
    while (all.size() < count) {
      if (!compiled_.wait_for(lock, std::chrono::seconds(60), [&] { return calls_ > 0; })) break;
      calls_ = 0;
      compiler_.take(some);
      for (CompiledGrammar& one : some) all.push_back(std::move(one));
    }
    return all;
  }

  std::mutex mutex_;
  std::condition_variable compiled_;
  int calls_ = 0;
  GrammarCompiler compiler_{kVocab, [this] {
                              std::lock_guard lock(mutex_);
                              ++calls_;
                              compiled_.notify_all();
                            }};
};

TEST_F(Compiling, OrdersAreAnsweredInTurnWithAMaskThatIsReady) {
  compiler_.set_vocabulary(test_tokens(), kEndIds);
  ASSERT_TRUE(compiler_.order({1, GrammarKind::Regex, "a|b", 0}));
  ASSERT_TRUE(compiler_.order({2, GrammarKind::Regex, "(", 0}));
  ASSERT_TRUE(compiler_.order({3, GrammarKind::Regex, "a|b", 0}));
  const auto answers = wait_for(3);
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[0].ticket, 1u);
  ASSERT_NE(answers[0].grammar, nullptr);
  EXPECT_EQ(answers[1].grammar, nullptr);
  EXPECT_NE(answers[1].error, "");
  // The third is a copy of the first: what one consumes the other does not.
  EXPECT_EQ(answers[0].grammar->consume('a'), GrammarMatcher::State::complete);
  EXPECT_FALSE(answers[2].grammar->mask().empty());
  EXPECT_EQ(answers[2].grammar->consume('b'), GrammarMatcher::State::complete);
}

TEST_F(Compiling, WithoutAVocabularyAnOrderIsRefused) {
  ASSERT_TRUE(compiler_.order({1, GrammarKind::Regex, "a", 0}));
  EXPECT_NE(wait_for(1).at(0).error.find("VOCABULARY"), std::string::npos);
  compiler_.set_vocabulary(test_tokens(), {});
  ASSERT_TRUE(compiler_.order({2, GrammarKind::Regex, "a", 0}));
  EXPECT_NE(wait_for(1).at(0).error.find("ends a generation"), std::string::npos);
}

TEST_F(Compiling, CancelledOrdersAreNotAnsweredAndTheQueueIsBounded) {
  compiler_.set_vocabulary(test_tokens(), kEndIds);
  size_t taken = 0;
  uint64_t ticket = 0;
  // Each of them takes a while, so that the queue fills.
  for (bool room = true; room && ticket < 2 * kCompilationsMax; taken += room ? 1 : 0) {
    std::ostringstream text;
    text << "[a-z]{1,400}x{" << ++ticket << "}";
    room = compiler_.order({ticket, GrammarKind::Regex, text.str(), 0});
  }
  EXPECT_GE(taken, kCompilationsMax);
  for (uint64_t one = 1; one < ticket; ++one) compiler_.cancel(one);
  ASSERT_TRUE(compiler_.order({1000, GrammarKind::Regex, "a", 0}));
  for (const CompiledGrammar& answer : wait_for(1)) EXPECT_EQ(answer.ticket, 1000u);
}

// Goal: what is replayed needs no masks to be judged as the masks would.
TEST(Grammar, ATokenMayBeConsumedExactlyWhereTheMaskAllowsItWhetherOrNotMasksWereMade) {
  const std::pair<GrammarKind, const char*> grammars[] = {
      {GrammarKind::Regex, "(ab|cd?|e[0-9]{1,3}x)*"},
      {GrammarKind::Lark, "start: \"[\" /[0-9]{1,9}/ (\",\" /[a-z]{1,4}/)* \"]\""},
      {GrammarKind::JsonSchema, R"({"type":"object","properties":{"a":{"type":"array","items":{"type":"string"}}}})"},
  };
  std::mt19937 random(1);
  for (const auto& [kind, text] : grammars) {
    SCOPED_TRACE(text);
    const GrammarMatcher compiled(vocabulary(), kind, text);
    for (int walk = 0; walk < 3; ++walk) {
      GrammarMatcher at(compiled);
      std::vector<int32_t> tokens;
      std::vector<uint32_t> mask((kVocab + 31) / 32);
      for (int length = 0; length < 12; ++length) {
        if (at.mask(mask) != GrammarMatcher::State::open) break;
        std::vector<int32_t> allowed;
        SequenceGrammar so_far(compiled, kVocab);
        size_t index = 0;
        ASSERT_EQ(so_far.replay(tokens, index), GrammarMatcher::State::open);
        ASSERT_EQ(index, tokens.size());
        so_far.prepare();
        const auto again = so_far.mask();
        ASSERT_TRUE(std::equal(mask.begin(), mask.end(), again.begin(), again.end()));
        for (int32_t token = -1; token <= kVocab; ++token) {
          const bool in_mask = token >= 0 && token < kVocab && (mask[static_cast<size_t>(token / 32)] >> (token % 32) & 1u) != 0;
          tokens.push_back(token);
          SequenceGrammar next(compiled, kVocab);
          EXPECT_EQ(next.replay(tokens, index) != GrammarMatcher::State::failed, in_mask) << token;
          if (!in_mask) {
            EXPECT_EQ(index, tokens.size() - 1);
          }
          tokens.pop_back();
          if (in_mask) allowed.push_back(token);
        }
        tokens.push_back(allowed[random() % allowed.size()]);
        if (at.consume(tokens.back()) != GrammarMatcher::State::open) {
          SequenceGrammar over(compiled, kVocab);
          EXPECT_EQ(over.replay(tokens, index), GrammarMatcher::State::complete);
          tokens.push_back('a');
          SequenceGrammar behind(compiled, kVocab);
          EXPECT_EQ(behind.replay(tokens, index), GrammarMatcher::State::failed) << "nothing may follow";
          EXPECT_EQ(index, tokens.size() - 1);
          break;
        }
      }
    }
  }
}

TEST_F(Compiling, AnOrderWithOutputIsAnsweredWhereItsTextStands) {
  compiler_.set_vocabulary(test_tokens(), kEndIds);
  ASSERT_TRUE(compiler_.order({1, GrammarKind::Regex, "ab[cd]", 0, {'a', 'b'}}));
  ASSERT_TRUE(compiler_.order({2, GrammarKind::Regex, "ab[cd]", 0, {'a', 'b', 'd'}}));
  ASSERT_TRUE(compiler_.order({3, GrammarKind::Regex, "ab[cd]", 0, {'a', 'x', 'd'}}));
  ASSERT_TRUE(compiler_.order({4, GrammarKind::Regex, "ab[cd]", 0}));
  const auto answers = wait_for(4);
  ASSERT_NE(answers.at(0).grammar, nullptr);
  EXPECT_FALSE(answers[0].complete);
  const auto mask = answers[0].grammar->mask();
  EXPECT_EQ(mask['c' / 32] >> ('c' % 32) & 1u, 1u);
  EXPECT_EQ(mask['a' / 32] >> ('a' % 32) & 1u, 0u);
  EXPECT_TRUE(answers[1].complete);
  EXPECT_EQ(answers[1].grammar, nullptr);
  EXPECT_EQ(answers[2].not_allowed, 1u);
  EXPECT_EQ(answers[2].grammar, nullptr);
  EXPECT_EQ(answers[3].grammar->consume('a'), GrammarMatcher::State::open) << "the kept grammar has not moved";
}

TEST(Grammar, MasksOfManySequencesAreMadeOnAnyThread) {
  MaskPool pool(2, 8);
  const GrammarMatcher compiled(vocabulary(), GrammarKind::Regex, "[a-y]{0,200}z");
  std::vector<std::shared_ptr<SequenceGrammar>> grammars;
  for (int i = 0; i < 8; ++i) grammars.push_back(std::make_shared<SequenceGrammar>(compiled, kVocab));
  for (int step = 0; step < 100; ++step) {
    pool.begin(grammars);
    for (auto& grammar : grammars) {
      const auto mask = grammar->mask();
      ASSERT_FALSE(mask.empty());
      EXPECT_EQ(mask['a' / 32] >> ('a' % 32) & 1u, 1u);
      EXPECT_EQ(mask['A' / 32] >> ('A' % 32) & 1u, 0u);
      ASSERT_EQ(grammar->consume('a' + step % 20), GrammarMatcher::State::open);
    }
  }
  pool.begin(grammars);  // ends with work in the queue
}

}  // namespace
}  // namespace penstock
