// Where K and V are received: an address as text, and the sockets behind it. Owns parsing, listening and connecting, and who is at
// the other end.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "serve/descriptor.h"

namespace penstock {

// Connections of one listener that the system keeps until they are accepted.
inline constexpr int kWaitingMax = 64;

// Of one place under several addresses, `unix:PATH tcp:HOST:PORT`, in order of preference: where one ends is where a space is
// followed by the next scheme, since paths may have spaces. Nothing is checked.
std::vector<std::string> addresses_in(std::string_view text);
// Whether only processes of this host can be there.
bool is_local(std::string_view address);
// Whether it names this host's loopback device.
bool is_loopback(std::string_view address);

// Listens at `unix:PATH` or `tcp:HOST:PORT` (port 0: any), non-blocking. HOST is a number, since asking a resolver would
// keep every other transfer waiting; IPv6 stands in brackets. A Unix socket is its owner's alone, and takes the place of one
// that nobody listens on. `address` becomes what others connect to. Throws std::invalid_argument for text that is no address,
// std::system_error where the system refuses.
Descriptor listen_at(std::string& address);
// Removes what listen_at() left in the file system.
void stop_listening(const std::string& address);
// A connection, non-blocking, perhaps still on its way. Throws as listen_at().
Descriptor connect_to(const std::string& address);
// Whose connection was accepted, as far as one can have many: an IPv4 address, 64 bits of an IPv6 address (a host may use all that
// begin so), a user of this host. Empty: it has gone, or the system does not say.
std::string peer_of(const Descriptor& accepted);

}  // namespace penstock
