// Validation of SUBMIT, field by field. See submit.h.
#include "serve/submit.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "grammar/matcher.h"

namespace penstock {
namespace {

// Far wider than any dialect above allows, and narrow enough that no arithmetic on a logit overflows.
constexpr float kTemperatureMax = 100.0f;
constexpr float kRepetitionPenaltyMin = 0.01f;  // logits are divided by it; a smaller one leaves no finite float
constexpr float kRepetitionPenaltyMax = 100.0f;
constexpr float kPenaltyAbsMax = 100.0f;
constexpr float kBiasAbsMax = 1000.0f;
// Each sampled token is compared with each stop id, and each biased logit is touched once per token.
constexpr size_t kStopIdsMax = 256;
constexpr size_t kBiasMax = 4096;
// What the OpenAI dialect allows; bounds the size of TOKENS.
constexpr uint8_t kLogprobsTopMax = 20;
// Choices of one prompt, far above what any dialect allows.
constexpr size_t kDrawsMax = 256;

class Check {
 public:
  explicit Check(int32_t vocab_size) : vocab_size_(static_cast<uint32_t>(vocab_size)) {}

  void require(bool valid, const std::string& message) {
    if (!valid && !error_.has_value()) error_ = message;
  }
  void range(const char* field, float value, float low, float high) {
    require(value >= low && value <= high, std::string(field) + " must be from " + shown(low) + " to " + shown(high));
  }
  void ids(const char* field, const std::vector<uint32_t>& ids) {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= vocab_size_) return id(std::string(field) + "[" + std::to_string(i) + "]", ids[i]);
    }
  }
  void id(const std::string& field, uint32_t value) {
    require(value < vocab_size_,
            field + " is " + std::to_string(value) + ", the vocabulary has " + std::to_string(vocab_size_) + " tokens");
  }
  const std::optional<std::string>& error() const { return error_; }

 private:
  static std::string shown(float value) {
    std::string text = std::to_string(value);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.ends_with('.')) text.pop_back();
    return text;
  }
  uint32_t vocab_size_;
  std::optional<std::string> error_;  // the first one
};

int32_t clamp_to_int32(uint32_t value) {
  return static_cast<int32_t>(std::min<uint32_t>(value, std::numeric_limits<int32_t>::max()));
}

void check_sampling(Check& check, const frame::Sampling& asked, const SubmitLimits& limits) {
  check.range("temperature", asked.temperature, 0.0f, kTemperatureMax);
  check.require(asked.top_p > 0.0f && asked.top_p <= 1.0f, "top_p must be above 0 and at most 1");
  check.range("min_p", asked.min_p, 0.0f, 1.0f);
  check.range("repetition_penalty", asked.repetition_penalty, kRepetitionPenaltyMin, kRepetitionPenaltyMax);
  check.range("presence_penalty", asked.presence_penalty, -kPenaltyAbsMax, kPenaltyAbsMax);
  check.range("frequency_penalty", asked.frequency_penalty, -kPenaltyAbsMax, kPenaltyAbsMax);
  check.require(asked.logprobs_top.value_or(0) <= kLogprobsTopMax, "logprobs must ask for at most 20 alternatives");
  check.require(asked.bias.size() <= kBiasMax, "bias must have at most " + std::to_string(kBiasMax) + " items");
  for (const frame::Bias& bias : asked.bias) {
    check.id("bias.id", bias.id);
    check.range("bias.bias", bias.bias, -kBiasAbsMax, kBiasAbsMax);
  }
  if (!asked.grammar.has_value()) return;
  check.require(limits.grammars, "grammar: this engine was built without grammars");
  check.require(asked.grammar->text.size() <= kGrammarBytesMax,
                "grammar: at most " + std::to_string(kGrammarBytesMax) + " bytes are allowed, it has " +
                    std::to_string(asked.grammar->text.size()));
}

std::vector<int32_t> signed_ids(const std::vector<uint32_t>& ids) { return {ids.begin(), ids.end()}; }

}  // namespace

