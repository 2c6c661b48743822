// config.json of a Hugging Face folder -> Config. Owns its keys, their defaults (those of the transformers library, 4
// and 5) and which of them mean arithmetic that this engine does not have.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "model/config.h"

namespace penstock {

struct HuggingFaceConfig {
  Config config;        // vocab_size = vocab_rows: the tokenizer is another file
  bool tied_embedding;  // the head is the embedding
};

// `path` is used in messages only. Throws ModelFileError at the value that is wrong or not supported.
HuggingFaceConfig read_huggingface_config(const std::string& path, std::span<const std::byte> text);

}  // namespace penstock
