// One file of a model, opened once. Owns the descriptor, and the mapping that its structure is read through.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace penstock {

class FileMap {
 public:
  // Throws ModelFileError (offset 0) when the file cannot be opened, is not a regular file, or is empty.
  explicit FileMap(std::string path);
  ~FileMap();
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;

  const std::string& path() const { return path_; }
  // The file as it was when it was opened. For headers and metadata: pages that are touched count as this process's
  // memory until release(), and touching what another process has cut off since ends this one with SIGBUS.
  std::span<const std::byte> bytes() const { return bytes_; }

  // Copies bytes [offset_bytes, offset_bytes + out.size()). For the bulk of a file, its tensors: it costs a copy out of
  // the page cache, but nothing stays resident, several threads may call it, and a file that has become shorter is a
  // ModelFileError. PRECOND: the range lies in bytes().
  void read(uint64_t offset_bytes, std::span<std::byte> out) const;

  // Gives back the pages that reading bytes() has made resident; later reads fetch them again.
  void release() const;

 private:
  std::string path_;
  int fd_ = -1;
  std::span<const std::byte> bytes_;
};

}  // namespace penstock
