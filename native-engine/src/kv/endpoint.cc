// Addresses and sockets of the KV transport. See endpoint.h.
#include "kv/endpoint.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <system_error>

namespace penstock {
namespace {

constexpr int kBacklog = 64;
// Room for some blocks on their way: a faster sender waits in the kernel and not in our loop.
constexpr int kSocketBufferBytes = 4 * 1024 * 1024;

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }
[[noreturn]] void no_address(const std::string& address) {
  throw std::invalid_argument("'" + address + "' is no address: unix:PATH or tcp:HOST:PORT is needed");
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
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
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

uint16_t port_of(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) fail("getsockname");
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

}  // namespace

Descriptor listen_at(std::string& address) {
  const Place place = place_of(address, true);
  Descriptor made = socket_for(place);
  const int one = 1;
  if (place.family == AF_UNIX) {
    // The folder is ours alone; what lies there was left by an engine that was killed.
    unlink(address.c_str() + std::strlen("unix:"));
  } else {
    setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  }
  setsockopt(made.get(), SOL_SOCKET, SO_RCVBUF, &kSocketBufferBytes, sizeof kSocketBufferBytes);
  if (bind(made.get(), reinterpret_cast<const sockaddr*>(&place.address), place.length) != 0) fail("bind");
  if (listen(made.get(), kBacklog) != 0) fail("listen");
  if (place.family != AF_UNIX) address = address.substr(0, address.rfind(':') + 1) + std::to_string(port_of(made.get()));
  return made;
}

Descriptor connect_to(const std::string& address) {
  const Place place = place_of(address, false);
  Descriptor made = socket_for(place);
  setsockopt(made.get(), SOL_SOCKET, SO_SNDBUF, &kSocketBufferBytes, sizeof kSocketBufferBytes);
  if (connect(made.get(), reinterpret_cast<const sockaddr*>(&place.address), place.length) != 0 && errno != EINPROGRESS &&
      errno != EAGAIN)
    fail("connect");
  return made;
}

}  // namespace penstock
