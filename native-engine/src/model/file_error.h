// What is wrong with a model file. Owns the typed error; gguf.cc, config.cc and weights.cc throw it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace penstock {

// The message names the file, the byte offset where reading stopped making sense, and the reason.
class ModelFileError : public std::runtime_error {
 public:
  ModelFileError(const std::string& path, uint64_t offset_bytes, const std::string& reason)
      : std::runtime_error(path + ": at byte " + std::to_string(offset_bytes) + ": " + reason),
        offset_bytes_(offset_bytes),
        reason_(reason) {}

  uint64_t offset_bytes() const { return offset_bytes_; }
  const std::string& reason() const { return reason_; }

 private:
  uint64_t offset_bytes_;
  std::string reason_;
};

}  // namespace penstock
