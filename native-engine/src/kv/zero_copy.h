// TCP that sends blocks from where they lie (Linux, MSG_ZEROCOPY). Owns the account of what the system still reads: it says in the
// socket's error queue which sends it is done with, and whether it has copied all the same, as the loopback device does. Where it
// has, or refuses, the stream goes on as an ordinary one.
#pragma once

#include "kv/transport.h"

namespace penstock {

// Fewer bytes cost less to copy than to pin: the kernel's documentation says about 10 KiB.
inline constexpr size_t kZeroCopyBytesMin = 16 * 1024;

class ZeroCopyStream final : public SocketStream {
 public:
  // `keeps`: also where the system copies all the same.
  ZeroCopyStream(Descriptor socket, bool keeps);
  Moved write(std::span<const iovec> parts, Checksum* sum = nullptr) override;
  Moved read(std::span<const iovec> parts, Checksum* sum = nullptr) override;
  bool is_settled() const override { return sent_ == done_; }
  void settle() override;
  void abandon() override;

  // Sends that went so, and whether the next one will.
  uint32_t sent() const { return sent_; }
  bool is_on() const { return on_; }

 private:
  bool on_ = false;
  bool keeps_;
  // As the system counts them, from 0, past the last number to 0 again.
  uint32_t sent_ = 0;
  uint32_t done_ = 0;
};

}  // namespace penstock
