#include "model/file_map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "model/file_error.h"

namespace penstock {

FileMap::FileMap(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw ModelFileError(path, 0, "cannot open: " + std::generic_category().message(errno));
  struct stat status{};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
    close(fd);
    throw ModelFileError(path, 0, S_ISREG(status.st_mode) ? "the file is empty" : "not a regular file");
  }
  const auto size = static_cast<size_t>(status.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int map_error = errno;
  close(fd);  // the mapping keeps the file
  if (mapped == MAP_FAILED) throw ModelFileError(path, 0, "cannot map: " + std::generic_category().message(map_error));
  (void)madvise(mapped, size, MADV_WILLNEED);  // a hint
  bytes_ = {static_cast<const std::byte*>(mapped), size};
}

FileMap::~FileMap() { munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

}  // namespace penstock
