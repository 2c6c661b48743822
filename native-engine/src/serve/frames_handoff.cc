// Fields of the frames of a hand-over. See frames_handoff.h.
#include "serve/frames_handoff.h"

#include "serve/frames_sampling.h"

namespace penstock {
namespace {

enum HandoffType : uint8_t {
  kReserve = 8,
  kRenew = 9,
  kRelease = 10,
  kPush = 11,
  kReserved = 75,
  kTransferred = 76,
};

void write_grant(FrameWriter& w, const TransferGrant& grant) {
  w.u64(grant.id);
  w.u64(grant.generation);
  for (const uint8_t byte : grant.secret) w.u8(byte);
}

TransferGrant read_grant(FrameReader& r) {
  TransferGrant grant;
  grant.id = r.u64();
  grant.generation = r.u64();
  for (uint8_t& byte : grant.secret) byte = r.u8();
  return grant;
}

void write_draw(FrameWriter& w, const frame::Draw& draw) {
  w.u32(draw.prompt_tokens);
  w.list(draw.seeds, [&](uint64_t seed) { w.u64(seed); });
  write_shape(w, draw);
  write_logprobs(w, draw);
  write_bias(w, draw);
  write_grammar(w, draw);
}

frame::Draw read_draw(FrameReader& r) {
  frame::Draw draw;
  draw.prompt_tokens = r.u32();
  draw.seeds = r.list<uint64_t>(8, [&] { return r.u64(); });
  read_shape(r, draw);
  read_logprobs(r, draw);
  read_bias(r, draw);
  draw.grammar = read_grammar(r);
  return draw;
}

bool read_bool(FrameReader& r) {
  const uint8_t value = r.u8();
  if (value > 1) throw FrameError("a truth of " + std::to_string(value));
  return value == 1;
}

frame::Push read_push(FrameReader& r) {
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
  if (read_bool(r)) f.draw = read_draw(r);
  return f;
}

frame::ReserveCode read_reserve_code(FrameReader& r) {
  const uint8_t code = r.u8();
  if (code > 4) throw FrameError("unknown reserve code " + std::to_string(code));
  return static_cast<frame::ReserveCode>(code);
}

}  // namespace

uint8_t write(FrameWriter& w, const frame::Reserve& f) {
  w.u64(f.id);
  w.list(f.tokens, [&](uint32_t token) { w.u32(token); });
  w.u64(f.salt);
  w.u32(f.lease_ms);
  return kReserve;
}
uint8_t write(FrameWriter& w, const frame::Renew& f) {
  w.u64(f.id);
  w.u32(f.lease_ms);
  return kRenew;
}
uint8_t write(FrameWriter& w, const frame::Release& f) {
  w.u64(f.id);
  return kRelease;
}
uint8_t write(FrameWriter& w, const frame::Push& f) {
  w.u64(f.id);
  w.list(f.tokens, [&](uint32_t token) { w.u32(token); });
  w.u32(f.first_block);
  w.str(f.address);
  write_grant(w, f.grant);
  w.i32(f.priority);
  w.u32(f.deadline_ms.value_or(0));
  w.u64(f.tenant);
  w.u64(f.salt);
  w.u8(f.draw.has_value() ? 1 : 0);
  if (f.draw.has_value()) write_draw(w, *f.draw);
  return kPush;
}
uint8_t write(FrameWriter& w, const frame::Reserved& f) {
  w.u64(f.id);
  w.u8(static_cast<uint8_t>(f.code));
  write_grant(w, f.grant);
  w.u32(f.blocks);
  w.u32(f.cached_blocks);
  return kReserved;
}
uint8_t write(FrameWriter& w, const frame::Transferred& f) {
  w.u64(f.id);
  w.u8(f.complete ? 1 : 0);
  return kTransferred;
}

std::optional<Frame> read_handoff(uint8_t type, FrameReader& r) {
  switch (type) {
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
    default:
      return std::nullopt;
  }
}

}  // namespace penstock