std::variant<Request, frame::Rejected> check_submit(const frame::Submit& submit, const SubmitLimits& limits,
                                                    int64_t now_ms) {
  Check check(limits.vocab_size);
  check.require(!submit.prompt.empty(), "prompt must have at least one token");
  check.ids("prompt", submit.prompt);
  check.require(submit.max_new_tokens >= 1 || submit.pooling != Pooling::none, "max_new_tokens must be at least 1");
  check.ids("output", submit.output);
  check.require(submit.output.empty() || submit.pooling == Pooling::none, "output: an embedding has none");
  check.require(submit.output.empty() || submit.output.size() < submit.max_new_tokens,
                "output has " + std::to_string(submit.output.size()) + " tokens, max_new_tokens allows no more than " +
                    std::to_string(submit.max_new_tokens));
  check_sampling(check, submit, limits);
  check.require(submit.stop_ids.size() <= kStopIdsMax,
                "stop_ids must have at most " + std::to_string(kStopIdsMax) + " items");
  check.ids("stop_ids", submit.stop_ids);
  check.require(!submit.grammar.has_value() || submit.pooling == Pooling::none, "grammar: an embedding has no output");
  if (check.error().has_value()) return frame::Rejected{submit.id, frame::RejectCode::Invalid, *check.error()};
  if (submit.prompt.size() + submit.output.size() >= static_cast<size_t>(limits.context_tokens)) {
    const std::string what = submit.output.empty() ? "prompt has " : "prompt and output have ";
    return frame::Rejected{submit.id, frame::RejectCode::TooLong,
                           what + std::to_string(submit.prompt.size() + submit.output.size()) +
                               " tokens, the context holds " + std::to_string(limits.context_tokens) +
                               " with the output"};
  }

  Request request;
  request.id = submit.id;
  request.prompt = signed_ids(submit.prompt);
  request.output = signed_ids(submit.output);
  request.max_new_tokens = clamp_to_int32(std::max<uint32_t>(submit.max_new_tokens, 1));
  request.credit_tokens = submit.credit_tokens;
  request.stop_ids = signed_ids(submit.stop_ids);
  request.priority = submit.priority;
  if (submit.deadline_ms.has_value()) request.deadline_ms = now_ms + *submit.deadline_ms;
  request.tenant = submit.tenant;
  request.salt = submit.salt;
  request.pooling = submit.pooling;
  request.sampling = sampling_of(submit, submit.seed, limits.vocab_size);
  return request;
}

std::optional<std::string> draw_error(const frame::Push& push, const SubmitLimits& limits) {
  Check check(limits.vocab_size);
  const frame::Draw& draw = *push.draw;
  check.require(draw.prompt_tokens >= 1 && draw.prompt_tokens <= push.tokens.size(), "prompt_tokens are not all pushed");
  check.require(!draw.seeds.empty() && draw.seeds.size() <= kDrawsMax,
                "seeds must be from 1 to " + std::to_string(kDrawsMax));
  check_sampling(check, draw, limits);
  return check.error();
}

SamplingParams sampling_of(const frame::Sampling& asked, uint64_t seed, int32_t vocab_size) {
  SamplingParams sampling;
  sampling.temperature = asked.temperature;
  sampling.top_p = asked.top_p;
  sampling.top_k = std::min(clamp_to_int32(asked.top_k), vocab_size);
  sampling.min_p = asked.min_p;
  sampling.repetition_penalty = asked.repetition_penalty;
  sampling.presence_penalty = asked.presence_penalty;
  sampling.frequency_penalty = asked.frequency_penalty;
  sampling.seed = seed;
  sampling.logprobs_top = asked.logprobs_top.has_value() ? *asked.logprobs_top : -1;
  for (const frame::Bias& bias : asked.bias) sampling.bias.emplace_back(static_cast<int32_t>(bias.id), bias.bias);
  return sampling;
}

}  // namespace penstock
