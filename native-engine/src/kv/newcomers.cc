// Who gives way among those without a grant. See newcomers.h.
#include "kv/newcomers.h"

#include <algorithm>
#include <map>

namespace penstock {

std::optional<size_t> who_gives_way(std::span<const std::string> peers, const std::string& peer, NewcomerLimits limits) {
  std::map<std::string, size_t> counts;
  for (const std::string& each : peers) ++counts[each];
  const auto oldest_of = [&](const std::string& whose) {
    return static_cast<size_t>(std::find(peers.begin(), peers.end(), whose) - peers.begin());
  };
  const size_t own = ++counts[peer];
  if (own > limits.per_peer && own > 1) return oldest_of(peer);
  if (peers.size() < limits.places || peers.empty()) return std::nullopt;
  size_t most = 0;
  std::optional<size_t> found;
  // Of those that have as many, the one whose oldest has waited longest. The new one counts, but is nobody's oldest.
  for (size_t i = 0; i < peers.size(); ++i) {
    if (counts[peers[i]] <= most) continue;
    most = counts[peers[i]];
    found = i;
  }
  return found;
}

}  // namespace penstock
