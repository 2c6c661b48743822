// A file descriptor with an owner, and the pipe that wakes a thread out of poll(). Owns closing; what is read and
// written is socket.cc.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace penstock {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Descriptor() { reset(); }

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

inline void set_nonblocking(int fd) {
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "fcntl");
}

// wake() from any thread or signal handler makes fd() readable until drain().
class WakePipe {
 public:
  WakePipe() {
    int ends[2];
    if (pipe(ends) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
    read_ = Descriptor(ends[0]);
    write_ = Descriptor(ends[1]);
    set_nonblocking(ends[0]);
    set_nonblocking(ends[1]);
  }
  int fd() const { return read_.get(); }
  void wake() const noexcept {
    const int saved_errno = errno;
    const char byte = 0;
    // A full pipe wakes as well as one byte more would.
    [[maybe_unused]] const ssize_t written = ::write(write_.get(), &byte, 1);
    errno = saved_errno;
  }
  void drain() const noexcept {
    char bytes[64];
    while (read(read_.get(), bytes, sizeof bytes) > 0) {
    }
  }

 private:
  Descriptor read_, write_;
};

}  // namespace penstock
