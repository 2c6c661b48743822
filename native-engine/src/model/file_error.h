// What is wrong with a model file. Owns the typed error that every reader of model files throws.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

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

// Names from outside end up in messages and logs: anything but printable ASCII is shown as '?', and length is bounded.
inline std::string printable(std::string_view text, size_t chars_max = 80) {
  std::string shown;
  for (char c : text.substr(0, chars_max)) shown += c >= 32 && c < 127 ? c : '?';
  return text.size() > chars_max ? shown + "..." : shown;
}

// For messages: "name".
inline std::string quoted(std::string_view text) {
  std::string shown(1, '"');
  shown += printable(text);
  shown += '"';
  return shown;
}

}  // namespace penstock
