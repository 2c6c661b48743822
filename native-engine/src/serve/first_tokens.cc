// Keys and notes. See first_tokens.h.
#include "serve/first_tokens.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "kv/checksum.h"
#include "kv/transfer_wire.h"

namespace penstock {
namespace {

// Counts changes of what is drawn from the same logits, by sampler or grammars: engines of two releases draw for themselves.
constexpr uint32_t kDrawVersion = 1;

template <typename Value>
void take_in(Checksum& sum, const Value& value) {
  sum.update(std::as_bytes(std::span(&value, 1)));
}

struct TokenHead {
  uint64_t key;
  uint32_t token;
  float logprob;
};
struct Alternative {
  uint32_t token;
  float logprob;
};
static_assert(sizeof(TokenHead) == 16 && sizeof(Alternative) == 8, "no padding on the wire");

template <typename Value>
bool read_from(std::span<const std::byte>& bytes, Value& value) {
  if (bytes.size() < sizeof value) return false;
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes = bytes.subspan(sizeof value);
  return true;
}

}  // namespace

uint64_t draw_key(const SamplingParams& sampling, uint64_t seed, const std::optional<frame::Grammar>& grammar,
                  std::span<const int32_t> prompt, std::span<const int32_t> output) {
  Checksum sum;
  take_in(sum, kDrawVersion);
  for (const float value : {sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty,
                            sampling.presence_penalty, sampling.frequency_penalty})
    take_in(sum, value);
  for (const int32_t value : {sampling.top_k, sampling.logprobs_top}) take_in(sum, value);
  for (const uint64_t value :
       {seed, uint64_t{prompt.size()}, uint64_t{output.size()}, uint64_t{sampling.bias.size()}})
    take_in(sum, value);
  sum.update(std::as_bytes(prompt));
  sum.update(std::as_bytes(output));
  for (const auto& [token, bias] : sampling.bias) {
    take_in(sum, token);
    take_in(sum, bias);
  }
  if (grammar.has_value()) {
    take_in(sum, grammar->kind);
    sum.update(std::as_bytes(std::span(grammar->text)));
  }
  return sum.value();
}

TransferNote note_of(std::span<const FirstToken> tokens) {
  TransferNote note;
  for (const auto& [key, sampled] : tokens) {
    const size_t bytes = sizeof(TokenHead) + sizeof(uint32_t) + sampled.top.size() * sizeof(Alternative);
    if (note.size() + bytes > wire::kNoteBytesMax) continue;
    wire::append(note, TokenHead{key, static_cast<uint32_t>(sampled.token), sampled.logprob});
    wire::append(note, static_cast<uint32_t>(sampled.top.size()));
    for (const TokenLogprob& top : sampled.top)
      wire::append(note, Alternative{static_cast<uint32_t>(top.token), top.logprob});
  }
  return note;
}

std::vector<FirstToken> first_tokens_in(const TransferNote& note) {
  std::vector<FirstToken> tokens;
  for (std::span<const std::byte> bytes = note; !bytes.empty();) {
    TokenHead head{};
    uint32_t alternatives = 0;
    if (!read_from(bytes, head) || !read_from(bytes, alternatives) || alternatives > bytes.size() / sizeof(Alternative))
      return {};
    FirstToken first{head.key, {static_cast<int32_t>(head.token), head.logprob, {}}};
    for (uint32_t i = 0; i < alternatives; ++i) {
      Alternative top{};
      read_from(bytes, top);
      first.sampled.top.push_back({static_cast<int32_t>(top.token), top.logprob});
    }
    tokens.push_back(std::move(first));
  }
  return tokens;
}

bool is_draw(const Sampled& sampled, const SamplingParams& sampling, int32_t vocab_size) {
  // Minus infinity is that of a forbidden token.
  const auto is_one = [&](int32_t token, float logprob) {
    return token >= 0 && token < vocab_size && logprob < std::numeric_limits<float>::infinity();
  };
  return is_one(sampled.token, sampled.logprob) &&
         sampled.top.size() <= static_cast<size_t>(std::max(sampling.logprobs_top, 0)) &&
         std::all_of(sampled.top.begin(), sampled.top.end(),
                     [&](const TokenLogprob& top) { return is_one(top.token, top.logprob); });
}

}  // namespace penstock
