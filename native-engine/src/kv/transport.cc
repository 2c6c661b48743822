// Sockets as transports, and which address has which. See transport.h.
#include "kv/transport.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "kv/endpoint.h"
#include "kv/shared_memory.h"
#include "kv/zero_copy.h"

namespace penstock {
namespace {

#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif

msghdr message_of(std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());  // the calls do not write to it
  message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(parts.size());
  return message;
}

// The first `bytes` of them.
void take_in(std::span<const iovec> parts, size_t bytes, Checksum* sum) {
  if (sum == nullptr) return;
  for (size_t i = 0; bytes > 0; ++i) {
    const size_t here = std::min(bytes, parts[i].iov_len);
    sum->update({static_cast<const std::byte*>(parts[i].iov_base), here});
    bytes -= here;
  }
}

}  // namespace

short SocketStream::events(bool wants_write) const { return static_cast<short>(POLLIN | (wants_write ? POLLOUT : 0)); }

Moved SocketStream::moved_by(ssize_t count) {
  if (count >= 0) return {.bytes = static_cast<size_t>(count)};
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return {};
  return {.over = true, .error = errno};
}

Moved SocketStream::write(std::span<const iovec> parts, Checksum* sum) { return send(parts, sum, 0); }

Moved SocketStream::send(std::span<const iovec> parts, Checksum* sum, int flags) {
  if (parts.empty()) return {};
  const msghdr message = message_of(parts);
  const Moved moved = moved_by(sendmsg(socket_.get(), &message, kSendFlags | flags));
  take_in(parts, moved.bytes, sum);
  return moved;
}

Moved SocketStream::read(std::span<const iovec> parts, Checksum* sum) {
  msghdr message = message_of(parts);
  const ssize_t count = recvmsg(socket_.get(), &message, 0);
  if (count == 0) return {.over = true};
  const Moved moved = moved_by(count);
  take_in(parts, moved.bytes, sum);
  return moved;
}

std::unique_ptr<Transport> open_transport(const std::string& address, TransportWish wish, KvAccess* access) {
  Descriptor socket = connect_to(address);
  if (is_local(address) && wish.shares) return std::make_unique<SharedSource>(std::move(socket), access);
  // Blocks on a device pass memory that is used again at once.
  const bool zero_copy = wish.zero_copy == ZeroCopy::always || (wish.zero_copy == ZeroCopy::automatic && !is_loopback(address));
  if (!is_local(address) && zero_copy && access == nullptr)
    return std::make_unique<ZeroCopyStream>(std::move(socket), wish.zero_copy == ZeroCopy::always);
  return std::make_unique<SocketStream>(std::move(socket));
}

std::unique_ptr<Transport> accepted_transport(Descriptor socket, const std::string& address, KvAccess* access) {
  if (is_local(address)) return std::make_unique<SharedTarget>(std::move(socket), access);
  return std::make_unique<SocketStream>(std::move(socket));
}

}  // namespace penstock
