// See kv_fingerprint.h.
#include "model/kv_fingerprint.h"

#include <cstdio>

#include "kv/transfer_wire.h"

namespace penstock {

std::string kv_fingerprint(const Config& config, uint64_t weights_identity, const KvShape& shape) {
  // First and last frequency tell the base and the kinds of scaling apart; the rest follows from the file.
  char text[176];
  std::snprintf(text, sizeof text, ";rope=%s,%d,%.9g,%.9g;window=%d;weights=%016llx;wire=%u",
                config.rope_pairs == RopePairs::interleaved ? "interleaved" : "halves", config.rope_dims,
                config.rope_frequencies.front(), config.rope_frequencies.back(), config.window_tokens,
                static_cast<unsigned long long>(weights_identity), wire::kVersion);
  return config.arch + ";" + shape.layout_name() + text;
}

}  // namespace penstock
