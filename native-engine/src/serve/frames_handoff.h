// The frames of wire 5 by which K and V move between engines, as bytes. Owns their fields and type codes; frames.h has what
// they are, frames.cc the rest of the wire and what every frame begins with.
#pragma once

#include <cstdint>
#include <optional>

#include "serve/frame_bytes.h"

namespace penstock {

// Each appends a body and says which type it is of.
uint8_t write(FrameWriter& w, const frame::Reserve& f);
uint8_t write(FrameWriter& w, const frame::Renew& f);
uint8_t write(FrameWriter& w, const frame::Release& f);
uint8_t write(FrameWriter& w, const frame::Push& f);
uint8_t write(FrameWriter& w, const frame::Reserved& f);
uint8_t write(FrameWriter& w, const frame::Transferred& f);

// nullopt: not a type of this file.
std::optional<Frame> read_handoff(uint8_t type, FrameReader& r);

}  // namespace penstock
