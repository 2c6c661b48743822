// Connections that have not shown a grant yet. Owns which of them gives way where there are too many: whoever has no grant must not
// keep those out who have one, and those never give way (receiver.h).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace penstock {

struct NewcomerLimits {
  size_t places;
  size_t per_peer;
};

// peers: whose connections are there, the oldest one first (peer_of()). The one that gives way to one more of `peer`; nullopt: there
// is room. It is the oldest of the same peer where that has all it may have, else the oldest of the peer that has most: one that
// opens many displaces its own.
std::optional<size_t> who_gives_way(std::span<const std::string> peers, const std::string& peer, NewcomerLimits limits);

}  // namespace penstock
