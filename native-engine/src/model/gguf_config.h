// GGUF metadata -> Config. Owns the keys and what they mean; gguf.h reads their bytes, config.h checks how they fit.
#pragma once

#include "model/config.h"
#include "model/gguf.h"

namespace penstock {

// Throws ModelFileError for a family or a feature that this engine does not compute, for a missing key, and for
// dimensions that do not fit each other.
Config read_gguf_config(const GgufFile& file);

}  // namespace penstock
