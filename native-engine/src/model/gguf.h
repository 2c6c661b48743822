// Reads the structure of a GGUF file (versions 2 and 3): metadata and where tensors lie. Does not know architectures
// (config.h) nor computes with tensors (weights.h). Input is hostile: every count, length and offset is checked against
// the bytes that are there, and what is wrong is reported with its offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/file_error.h"
#include "ops/tensor_type.h"

namespace penstock {

// Ids as in the file.
enum class GgufType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

// One metadata value; `bytes` lies in the mapped file. Arrays keep only their extent: nothing here needs their
// elements.
struct GgufValue {
  GgufType type;
  GgufType element_type;  // of an array; otherwise equal to type
  uint64_t count;         // elements of an array; otherwise 1
  std::span<const std::byte> bytes;
  uint64_t offset_bytes;  // of the value in the file
};

inline constexpr int32_t kGgufDimsMax = 4;

struct GgufTensor {
  std::string_view name;
  TensorType type;
  int32_t dims;                     // 1..kGgufDimsMax
  int64_t extent[kGgufDimsMax];     // [0] is the contiguous inner dimension; unused ones are 1
  std::span<const std::byte> data;  // exactly the tensor's bytes
  uint64_t info_offset_bytes;       // of its description in the file
};

class GgufFile {
 public:
  // `file` must outlive the result, which holds views into it. `path` is used in messages only. Throws ModelFileError.
  static GgufFile parse(std::string path, std::span<const std::byte> file);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  // nullptr when absent.
  const GgufValue* value(std::string_view key) const;
  const GgufTensor* tensor(std::string_view name) const;

  // Absent key = nullopt; a key of another kind, or an integer outside [min, max], throws. Any integer width is
  // accepted.
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max) const;
  std::optional<double> number(std::string_view key) const;  // a float, or an integer
  std::optional<std::string_view> string(std::string_view key) const;
  std::optional<uint64_t> array_count(std::string_view key) const;

 private:
  friend class GgufParser;

  std::string path_;
  uint32_t version_ = 0;
  std::unordered_map<std::string_view, GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> tensor_index_;
};

}  // namespace penstock
