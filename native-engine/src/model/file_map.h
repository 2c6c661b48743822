// A file mapped read-only. Owns the mapping; views into it must not outlive it.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace penstock {

class FileMap {
 public:
  // Throws ModelFileError (offset 0) when the file cannot be opened, is not a regular file, or is empty.
  // A file that another process shortens while it is mapped ends this process with SIGBUS: model files are replaced by
  // renaming, never rewritten in place.
  explicit FileMap(const std::string& path);
  ~FileMap();
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace penstock
