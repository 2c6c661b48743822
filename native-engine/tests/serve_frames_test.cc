// The C++ side of the wire against the golden bytes both implementations share, and against bytes nobody should send.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>

#include "serve/frames.h"

namespace penstock {
namespace {

using Bytes = std::vector<uint8_t>;

struct Golden {
  std::string type;
  Bytes bytes;
};

std::string between(const std::string& text, const std::string& before) {
  const size_t start = text.find(before);
  if (start == std::string::npos) return {};
  const size_t first = start + before.size();
  return text.substr(first, text.find('"', first) - first);
}

// One golden frame per line; only its bytes and its type are read here.
std::vector<Golden> goldens() {
  const auto path = std::filesystem::path(PENSTOCK_FIXTURES) / "../../../protocol/engine-frames.golden.json";
  std::ifstream file(path);
  std::vector<Golden> all;
  for (std::string line; std::getline(file, line);) {
    const std::string hex = between(line, "\"hex\":\"");
    if (hex.empty()) continue;
    Golden golden{between(line, "\"frame\":{\"type\":\""), {}};
    for (size_t i = 0; i + 1 < hex.size(); i += 2)
      golden.bytes.push_back(static_cast<uint8_t>(std::stoul(hex.substr(i, 2), nullptr, 16)));
    all.push_back(std::move(golden));
  }
  return all;
}

const char* type_name(const Frame& frame) {
  constexpr const char* names[] = {"hello",     "submit",   "cancel", "credit",   "ping",     "shutdown",
                                   "vocabulary", "ready",   "tokens", "finished", "rejected", "stats",
                                   "pong",      "fatal",    "embedding", "blocks", "admitted", "reserve", "renew",
                                   "release",   "push",     "reserved",  "transferred"};
  return names[frame.index()];
}

std::optional<Frame> decode(const Bytes& bytes) {
  FrameDecoder decoder;
  decoder.push(bytes);
  return decoder.next();
}

Bytes encode(const Frame& frame) {
  Bytes bytes;
  append_frame(bytes, frame);
  return bytes;
}

void set_body_bytes(Bytes& bytes, size_t count) {
  for (size_t i = 0; i < 4; ++i) bytes[i] = static_cast<uint8_t>(count >> (8 * i));
}

template <typename T>
T golden_frame(size_t which) {
  for (const Golden& golden : goldens()) {
    const auto frame = decode(golden.bytes);
    if (frame.has_value() && std::holds_alternative<T>(*frame) && which-- == 0) return std::get<T>(*frame);
  }
  throw std::runtime_error("no such golden frame");
}

TEST(Frames, DecodesAndEncodesEveryGoldenFrameToTheSameBytes) {
  const auto all = goldens();
  ASSERT_GE(all.size(), 20u);
  std::vector<bool> seen(std::variant_size_v<Frame>, false);
  for (const Golden& golden : all) {
    SCOPED_TRACE(golden.type);
    const auto frame = decode(golden.bytes);
    ASSERT_TRUE(frame.has_value());
    EXPECT_EQ(type_name(*frame), golden.type);
    EXPECT_EQ(encode(*frame), golden.bytes);
    seen[frame->index()] = true;
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), static_cast<std::ptrdiff_t>(seen.size()))
      << "a type has no golden";
}

TEST(Frames, ReadsEachFieldOfASubmit) {
  const auto f = golden_frame<frame::Submit>(0);
  EXPECT_EQ(f.id, 0x0102030405060708u);
  EXPECT_EQ(f.prompt, (std::vector<uint32_t>{1, 403, 49151}));
  EXPECT_EQ(f.max_new_tokens, 64u);
  EXPECT_EQ(f.credit_tokens, 256u);
  EXPECT_EQ(f.temperature, 0.5f);
  EXPECT_EQ(f.top_p, 0.75f);
  EXPECT_EQ(f.top_k, 40u);
  EXPECT_EQ(f.min_p, 0.25f);
  EXPECT_EQ(f.repetition_penalty, 1.5f);
  EXPECT_EQ(f.presence_penalty, -0.5f);
  EXPECT_EQ(f.frequency_penalty, 0.125f);
  EXPECT_EQ(f.seed, UINT64_MAX);
  EXPECT_EQ(f.logprobs_top, 5);
  EXPECT_EQ(f.stop_ids, (std::vector<uint32_t>{2, 0}));
  ASSERT_EQ(f.bias.size(), 1u);
  EXPECT_EQ(f.bias[0].id, 7u);
  EXPECT_EQ(f.bias[0].bias, -100.0f);
  EXPECT_EQ(f.priority, -3);
  EXPECT_EQ(f.deadline_ms, 30000u);
  EXPECT_EQ(f.tenant, 99u);
  EXPECT_EQ(f.salt, 0xfedcba9876543210u);
  EXPECT_EQ(f.pooling, Pooling::none);
  ASSERT_TRUE(f.grammar.has_value());
  EXPECT_EQ(f.grammar->kind, frame::GrammarKind::Regex);
  EXPECT_EQ(f.grammar->text, "[ä-z]+");
}

TEST(Frames, ReadsAbsentOptionsOfASubmitAsAbsent) {
  const auto f = golden_frame<frame::Submit>(1);
  EXPECT_EQ(f.logprobs_top, std::nullopt);
  EXPECT_EQ(f.deadline_ms, std::nullopt);
  EXPECT_EQ(f.grammar, std::nullopt);
  EXPECT_TRUE(f.stop_ids.empty());
}

TEST(Frames, ReadsReadyTokensAndStats) {
  const auto ready = golden_frame<frame::Ready>(0);
  EXPECT_EQ(ready.model_name, "SmolLM2 135M Ünïcode");
  EXPECT_EQ(ready.step_tokens_max, 512u);
  EXPECT_EQ(ready.memory_bytes_per_second_max, 20'000'000'000u);
  EXPECT_EQ(ready.mac_type, MacType::int8);
  EXPECT_EQ(ready.macs_per_second_max, 150'000'000'000u);
  const auto tokens = golden_frame<frame::Tokens>(0);
  ASSERT_EQ(tokens.tokens.size(), 2u);
  EXPECT_EQ(tokens.tokens[1].id, 10u);
  ASSERT_EQ(tokens.tokens[1].top.size(), 2u);
  EXPECT_EQ(tokens.tokens[1].top[1].logprob, -2.25f);
  const auto stats = golden_frame<frame::Stats>(0);
  EXPECT_EQ(stats.decode_kv_tokens, 300u);
  EXPECT_EQ(stats.memory_bytes_per_second, 8e9f);
  EXPECT_EQ(stats.macs_per_second, 34359738368.0f);
  EXPECT_EQ(stats.busy_share, 0.75f);
}

TEST(Frames, ReadsWhatIsSaidOfKAndVThatMove) {
  EXPECT_EQ(golden_frame<frame::Submit>(0).reservation, 0u);
  EXPECT_TRUE(golden_frame<frame::Submit>(0).output.empty());
  EXPECT_EQ(golden_frame<frame::Submit>(6).reservation, 0x8000000000000001u);
  EXPECT_EQ(golden_frame<frame::Submit>(6).output, (std::vector<uint32_t>{403, 0, 49151}));
  const auto reserve = golden_frame<frame::Reserve>(0);
  EXPECT_EQ(reserve.tokens, (std::vector<uint32_t>{1, 403, 49151}));
  EXPECT_EQ(reserve.lease_ms, 30000u);
  const auto push = golden_frame<frame::Push>(0);
  EXPECT_EQ(push.first_block, 1u);
  EXPECT_EQ(push.address, "unix:/run/penstock/kv-ü.sock");
  EXPECT_EQ(push.grant.id, 7u);
  EXPECT_EQ(push.grant.generation, UINT64_MAX);
  EXPECT_EQ(push.grant.secret[0], 240);
  EXPECT_EQ(push.grant.secret[15], 255);
  EXPECT_EQ(push.deadline_ms, 20000u);
  EXPECT_EQ(golden_frame<frame::Push>(1).deadline_ms, std::nullopt);
  const auto reserved = golden_frame<frame::Reserved>(0);
  EXPECT_EQ(reserved.code, frame::ReserveCode::Ok);
  EXPECT_EQ(reserved.cached_blocks, 3u);
  EXPECT_EQ(golden_frame<frame::Reserved>(1).code, frame::ReserveCode::NoRoom);
  EXPECT_TRUE(golden_frame<frame::Transferred>(0).complete);
  EXPECT_EQ(golden_frame<frame::Ready>(0).kv_address, "");
  EXPECT_EQ(golden_frame<frame::Ready>(1).kv_address, "tcp:[::1]:4170");
}

TEST(Frames, WaitsForTheRestHoweverTheBytesAreCut) {
  Bytes stream;
  for (const Golden& golden : goldens()) stream.insert(stream.end(), golden.bytes.begin(), golden.bytes.end());
  for (const size_t piece_bytes : {size_t{1}, size_t{3}, size_t{7}, size_t{64}, stream.size()}) {
    FrameDecoder decoder;
    Bytes again;
    for (size_t at = 0; at < stream.size(); at += piece_bytes) {
      decoder.push(std::span(stream).subspan(at, std::min(piece_bytes, stream.size() - at)));
      while (const auto frame = decoder.next()) append_frame(again, *frame);
    }
    EXPECT_EQ(again, stream) << "in pieces of " << piece_bytes;
  }
}

TEST(Frames, RefusesABodyThatEndsEarlyAtAnyByte) {
  for (const Golden& golden : goldens()) {
    SCOPED_TRACE(golden.type);
    for (size_t bytes_kept = kFrameHeaderBytes; bytes_kept < golden.bytes.size(); ++bytes_kept) {
      Bytes cut(golden.bytes.begin(), golden.bytes.begin() + static_cast<std::ptrdiff_t>(bytes_kept));
      EXPECT_EQ(decode(cut), std::nullopt) << "more bytes may follow";
      set_body_bytes(cut, bytes_kept - kFrameHeaderBytes);
      EXPECT_THROW(decode(cut), FrameError) << "cut at " << bytes_kept;
    }
  }
}

TEST(Frames, RefusesBytesLeftOver) {
  for (const Golden& golden : goldens()) {
    Bytes longer = golden.bytes;
    longer.push_back(0);
    set_body_bytes(longer, longer.size() - kFrameHeaderBytes);
    EXPECT_THROW(decode(longer), FrameError) << golden.type;
  }
}

TEST(Frames, RefusesAnotherVersionReservedBitsAndBodiesOverTheLimit) {
  const Bytes good = encode(frame::Ping{1});
  Bytes version = good, reserved = good, large = good, type = good;
  version[5] = 1;
  reserved[7] = 1;
  set_body_bytes(large, kFrameBodyBytesMax + 1);
  type[4] = 12;
  for (const Bytes& bad : {version, reserved, large, type}) EXPECT_THROW(decode(bad), FrameError);
}

TEST(Frames, RefusesNumbersThatAreNotFiniteBothWays) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    frame::Stats stats;
    stats.memory_bytes_per_second = bad;
    Bytes out{42};
    EXPECT_THROW(append_frame(out, stats), FrameError);
    EXPECT_EQ(out, Bytes{42}) << "nothing half written";
    frame::Submit submit;
    submit.prompt = {1};
    Bytes bytes = encode(submit);
    const auto bits = std::bit_cast<uint32_t>(bad);
    for (size_t i = 0; i < 4; ++i) bytes[kFrameHeaderBytes + 8 + 8 + 8 + i] = static_cast<uint8_t>(bits >> (8 * i));
    EXPECT_THROW(decode(bytes), FrameError);
  }
}

TEST(Frames, RefusesAListThatClaimsMoreItemsThanItsFrameHolds) {
  frame::Submit submit;
  submit.prompt = {1, 2, 3};
  Bytes bytes = encode(submit);
  for (size_t i = 0; i < 4; ++i) bytes[kFrameHeaderBytes + 8 + i] = 0xff;
  EXPECT_THROW(decode(bytes), FrameError);
}

TEST(Frames, SurvivesRandomDamageAndNeverChangesWhatItAccepts) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto all = goldens();
  int accepted = 0, refused = 0;
  for (int i = 0; i < 40'000; ++i) {
    Bytes bytes = all[random() % all.size()].bytes;
    for (auto changes = 1 + random() % 4; changes > 0; --changes) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<uint8_t>(random());
          break;
        case 1:
          bytes[at] ^= static_cast<uint8_t>(1u << (random() % 8));
          break;
        default:
          bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), static_cast<uint8_t>(random()));
      }
    }
    FrameDecoder decoder;
    Bytes again;
    try {
      decoder.push(bytes);
      while (const auto frame = decoder.next()) append_frame(again, *frame);
      ++accepted;
    } catch (const FrameError&) {
      ++refused;
    }
    ASSERT_LE(again.size(), bytes.size());
    ASSERT_TRUE(std::equal(again.begin(), again.end(), bytes.begin()));
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace penstock
