// Binding, probing and removing the Unix socket. See listener.h.
#include "serve/listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace penstock {
namespace {

// Refused connections (a second agent) leave at once, so only a burst has to fit.
constexpr int kBacklog = 16;

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    throw std::invalid_argument("socket path must have from 1 to " + std::to_string(sizeof address.sun_path - 1) +
                                " bytes");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) { return reinterpret_cast<const sockaddr*>(&address); }

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

Descriptor make_socket() {
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0) fail("socket");
  Descriptor made(fd);
  set_nonblocking(fd);
  return made;
}

// True when the path holds a socket file that nobody listens on.
bool is_stale(const std::string& path) {
  const sockaddr_un address = address_of(path);
  struct stat found{};
  if (lstat(path.c_str(), &found) != 0) {
    if (errno == ENOENT) return false;
    fail(path);
  }
  if (!S_ISSOCK(found.st_mode)) throw SocketInUse(path + " exists and is not a socket");
  const Descriptor probe = make_socket();
  // Anything but a refusal, a full backlog included, means that somebody is there.
  if (connect(probe.get(), generic(address), sizeof address) != 0 && errno == ECONNREFUSED) return true;
  throw SocketInUse("another engine listens on " + path);
}

}  // namespace

void check_socket_path(const std::string& path) { is_stale(path); }

Listener::Listener(std::string path) : path_(std::move(path)) {
  const sockaddr_un address = address_of(path_);
  if (is_stale(path_) && unlink(path_.c_str()) != 0) fail("removing the stale socket " + path_);
  socket_ = make_socket();
  // The mask closes the moment between bind() and chmod() in which another user could connect.
  const mode_t mask = umask(0177);
  const int bound = bind(socket_.get(), generic(address), sizeof address);
  const int bind_errno = errno;
  umask(mask);
  if (bound != 0) {
    if (bind_errno == EADDRINUSE) throw SocketInUse("another engine took " + path_);
    errno = bind_errno;
    fail("binding " + path_);
  }
  struct stat made{};
  if (chmod(path_.c_str(), 0600) != 0 || lstat(path_.c_str(), &made) != 0) fail(path_);
  device_ = made.st_dev;
  inode_ = made.st_ino;
  if (listen(socket_.get(), kBacklog) != 0) fail("listening on " + path_);
}

Listener::~Listener() {
  struct stat found{};
  if (lstat(path_.c_str(), &found) == 0 && found.st_dev == device_ && found.st_ino == inode_) unlink(path_.c_str());
}

Descriptor Listener::accept() const {
  const int fd = ::accept(socket_.get(), nullptr, nullptr);
  if (fd < 0) return {};
  Descriptor connection(fd);
  set_nonblocking(fd);
  return connection;
}

}  // namespace penstock
