// Reads the structure of a safetensors file: which tensors it holds and where. Does not know names or models
// (huggingface_source.cc). Input is hostile: every size and offset is checked against the bytes that are there, and
// what is wrong is reported with its offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/file_error.h"
#include "ops/tensor_type.h"

namespace penstock {

struct SafetensorsTensor {
  std::string name;
  std::string_view dtype;          // as in the file: "BF16"
  std::optional<TensorType> type;  // absent for a dtype that no weight here has: "I64"
  std::vector<int64_t> shape;      // outermost dimension first; no dimension is 0
  uint64_t offset_bytes;           // of its data in the file
  uint64_t size_bytes;             // exactly the product of the shape
  uint64_t info_offset_bytes;      // of its description in the file
};

// In order of their data, which fills the file behind the header without a gap. `file` is the whole file; `path` is
// used in messages only. Throws ModelFileError.
std::vector<SafetensorsTensor> read_safetensors(const std::string& path, std::span<const std::byte> file);

}  // namespace penstock
