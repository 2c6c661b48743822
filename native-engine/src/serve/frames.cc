// Little-endian writer and bounds-checked reader of frames. See frames.h.
#include "serve/frames.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <utility>

namespace penstock {
namespace {

constexpr uint8_t kFrameVersion = 3;

enum FrameType : uint8_t {
  kHello = 1,
  kSubmit = 2,
  kCancel = 3,
  kCredit = 4,
  kPing = 5,
  kShutdown = 6,
  kVocabulary = 7,
  kReserve = 8,
  kRenew = 9,
  kRelease = 10,
  kPush = 11,
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
  kReserved = 75,
  kTransferred = 76,
};

// --- Writing ---------------------------------------------------------------------------------------------------------

// The only bit of READY.features: a peer of the same protocol sets no other.
constexpr uint32_t kFeatureGrammars = 1;

class Writer {
 public:
  explicit Writer(std::vector<uint8_t>& out) : out_(out) {}

  void u8(uint8_t value) { out_.push_back(value); }
  void u32(uint32_t value) { little_endian(value); }
  void u64(uint64_t value) { little_endian(value); }
  void i32(int32_t value) { u32(static_cast<uint32_t>(value)); }
  void f32(float value) {
    if (!std::isfinite(value)) throw FrameError("frame would hold a number that is not finite");
    u32(std::bit_cast<uint32_t>(value));
  }
  void str(const std::string& value) {
    count(value.size());
    out_.insert(out_.end(), value.begin(), value.end());
  }
  template <typename T, typename Write>
  void list(const std::vector<T>& items, Write write) {
    count(items.size());
    for (const T& item : items) write(item);
  }

