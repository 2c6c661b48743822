// The name of what K and V of a model mean. Owns the text; two engines exchange blocks where it is equal.
#pragma once

#include <cstdint>
#include <string>

#include "kv/cache.h"
#include "model/config.h"

namespace penstock {

// `weights_identity`: Weights::identity.
std::string kv_fingerprint(const Config& config, uint64_t weights_identity, const KvShape& shape);

}  // namespace penstock
