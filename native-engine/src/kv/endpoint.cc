// Addresses and sockets of the KV transport. See endpoint.h.
#include "kv/endpoint.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <system_error>

namespace penstock {
namespace {

// Of Unix sockets. Room for some blocks on their way: a faster sender waits in the kernel and not in our loop. Those of TCP
// grow by themselves, further than net.core.rmem_max lets us go, and a size that is set would end that.
constexpr int kSocketBufferBytes = 4 * 1024 * 1024;

// Of an IPv6 address: what names the network, and what is ahead of an IPv4 address within.
constexpr size_t kNetworkBytes = 8;
constexpr size_t kMappedBytes = 12;

constexpr size_t kUnixBytes = std::char_traits<char>::length("unix:");

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }
[[noreturn]] void no_address(const std::string& address) {
  throw std::invalid_argument("'" + address + "' is no address: unix:PATH or tcp:HOST:PORT, with a number for HOST, is needed");
}

struct Place {
  int family = 0;
  sockaddr_storage address = {};
  socklen_t length = 0;
};

Place unix_place(const std::string& text, std::string_view path) {
  Place place{.family = AF_UNIX};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) no_address(text);
  std::memcpy(address.sun_path, path.data(), path.size());
  std::memcpy(&place.address, &address, sizeof address);
  place.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return place;
}

Place tcp_place(const std::string& text, std::string_view rest, bool to_listen) {
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0) no_address(text);
  std::string host(rest.substr(0, colon));
  const std::string port(rest.substr(colon + 1));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0 || found == nullptr) no_address(text);
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  Place place{.family = found->ai_family, .length = found->ai_addrlen};
  std::memcpy(&place.address, found->ai_addr, found->ai_addrlen);
  return place;
}

Place place_of(const std::string& text, bool to_listen) {
  const std::string_view view(text);
  if (view.starts_with("unix:")) return unix_place(text, view.substr(5));
  if (view.starts_with("tcp:")) return tcp_place(text, view.substr(4), to_listen);
  no_address(text);
}

Descriptor socket_for(const Place& place) {
  Descriptor made(socket(place.family, SOCK_STREAM, 0));
  if (!made.is_open()) fail("socket");
  set_nonblocking(made.get());
  const int one = 1;
  if (place.family != AF_UNIX) setsockopt(made.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return made;
}

const sockaddr* generic(const Place& place) { return reinterpret_cast<const sockaddr*>(&place.address); }

// A socket that an engine left behind which was killed. Anything but a refusal means that somebody is there.
void remove_stale(const Place& place, const char* path) {
  struct stat found {};
  if (lstat(path, &found) != 0 || !S_ISSOCK(found.st_mode)) return;
  const Descriptor probe = socket_for(place);
  if (connect(probe.get(), generic(place), place.length) != 0 && errno == ECONNREFUSED) unlink(path);
}

uint16_t port_of(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) fail("getsockname");
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

// Of the process at the other end of a Unix socket.
std::string user_of(int fd) {
#ifdef SO_PEERCRED
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return {};
  const uid_t user = credentials.uid;
#else
  uid_t user = 0;
  gid_t group = 0;
  if (getpeereid(fd, &user, &group) != 0) return {};
#endif
  return "user " + std::to_string(user);
}

}  // namespace

std::vector<std::string> addresses_in(std::string_view text) {
  std::vector<std::string> found;
  while (!text.empty()) {
    size_t end = text.find(' ');
    while (end != std::string_view::npos) {
      const std::string_view rest = text.substr(end + 1);
      const size_t scheme = rest.find_first_not_of("abcdefghijklmnopqrstuvwxyz");
      if (scheme != std::string_view::npos && scheme > 0 && rest[scheme] == ':') break;
      end = text.find(' ', end + 1);
    }
    found.emplace_back(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  return found;
}

bool is_local(std::string_view address) { return address.starts_with("unix:"); }

bool is_loopback(std::string_view address) { return address.starts_with("tcp:127.") || address.starts_with("tcp:[::1]:"); }

Descriptor listen_at(std::string& address) {
  const Place place = place_of(address, true);
  Descriptor made = socket_for(place);
  const int one = 1;
  if (place.family == AF_UNIX) {
    remove_stale(place, address.c_str() + kUnixBytes);
    setsockopt(made.get(), SOL_SOCKET, SO_RCVBUF, &kSocketBufferBytes, sizeof kSocketBufferBytes);
  } else {
    setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  }
  // The mask closes the moment in which another user could connect.
  const mode_t mask = umask(0177);
  const int bound = bind(made.get(), generic(place), place.length);
  const int bind_errno = errno;
  umask(mask);
  errno = bind_errno;
  if (bound != 0) fail("bind");
  if (listen(made.get(), kWaitingMax) != 0) fail("listen");
  if (place.family != AF_UNIX) address = address.substr(0, address.rfind(':') + 1) + std::to_string(port_of(made.get()));
  return made;
}

void stop_listening(const std::string& address) {
  if (address.starts_with("unix:")) unlink(address.c_str() + kUnixBytes);
}

Descriptor connect_to(const std::string& address) {
  const Place place = place_of(address, false);
  Descriptor made = socket_for(place);
  if (place.family == AF_UNIX)
    setsockopt(made.get(), SOL_SOCKET, SO_SNDBUF, &kSocketBufferBytes, sizeof kSocketBufferBytes);
  // A Unix socket whose backlog is full says EAGAIN and is not on its way.
  if (connect(made.get(), generic(place), place.length) != 0 && errno != EINPROGRESS) fail("connect");
  return made;
}

std::string peer_of(const Descriptor& accepted) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getpeername(accepted.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  if (address.ss_family == AF_UNIX) return user_of(accepted.get());
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&address)->sin_addr, text, sizeof text);
    return text;
  }
  if (address.ss_family != AF_INET6) return {};
  in6_addr host = reinterpret_cast<const sockaddr_in6*>(&address)->sin6_addr;
  // As a socket sees IPv4 that listens for both.
  if (IN6_IS_ADDR_V4MAPPED(&host)) {
    inet_ntop(AF_INET, host.s6_addr + kMappedBytes, text, sizeof text);
    return text;
  }
  std::memset(host.s6_addr + kNetworkBytes, 0, sizeof host.s6_addr - kNetworkBytes);
  inet_ntop(AF_INET6, &host, text, sizeof text);
  return std::string(text) + "/64";
}

}  // namespace penstock