 private:
  void count(size_t value) {
    if (value > kFrameBodyBytesMax) throw FrameError("frame would be over the limit");
    u32(static_cast<uint32_t>(value));
  }
  template <typename T>
  void little_endian(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  std::vector<uint8_t>& out_;
};

void write_top(Writer& w, const std::vector<TokenLogprob>& top) {
  w.list(top, [&](const TokenLogprob& t) {
    w.i32(t.token);
    w.f32(t.logprob);
  });
}

FrameType write(Writer& w, const frame::Hello& f) {
  w.u32(f.protocol);
  return kHello;
}
FrameType write(Writer& w, const frame::Submit& f) {
  const auto id = [&](uint32_t value) { w.u32(value); };
  w.u64(f.id);
  w.list(f.prompt, id);
  w.u32(f.max_new_tokens);
  w.u32(f.credit_tokens);
  w.f32(f.temperature);
  w.f32(f.top_p);
  w.u32(f.top_k);
  w.f32(f.min_p);
  w.f32(f.repetition_penalty);
  w.f32(f.presence_penalty);
  w.f32(f.frequency_penalty);
  w.u64(f.seed);
  w.u8(f.logprobs_top.has_value() ? static_cast<uint8_t>(*f.logprobs_top + 1) : uint8_t{0});
  w.list(f.stop_ids, id);
  w.list(f.bias, [&](const frame::Bias& b) {
    w.u32(b.id);
    w.f32(b.bias);
  });
  w.i32(f.priority);
  w.u32(f.deadline_ms.value_or(0));
  w.u64(f.tenant);
  w.u64(f.salt);
  w.u8(static_cast<uint8_t>(f.pooling));
  w.u8(f.grammar.has_value() ? static_cast<uint8_t>(f.grammar->kind) : uint8_t{0});
  w.str(f.grammar.has_value() ? f.grammar->text : std::string());
  w.u64(f.reservation);
  return kSubmit;
}
void write_grant(Writer& w, const TransferGrant& grant) {
  w.u64(grant.id);
  w.u64(grant.generation);
  for (const uint8_t byte : grant.secret) w.u8(byte);
}
FrameType write(Writer& w, const frame::Reserve& f) {
  w.u64(f.id);
  w.list(f.tokens, [&](uint32_t token) { w.u32(token); });
  w.u64(f.salt);
  w.u32(f.lease_ms);
  return kReserve;
}
FrameType write(Writer& w, const frame::Renew& f) {
  w.u64(f.id);
  w.u32(f.lease_ms);
  return kRenew;
}
FrameType write(Writer& w, const frame::Release& f) {
  w.u64(f.id);
  return kRelease;
}
FrameType write(Writer& w, const frame::Push& f) {
  w.u64(f.id);
  w.list(f.tokens, [&](uint32_t token) { w.u32(token); });
  w.u32(f.first_block);
  w.str(f.address);
  write_grant(w, f.grant);
  w.i32(f.priority);
  w.u32(f.deadline_ms.value_or(0));
  w.u64(f.tenant);
  w.u64(f.salt);
  return kPush;
}
FrameType write(Writer& w, const frame::Reserved& f) {
  w.u64(f.id);
  w.u8(static_cast<uint8_t>(f.code));
  write_grant(w, f.grant);
  w.u32(f.blocks);
  w.u32(f.cached_blocks);
  return kReserved;
}
FrameType write(Writer& w, const frame::Transferred& f) {
  w.u64(f.id);
  w.u8(f.complete ? 1 : 0);
  return kTransferred;
}
FrameType write(Writer& w, const frame::Cancel& f) {
  w.u64(f.id);
  return kCancel;
}
FrameType write(Writer& w, const frame::Credit& f) {
  w.u64(f.id);
  w.u32(f.tokens);
  return kCredit;
}
FrameType write(Writer& w, const frame::Ping& f) {
  w.u64(f.nonce);
  return kPing;
}
FrameType write(Writer&, const frame::Shutdown&) { return kShutdown; }
FrameType write(Writer& w, const frame::Vocabulary& f) {
  w.list(f.tokens, [&](const frame::VocabularyToken& token) {
    w.u8(token.control ? 1 : 0);
    w.list(token.bytes, [&](uint8_t byte) { w.u8(byte); });
  });
  w.list(f.end_ids, [&](uint32_t id) { w.u32(id); });
  return kVocabulary;
}
FrameType write(Writer& w, const frame::Ready& f) {
  w.u32(f.protocol);
  w.u64(f.epoch);
  w.str(f.arch);
  w.str(f.model_name);
  for (const uint32_t value : {f.vocab_size, f.context_tokens, f.block_tokens, f.blocks_total}) w.u32(value);
  for (const uint32_t value : {f.sequences_max, f.step_tokens_max, f.threads}) w.u32(value);
  w.str(f.kv_fingerprint);
  w.u64(f.memory_bytes_per_second_max);
  w.u32(f.embedding_dims);
  w.u32(f.grammars ? kFeatureGrammars : 0);
  w.str(f.kv_address);
  return kReady;
}
FrameType write(Writer& w, const frame::Tokens& f) {
  w.list(f.tokens, [&](const frame::Token& t) {
    w.u64(t.id);
    w.u32(t.token);
    w.f32(t.logprob);
    write_top(w, t.top);
  });
  return kTokens;
}
FrameType write(Writer& w, const Finished& f) {
  w.u64(f.id);
  w.u8(static_cast<uint8_t>(f.reason));
  for (const int32_t value : {f.prompt_tokens, f.cached_tokens, f.output_tokens}) w.i32(value);
  return kFinished;
}
FrameType write(Writer& w, const frame::Rejected& f) {
  w.u64(f.id);
  w.u8(static_cast<uint8_t>(f.code));
  w.str(f.message);
  return kRejected;
}
FrameType write(Writer& w, const frame::Stats& f) {
  w.u64(f.step);
  for (const uint32_t value : {f.blocks_total, f.blocks_used, f.blocks_cached, f.running, f.waiting}) w.u32(value);
  w.u64(f.prefill_tokens_queued);
  w.u64(f.decode_kv_tokens);
  for (const uint32_t value : {f.step_us, f.step_prefill_tokens, f.step_decode_tokens}) w.u32(value);
  for (const float value : {f.prefill_tokens_per_second, f.decode_tokens_per_second, f.memory_bytes_per_second})
    w.f32(value);
  for (const uint64_t value : {f.preemptions, f.prompt_tokens, f.cached_tokens}) w.u64(value);
  return kStats;
}
FrameType write(Writer& w, const frame::Pong& f) {
  w.u64(f.nonce);
  return kPong;
}
FrameType write(Writer& w, const frame::Fatal& f) {
  w.str(f.message);
  return kFatal;
}
FrameType write(Writer& w, const frame::Embedding& f) {
  w.u64(f.id);
  w.list(f.values, [&](float value) { w.f32(value); });
  return kEmbedding;
}
FrameType write(Writer& w, const frame::Blocks& f) {
  w.u64(f.sequence);
  w.list(f.events, [&](const BlockEvent& event) {
    w.u8(static_cast<uint8_t>(event.kind));
    w.u64(event.hash);
    w.u64(event.parent);
  });
  return kBlocks;
}
FrameType write(Writer& w, const frame::Admitted& f) {
  w.u64(f.id);
  w.u32(f.cached_tokens);
  w.list(f.hashes, [&](uint64_t hash) { w.u64(hash); });
  return kAdmitted;
}

// --- Reading ---------------------------------------------------------------------------------------------------------

// Braced initialisers evaluate from left to right, so structures below are read in the order of their fields.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  uint8_t u8() { return take(1)[0]; }
  uint32_t u32() { return little_endian<uint32_t>(); }
  uint64_t u64() { return little_endian<uint64_t>(); }
  int32_t i32() { return static_cast<int32_t>(u32()); }
  float f32() {
    const auto value = std::bit_cast<float>(u32());
    if (!std::isfinite(value)) throw FrameError("frame holds a number that is not finite");
    return value;
  }
  std::string str() {
    const auto bytes = take(u32());
    return {bytes.begin(), bytes.end()};
  }
  // Checks the count against the bytes that are there before anything is allocated.
  template <typename T, typename Read>
  std::vector<T> list(size_t item_bytes_min, Read read) {
    const size_t count = u32();
    if (count > bytes_.size() / item_bytes_min)
      throw FrameError("list of " + std::to_string(count) + " items does not fit its frame");
    std::vector<T> items;
    items.reserve(count);
    for (size_t i = 0; i < count; ++i) items.push_back(read());
    return items;
  }
  void end() const {
    if (!bytes_.empty()) throw FrameError(std::to_string(bytes_.size()) + " bytes left over in frame");
  }

