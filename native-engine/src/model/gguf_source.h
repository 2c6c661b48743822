// A GGUF file as a ModelSource.
#pragma once

#include <string>

#include "model/source.h"

namespace penstock {

// Throws ModelFileError.
ModelSource open_gguf(const std::string& path);

}  // namespace penstock
