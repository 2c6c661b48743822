// Fields of the frames, and what every frame begins with. See frames.h.
#include "serve/frames.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "serve/frame_bytes.h"
#include "serve/frames_handoff.h"
#include "serve/frames_sampling.h"

namespace penstock {
namespace {

constexpr uint8_t kFrameVersion = 5;

enum FrameType : uint8_t {
  kHello = 1,
  kSubmit = 2,
  kCancel = 3,
  kCredit = 4,
  kPing = 5,
  kShutdown = 6,
  kVocabulary = 7,
  kReady = 65,
  kTokens = 66,
  kFinished = 67,
  kRejected = 68,
  kStats = 69,
  kPong = 70,
  kFatal = 71,
  kEmbedding = 72,
  kBlocks = 73,
  kAdmitted = 74,
};

// --- Writing ---------------------------------------------------------------------------------------------------------

// The only bit of READY.features: a peer of the same protocol sets no other.
constexpr uint32_t kFeatureGrammars = 1;

void write_top(FrameWriter& w, const std::vector<TokenLogprob>& top) {
  w.list(top, [&](const TokenLogprob& t) {
    w.i32(t.token);
    w.f32(t.logprob);
  });
}

FrameType write(FrameWriter& w, const frame::Hello& f) {
  w.u32(f.protocol);
  return kHello;
}
FrameType write(FrameWriter& w, const frame::Submit& f) {
  const auto id = [&](uint32_t value) { w.u32(value); };
  w.u64(f.id);
  w.list(f.prompt, id);
  w.u32(f.max_new_tokens);
  w.u32(f.credit_tokens);
  write_shape(w, f);
  w.u64(f.seed);
  write_logprobs(w, f);
  w.list(f.stop_ids, id);
  write_bias(w, f);
  w.i32(f.priority);
  w.u32(f.deadline_ms.value_or(0));
  w.u64(f.tenant);
  w.u64(f.salt);
  w.u8(static_cast<uint8_t>(f.pooling));
  write_grammar(w, f);
  w.u64(f.reservation);
  w.list(f.output, id);
  return kSubmit;
}
FrameType write(FrameWriter& w, const frame::Cancel& f) {
  w.u64(f.id);
  return kCancel;
}
FrameType write(FrameWriter& w, const frame::Credit& f) {
  w.u64(f.id);
  w.u32(f.tokens);
  return kCredit;
}
FrameType write(FrameWriter& w, const frame::Ping& f) {
  w.u64(f.nonce);
  return kPing;
}
FrameType write(FrameWriter&, const frame::Shutdown&) { return kShutdown; }
FrameType write(FrameWriter& w, const frame::Vocabulary& f) {
  w.list(f.tokens, [&](const frame::VocabularyToken& token) {
    w.u8(token.control ? 1 : 0);
    w.list(token.bytes, [&](uint8_t byte) { w.u8(byte); });
  });
  w.list(f.end_ids, [&](uint32_t id) { w.u32(id); });
  return kVocabulary;
}
FrameType write(FrameWriter& w, const frame::Ready& f) {
  w.u32(f.protocol);
  w.u64(f.epoch);
  w.str(f.arch);
  w.str(f.model_name);
  for (const uint32_t value : {f.vocab_size, f.context_tokens, f.block_tokens, f.blocks_total}) w.u32(value);
  for (const uint32_t value : {f.sequences_max, f.step_tokens_max, f.threads}) w.u32(value);
  w.str(f.kv_fingerprint);
  w.u64(f.memory_bytes_per_second_max);
  w.u8(static_cast<uint8_t>(f.mac_type));
  w.u64(f.macs_per_second_max);
  w.u32(f.embedding_dims);
  w.u32(f.grammars ? kFeatureGrammars : 0);
  w.str(f.kv_address);
  return kReady;
}
FrameType write(FrameWriter& w, const frame::Tokens& f) {
  w.list(f.tokens, [&](const frame::Token& t) {
    w.u64(t.id);
    w.u32(t.token);
    w.f32(t.logprob);
    write_top(w, t.top);
  });
  return kTokens;
}
FrameType write(FrameWriter& w, const Finished& f) {
  w.u64(f.id);
  w.u8(static_cast<uint8_t>(f.reason));
  for (const int32_t value : {f.prompt_tokens, f.cached_tokens, f.output_tokens}) w.i32(value);
  return kFinished;
}
FrameType write(FrameWriter& w, const frame::Rejected& f) {
  w.u64(f.id);
  w.u8(static_cast<uint8_t>(f.code));
  w.str(f.message);
  return kRejected;
}
FrameType write(FrameWriter& w, const frame::Stats& f) {
  w.u64(f.step);
  for (const uint32_t value : {f.blocks_total, f.blocks_used, f.blocks_cached, f.running, f.waiting}) w.u32(value);
  w.u64(f.prefill_tokens_queued);
  w.u64(f.decode_kv_tokens);
  for (const uint32_t value : {f.step_us, f.step_prefill_tokens, f.step_decode_tokens}) w.u32(value);
  for (const float value : {f.prefill_tokens_per_second, f.decode_tokens_per_second, f.memory_bytes_per_second,
                            f.macs_per_second, f.busy_share})
    w.f32(value);
  for (const uint64_t value : {f.preemptions, f.prompt_tokens, f.cached_tokens}) w.u64(value);
  return kStats;
}
FrameType write(FrameWriter& w, const frame::Pong& f) {
  w.u64(f.nonce);
  return kPong;
}
FrameType write(FrameWriter& w, const frame::Fatal& f) {
  w.str(f.message);
  return kFatal;
}
FrameType write(FrameWriter& w, const frame::Embedding& f) {
  w.u64(f.id);
  w.list(f.values, [&](float value) { w.f32(value); });
  return kEmbedding;
}
FrameType write(FrameWriter& w, const frame::Blocks& f) {
  w.u64(f.sequence);
  w.list(f.events, [&](const BlockEvent& event) {
    w.u8(static_cast<uint8_t>(event.kind));
    w.u64(event.hash);
    w.u64(event.parent);
  });
  return kBlocks;
}
FrameType write(FrameWriter& w, const frame::Admitted& f) {
  w.u64(f.id);
  w.u32(f.cached_tokens);
  w.list(f.hashes, [&](uint64_t hash) { w.u64(hash); });
  return kAdmitted;
}

// --- Reading ---------------------------------------------------------------------------------------------------------

uint8_t check_code(uint8_t code, uint8_t largest, const char* what) {
  if (code < 1 || code > largest) throw FrameError(std::string("unknown ") + what + " " + std::to_string(code));
  return code;
}

uint8_t read_code(FrameReader& r, uint8_t largest, const char* what) { return check_code(r.u8(), largest, what); }

frame::Submit read_submit(FrameReader& r) {
  const auto id = [&] { return r.u32(); };
  frame::Submit f;
  f.id = r.u64();
  f.prompt = r.list<uint32_t>(4, id);
  f.max_new_tokens = r.u32();
  f.credit_tokens = r.u32();
  read_shape(r, f);
  f.seed = r.u64();
  read_logprobs(r, f);
  f.stop_ids = r.list<uint32_t>(4, id);
  read_bias(r, f);
  f.priority = r.i32();
  if (const uint32_t deadline_ms = r.u32(); deadline_ms > 0) f.deadline_ms = deadline_ms;
  f.tenant = r.u64();
  f.salt = r.u64();
  if (const uint8_t pooling = r.u8(); pooling > 0) f.pooling = static_cast<Pooling>(check_code(pooling, 2, "pooling"));
  f.grammar = read_grammar(r);
  f.reservation = r.u64();
  f.output = r.list<uint32_t>(4, id);
  return f;
}

frame::Vocabulary read_vocabulary(FrameReader& r) {
  const auto byte = [&] { return r.u8(); };
  frame::Vocabulary f;
  f.tokens = r.list<frame::VocabularyToken>(5, [&] {
    const uint8_t flags = r.u8();
    if (flags > 1) throw FrameError("unknown flags " + std::to_string(flags));
    return frame::VocabularyToken{flags == 1, r.list<uint8_t>(1, byte)};
  });
  f.end_ids = r.list<uint32_t>(4, [&] { return r.u32(); });
  return f;
}

bool read_features(FrameReader& r) {
  const uint32_t bits = r.u32();
  if (bits > kFeatureGrammars) throw FrameError("unknown features " + std::to_string(bits));
  return bits == kFeatureGrammars;
}

MacType read_mac_type(FrameReader& r) {
  const uint8_t type = r.u8();
  if (type > static_cast<uint8_t>(MacType::int8)) throw FrameError("unknown type of products " + std::to_string(type));
  return static_cast<MacType>(type);
}

frame::Ready read_ready(FrameReader& r) {
  return frame::Ready{
      .protocol = r.u32(),
      .epoch = r.u64(),
      .arch = r.str(),
      .model_name = r.str(),
      .vocab_size = r.u32(),
      .context_tokens = r.u32(),
      .block_tokens = r.u32(),
      .blocks_total = r.u32(),
      .sequences_max = r.u32(),
      .step_tokens_max = r.u32(),
      .threads = r.u32(),
      .kv_fingerprint = r.str(),
      .memory_bytes_per_second_max = r.u64(),
      .mac_type = read_mac_type(r),
      .macs_per_second_max = r.u64(),
      .embedding_dims = r.u32(),
      .grammars = read_features(r),
      .kv_address = r.str(),
  };
}

frame::Stats read_stats(FrameReader& r) {
  return frame::Stats{
      .step = r.u64(),
      .blocks_total = r.u32(),
      .blocks_used = r.u32(),
      .blocks_cached = r.u32(),
      .running = r.u32(),
      .waiting = r.u32(),
      .prefill_tokens_queued = r.u64(),
      .decode_kv_tokens = r.u64(),
      .step_us = r.u32(),
      .step_prefill_tokens = r.u32(),
      .step_decode_tokens = r.u32(),
      .prefill_tokens_per_second = r.f32(),
      .decode_tokens_per_second = r.f32(),
      .memory_bytes_per_second = r.f32(),
      .macs_per_second = r.f32(),
      .busy_share = r.f32(),
      .preemptions = r.u64(),
      .prompt_tokens = r.u64(),
      .cached_tokens = r.u64(),
  };
}

frame::Tokens read_tokens(FrameReader& r) {
  const auto top = [&] { return r.list<TokenLogprob>(8, [&] { return TokenLogprob{r.i32(), r.f32()}; }); };
  return {r.list<frame::Token>(20, [&] { return frame::Token{r.u64(), r.u32(), r.f32(), top()}; })};
}

Frame read_body(uint8_t type, FrameReader& r) {
  switch (type) {
    case kHello:
      return frame::Hello{r.u32()};
    case kSubmit:
      return read_submit(r);
    case kCancel:
      return frame::Cancel{r.u64()};
    case kCredit:
      return frame::Credit{r.u64(), r.u32()};
    case kPing:
      return frame::Ping{r.u64()};
    case kShutdown:
      return frame::Shutdown{};
    case kVocabulary:
      return read_vocabulary(r);
    case kReady:
      return read_ready(r);
    case kTokens:
      return read_tokens(r);
    case kFinished:
      return Finished{r.u64(), static_cast<FinishReason>(read_code(r, 7, "finish reason")), r.i32(), r.i32(), r.i32()};
    case kRejected:
      return frame::Rejected{r.u64(), static_cast<frame::RejectCode>(read_code(r, 4, "reject code")), r.str()};
    case kStats:
      return read_stats(r);
    case kPong:
      return frame::Pong{r.u64()};
    case kFatal:
      return frame::Fatal{r.str()};
    case kEmbedding:
      return frame::Embedding{r.u64(), r.list<float>(4, [&] { return r.f32(); })};
    case kBlocks:
      return frame::Blocks{r.u64(), r.list<BlockEvent>(17, [&] {
                             return BlockEvent{static_cast<BlockEventKind>(read_code(r, 3, "block event")), r.u64(),
                                               r.u64()};
                           })};
    case kAdmitted:
      return frame::Admitted{r.u64(), r.u32(), r.list<uint64_t>(8, [&] { return r.u64(); })};
    default:
      if (auto frame = read_handoff(type, r)) return std::move(*frame);
      throw FrameError("unknown frame type " + std::to_string(type));
  }
}

uint32_t read_u32(std::span<const uint8_t> bytes) { return FrameReader(bytes).u32(); }

}  // namespace

void append_frame(std::vector<uint8_t>& out, const Frame& frame) {
  const size_t start = out.size();
  try {
    out.resize(start + kFrameHeaderBytes);
    FrameWriter writer(out);
    const uint8_t type = std::visit([&](const auto& body) -> uint8_t { return write(writer, body); }, frame);
    const size_t body_bytes = out.size() - start - kFrameHeaderBytes;
    if (body_bytes > kFrameBodyBytesMax) throw FrameError("frame would be over the limit");
    for (size_t i = 0; i < 4; ++i) out[start + i] = static_cast<uint8_t>(body_bytes >> (8 * i));
    out[start + 4] = type;
    out[start + 5] = kFrameVersion;
    out[start + 6] = out[start + 7] = 0;
  } catch (...) {
    out.resize(start);
    throw;
  }
}

void FrameDecoder::push(std::span<const uint8_t> bytes) {
  // Consumed bytes are dropped here and not per frame, so that many small frames cost one move.
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(consumed_bytes_));
  consumed_bytes_ = 0;
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
}

