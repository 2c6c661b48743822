#include "model/file_map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "model/file_error.h"

namespace penstock {

FileMap::FileMap(std::string path) : path_(std::move(path)) {
  const auto fail = [&](const std::string& reason) {
    if (fd_ >= 0) close(fd_);
    throw ModelFileError(path_, 0, reason);
  };
  // Opening a pipe that nobody writes to would wait for ever.
  fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) fail("cannot open: " + std::generic_category().message(errno));
  struct stat status {};
  if (fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) fail("not a regular file");
  if (status.st_size == 0) fail("the file is empty");
  const auto size = static_cast<size_t>(status.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (mapped == MAP_FAILED) fail("cannot map: " + std::generic_category().message(errno));
#ifdef POSIX_FADV_SEQUENTIAL
  (void)posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);  // a hint: the kernel reads further ahead
#endif
  bytes_ = {static_cast<const std::byte*>(mapped), size};
}

FileMap::~FileMap() {
  munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  close(fd_);
}

void FileMap::read(uint64_t offset_bytes, std::span<std::byte> out) const {
  // One call may be refused above 2 GiB, and a network file system may answer in parts.
  constexpr size_t kCallBytesMax = size_t{1} << 30;
  while (!out.empty()) {
    const ssize_t got = pread(fd_, out.data(), std::min(out.size(), kCallBytesMax), static_cast<off_t>(offset_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw ModelFileError(path_, offset_bytes, "cannot read: " + std::generic_category().message(errno));
    if (got == 0) throw ModelFileError(path_, offset_bytes, "the file has become shorter since it was opened");
    out = out.subspan(static_cast<size_t>(got));
    offset_bytes += static_cast<uint64_t>(got);
  }
}

void FileMap::release() const {
  (void)madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);  // file pages: nothing is lost
}

}  // namespace penstock
