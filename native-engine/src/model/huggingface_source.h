// A Hugging Face folder as a ModelSource. Owns which files of the folder are read: config.json, the safetensors files,
// and of tokenizer.json the number of ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/source.h"

namespace penstock {

// Throws ModelFileError.
ModelSource open_huggingface(const std::string& folder);

// One entry of an index: a tensor and the file that holds it.
struct ShardEntry {
  std::string tensor;
  std::string file;
};

// model.safetensors.index.json. File names are refused unless they are plain names of safetensors files, so an index
// never leads out of its folder. `path` is used in messages only. Throws ModelFileError.
std::vector<ShardEntry> read_shard_index(const std::string& path, std::span<const std::byte> text);

// One more than the largest id in tokenizer.json. Throws ModelFileError; also when there is no id.
int64_t read_tokenizer_size(const std::string& path, std::span<const std::byte> text);

}  // namespace penstock
