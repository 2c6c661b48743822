// What loading has in common on every device: which options make sense, and how they become sizes.
#pragma once

#include <cstdint>

#include "kv/cache.h"
#include "model/config.h"
#include "model/load.h"

namespace penstock {

// Throws std::invalid_argument.
void check_load_options(const LoadOptions& options);

int32_t thread_count(const LoadOptions& options);

// The pool for these options, when `bytes_max` are there for it. Throws std::invalid_argument when a type of K and V does not
// fit the model's heads or not a block is to be had, std::bad_alloc for more blocks than could be addressed.
KvShape kv_shape_for(const LoadOptions& options, const Config& config, KvTiles tiles, int64_t bytes_max);

// The longest sequence: what the model, the pool and the options allow.
int32_t context_tokens_for(const LoadOptions& options, const Config& config, const KvShape& shape);

}  // namespace penstock