std::optional<Frame> FrameDecoder::next() {
  const auto bytes = std::span<const uint8_t>(pending_).subspan(consumed_bytes_);
  if (bytes.size() < kFrameHeaderBytes) return std::nullopt;
  const size_t body_bytes = read_u32(bytes);
  if (bytes[5] != kFrameVersion || bytes[6] != 0 || bytes[7] != 0) throw FrameError("not a frame header");
  if (body_bytes > kFrameBodyBytesMax)
    throw FrameError("frame of " + std::to_string(body_bytes) + " bytes is over the limit");
  if (bytes.size() - kFrameHeaderBytes < body_bytes) return std::nullopt;
  FrameReader reader(bytes.subspan(kFrameHeaderBytes, body_bytes));
  Frame frame = read_body(bytes[4], reader);
  reader.end();
  consumed_bytes_ += kFrameHeaderBytes + body_bytes;
  return frame;
}

}  // namespace penstock

#ifdef PENSTOCK_FUZZ_ENTRY
// Whatever arrives either decodes and encodes back to the same bytes, or is a FrameError.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  penstock::FrameDecoder decoder;
  try {
    decoder.push({data, size});
    std::vector<uint8_t> encoded;
    while (const auto frame = decoder.next()) penstock::append_frame(encoded, *frame);
    if (!std::equal(encoded.begin(), encoded.end(), data)) std::abort();
  } catch (const penstock::FrameError&) {
    // The expected answer to garbage.
  }
  return 0;
}
#endif