 private:
  std::span<const uint8_t> take(size_t count) {
    if (count > bytes_.size())
      throw FrameError("frame body has " + std::to_string(bytes_.size()) + " bytes left, field needs " +
                       std::to_string(count));
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  template <typename T>
  T little_endian() {
    const auto bytes = take(sizeof(T));
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(static_cast<T>(bytes[i]) << (8 * i));
    return value;
  }
  std::span<const uint8_t> bytes_;
};

uint8_t check_code(uint8_t code, uint8_t largest, const char* what) {
  if (code < 1 || code > largest) throw FrameError(std::string("unknown ") + what + " " + std::to_string(code));
  return code;
}

uint8_t read_code(Reader& r, uint8_t largest, const char* what) { return check_code(r.u8(), largest, what); }

frame::Submit read_submit(Reader& r) {
  const auto id = [&] { return r.u32(); };
  frame::Submit f;
  f.id = r.u64();
  f.prompt = r.list<uint32_t>(4, id);
  f.max_new_tokens = r.u32();
  f.credit_tokens = r.u32();
  f.temperature = r.f32();
  f.top_p = r.f32();
  f.top_k = r.u32();
  f.min_p = r.f32();
  f.repetition_penalty = r.f32();
  f.presence_penalty = r.f32();
  f.frequency_penalty = r.f32();
  f.seed = r.u64();
  if (const uint8_t logprobs = r.u8(); logprobs > 0) f.logprobs_top = static_cast<uint8_t>(logprobs - 1);
  f.stop_ids = r.list<uint32_t>(4, id);
  f.bias = r.list<frame::Bias>(8, [&] { return frame::Bias{r.u32(), r.f32()}; });
  f.priority = r.i32();
  if (const uint32_t deadline_ms = r.u32(); deadline_ms > 0) f.deadline_ms = deadline_ms;
  f.tenant = r.u64();
  f.salt = r.u64();
  if (const uint8_t pooling = r.u8(); pooling > 0) f.pooling = static_cast<Pooling>(check_code(pooling, 2, "pooling"));
  const uint8_t kind = r.u8();
  std::string text = r.str();
  if (kind > 0) {
    f.grammar = frame::Grammar{static_cast<frame::GrammarKind>(check_code(kind, 3, "kind of grammar")), std::move(text)};
  } else if (!text.empty()) {
    throw FrameError("a grammar without its kind");
  }
  f.reservation = r.u64();
  return f;
}

TransferGrant read_grant(Reader& r) {
  TransferGrant grant;
  grant.id = r.u64();
  grant.generation = r.u64();
  for (uint8_t& byte : grant.secret) byte = r.u8();
  return grant;
}

frame::Push read_push(Reader& r) {
  frame::Push f;
  f.id = r.u64();
  f.tokens = r.list<uint32_t>(4, [&] { return r.u32(); });
  f.first_block = r.u32();
  f.address = r.str();
  f.grant = read_grant(r);
  f.priority = r.i32();
  if (const uint32_t deadline_ms = r.u32(); deadline_ms > 0) f.deadline_ms = deadline_ms;
  f.tenant = r.u64();
  f.salt = r.u64();
  return f;
}

bool read_bool(Reader& r) {
  const uint8_t value = r.u8();
  if (value > 1) throw FrameError("a truth of " + std::to_string(value));
  return value == 1;
}

frame::ReserveCode read_reserve_code(Reader& r) {
  const uint8_t code = r.u8();
  if (code > 4) throw FrameError("unknown reserve code " + std::to_string(code));
  return static_cast<frame::ReserveCode>(code);
}

frame::Vocabulary read_vocabulary(Reader& r) {
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

bool read_features(Reader& r) {
  const uint32_t bits = r.u32();
  if (bits > kFeatureGrammars) throw FrameError("unknown features " + std::to_string(bits));
  return bits == kFeatureGrammars;
}

frame::Ready read_ready(Reader& r) {
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
      .embedding_dims = r.u32(),
      .grammars = read_features(r),
      .kv_address = r.str(),
  };
}

frame::Stats read_stats(Reader& r) {
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
      .preemptions = r.u64(),
      .prompt_tokens = r.u64(),
      .cached_tokens = r.u64(),
  };
}

frame::Tokens read_tokens(Reader& r) {
  const auto top = [&] { return r.list<TokenLogprob>(8, [&] { return TokenLogprob{r.i32(), r.f32()}; }); };
  return {r.list<frame::Token>(20, [&] { return frame::Token{r.u64(), r.u32(), r.f32(), top()}; })};
}

Frame read_body(uint8_t type, Reader& r) {
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
    case kReserve:
      return frame::Reserve{r.u64(), r.list<uint32_t>(4, [&] { return r.u32(); }), r.u64(), r.u32()};
    case kRenew:
      return frame::Renew{r.u64(), r.u32()};
    case kRelease:
      return frame::Release{r.u64()};
    case kPush:
      return read_push(r);
    case kReserved:
      return frame::Reserved{r.u64(), read_reserve_code(r), read_grant(r), r.u32(), r.u32()};
    case kTransferred:
      return frame::Transferred{r.u64(), read_bool(r)};
    case kAdmitted:
      return frame::Admitted{r.u64(), r.u32(), r.list<uint64_t>(8, [&] { return r.u64(); })};
    default:
      throw FrameError("unknown frame type " + std::to_string(type));
  }
}

uint32_t read_u32(std::span<const uint8_t> bytes) { return Reader(bytes).u32(); }

}  // namespace

void append_frame(std::vector<uint8_t>& out, const Frame& frame) {
  const size_t start = out.size();
  try {
    out.resize(start + kFrameHeaderBytes);
    Writer writer(out);
    const FrameType type = std::visit([&](const auto& body) { return write(writer, body); }, frame);
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
  Reader reader(bytes.subspan(kFrameHeaderBytes, body_bytes));
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
