// How a token is drawn, as bytes: the parts that SUBMIT and PUSH have in common, each of which puts fields of its own between
// them. The frames are frames.cc and frames_handoff.cc; protocol/engine-sampling.ts is the agent's side.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "serve/frame_bytes.h"

namespace penstock {

// Temperature, filters and penalties.
inline void write_shape(FrameWriter& w, const frame::Sampling& f) {
  w.f32(f.temperature);
  w.f32(f.top_p);
  w.u32(f.top_k);
  w.f32(f.min_p);
  w.f32(f.repetition_penalty);
  w.f32(f.presence_penalty);
  w.f32(f.frequency_penalty);
}
inline void read_shape(FrameReader& r, frame::Sampling& f) {
  f.temperature = r.f32();
  f.top_p = r.f32();
  f.top_k = r.u32();
  f.min_p = r.f32();
  f.repetition_penalty = r.f32();
  f.presence_penalty = r.f32();
  f.frequency_penalty = r.f32();
}

inline void write_logprobs(FrameWriter& w, const frame::Sampling& f) {
  w.u8(f.logprobs_top.has_value() ? static_cast<uint8_t>(*f.logprobs_top + 1) : uint8_t{0});
}
inline void read_logprobs(FrameReader& r, frame::Sampling& f) {
  if (const uint8_t logprobs = r.u8(); logprobs > 0) f.logprobs_top = static_cast<uint8_t>(logprobs - 1);
}

inline void write_bias(FrameWriter& w, const frame::Sampling& f) {
  w.list(f.bias, [&](const frame::Bias& b) {
    w.u32(b.id);
    w.f32(b.bias);
  });
}
inline void read_bias(FrameReader& r, frame::Sampling& f) {
  f.bias = r.list<frame::Bias>(8, [&] { return frame::Bias{r.u32(), r.f32()}; });
}

inline void write_grammar(FrameWriter& w, const frame::Sampling& f) {
  w.u8(f.grammar.has_value() ? static_cast<uint8_t>(f.grammar->kind) : uint8_t{0});
  w.str(f.grammar.has_value() ? f.grammar->text : std::string());
}
inline std::optional<frame::Grammar> read_grammar(FrameReader& r) {
  const uint8_t kind = r.u8();
  std::string text = r.str();
  if (kind > 3) throw FrameError("unknown kind of grammar " + std::to_string(kind));
  if (kind > 0) return frame::Grammar{static_cast<frame::GrammarKind>(kind), std::move(text)};
  if (!text.empty()) throw FrameError("a grammar without its kind");
  return std::nullopt;
}

}  // namespace penstock
