// The Unix socket's place in the file system. Owns its creation, its permissions and its removal; connections are
// socket.h.
#pragma once

#include <sys/types.h>

#include <stdexcept>
#include <string>

#include "serve/descriptor.h"

namespace penstock {

// Something is in the way at the path: another engine that listens there, or a file that is no socket.
class SocketInUse : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws SocketInUse when binding to `path` would take it from somebody, std::invalid_argument for a path that no
// socket can have. To be asked before work that a collision would waste.
void check_socket_path(const std::string& path);

// Listens at `path`, readable and writable by this user alone. A socket file nobody listens on (its engine was killed)
// is replaced. The destructor removes the file, if it is still the one made here.
class Listener {
 public:
  // Throws as check_socket_path() does, and std::system_error when the system refuses.
  explicit Listener(std::string path);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int fd() const { return socket_.get(); }
  // A connection, non-blocking; closed when there was none to accept.
  Descriptor accept() const;

 private:
  std::string path_;
  Descriptor socket_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace penstock
