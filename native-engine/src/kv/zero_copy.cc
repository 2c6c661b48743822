// Sends without a copy, and their ends. See zero_copy.h.
#include "kv/zero_copy.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#ifdef __linux__
#include <linux/errqueue.h>
#include <netinet/in.h>
#endif

namespace penstock {

#if defined(__linux__) && defined(SO_ZEROCOPY) && defined(MSG_ZEROCOPY)

ZeroCopyStream::ZeroCopyStream(Descriptor socket, bool keeps) : SocketStream(std::move(socket)), keeps_(keeps) {
  const int one = 1;
  on_ = setsockopt(fd(), SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one) == 0;
}

Moved ZeroCopyStream::write(std::span<const iovec> parts, Checksum* sum) {
  size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  if (!on_ || sum == nullptr || bytes < kZeroCopyBytesMin) return SocketStream::write(parts, sum);
  const Moved moved = send(parts, sum, MSG_ZEROCOPY);
  if (moved.bytes > 0) ++sent_;
  // No memory may be pinned any more, or the socket has no room for another notice; with a copy it goes.
  if (moved.over && (moved.error == ENOBUFS || moved.error == ENOMEM || moved.error == EOPNOTSUPP)) return SocketStream::write(parts, sum);
  return moved;
}

void ZeroCopyStream::settle() {
  // Notices come only for what was sent so: without any, no call.
  while (!is_settled()) {
    alignas(cmsghdr) char control[256];
    msghdr message{};
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (recvmsg(fd(), &message, MSG_ERRQUEUE) < 0) return;
    for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr; head = CMSG_NXTHDR(&message, head)) {
      const bool is_error = (head->cmsg_level == SOL_IP && head->cmsg_type == IP_RECVERR) ||
                            (head->cmsg_level == SOL_IPV6 && head->cmsg_type == IPV6_RECVERR);
      if (!is_error) continue;
      sock_extended_err notice{};
      std::memcpy(&notice, CMSG_DATA(head), sizeof notice);
      if (notice.ee_errno != 0 || notice.ee_origin != SO_EE_ORIGIN_ZEROCOPY) continue;
      // From ee_info to ee_data: neighbours are told together, and each of them once.
      done_ += notice.ee_data - notice.ee_info + 1;
      if ((notice.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0 && !keeps_) on_ = false;
    }
  }
}

// To no address: the system drops what waits in the socket, and says of it too that it is done.
void ZeroCopyStream::abandon() {
  sockaddr nowhere{};
  nowhere.sa_family = AF_UNSPEC;
  [[maybe_unused]] const int left = connect(fd(), &nowhere, sizeof nowhere);
}

#else

ZeroCopyStream::ZeroCopyStream(Descriptor socket, bool keeps) : SocketStream(std::move(socket)), keeps_(keeps) {}
Moved ZeroCopyStream::write(std::span<const iovec> parts, Checksum* sum) { return SocketStream::write(parts, sum); }
void ZeroCopyStream::settle() { done_ = sent_; }
void ZeroCopyStream::abandon() {}

#endif

Moved ZeroCopyStream::read(std::span<const iovec> parts, Checksum* sum) {
  settle();
  return SocketStream::read(parts, sum);
}

}  // namespace penstock
