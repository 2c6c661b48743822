// Where K and V are received: an address as text, and the sockets behind it. Owns parsing, listening and connecting.
#pragma once

#include <string>

#include "serve/descriptor.h"

namespace penstock {

// Listens at `unix:PATH` or `tcp:HOST:PORT` (port 0: any), non-blocking. HOST is a number, since asking a resolver would
// keep every other transfer waiting; IPv6 stands in brackets. A Unix socket is its owner's alone, and takes the place of one
// that nobody listens on. `address` becomes what others connect to. Throws std::invalid_argument for text that is no address,
// std::system_error where the system refuses.
Descriptor listen_at(std::string& address);
// Removes what listen_at() left in the file system.
void stop_listening(const std::string& address);
// A connection, non-blocking, perhaps still on its way. Throws as listen_at().
Descriptor connect_to(const std::string& address);

}  // namespace penstock
