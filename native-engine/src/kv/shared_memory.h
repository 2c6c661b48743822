// K and V through memory that two engines of one host share. Owns the arena, its mapping on either side and the notes that
// say what is in it; when it may be offered at all is receiver.h.
//
// The arena is the receiver's, one for each transfer: a ring that the sender fills and from which the receiver copies into its
// blocks. Not the blocks themselves, although that would save a copy: a sender that is stopped in the middle of a copy and
// goes on after minutes would write into blocks that are another request's by then, and nothing that the receiver could do
// ends a mapping in another process. So only the receiver writes into blocks, and only while the transfer is open. Whoever
// writes into an arena late writes into memory that nobody reads any more: it is never used for a second transfer. For the
// same reason the checksum is that of what was written into the block: each byte of the arena is read once. Nor does the receiver map the
// sender's blocks and fetch them, one copy as well: the pool would have to lie in a memfd, which has no huge pages on most
// systems, and every step would pay for it.
//
// Notes travel on the socket, and only they say which bytes of the ring are whose: neither side takes a number from memory
// that the other can write to, a note is read after the bytes that it speaks of were written, and a process that is killed
// has said nothing of what it was about to write. Eight bytes each:
//
//   sender                                   receiver
//                                     ◀───── ARENA bytes, with the descriptor; before the ANSWER that lets the sender in
//                                     ◀───── or DEVICE ARENA bytes, with the handle of memory of a GPU behind it
//   TAKEN 1, or 0: could not map it   ─────▶         with 0 everything stays on the socket
//   FILLED bytes                      ─────▶         so many more bytes of the stream are in the ring
//                                     ◀───── FREED bytes           so many were copied out
//
// The descriptor goes to a sender that has shown the secret of the transfer, over a socket that is its owner's alone. It
// cannot be made shorter (sealed), which would end the process that reads it with a signal; the sender checks that it is so.
//
// Between two engines with GPUs of one host the ring lies in the memory of the receiver's (CUDA IPC), the copies are the
// devices', and nothing but notes passes the processor. Such memory is used again for later transfers, since making it stops the
// device: a sender that goes on late then damages bytes of another transfer, whose checksum says so.
#pragma once

#include <memory>
#include <optional>

#include "kv/access.h"
#include "kv/transport.h"

namespace penstock {

// Less makes the two sides wait for each other, more falls out of the processor's caches between the two copies: measured on
// two cores, 1 and 2 MiB are the best. Each costs a transfer about a millisecond to make, and there are as many at a time as
// the receiver has connections, 64 at most.
inline constexpr size_t kArenaBytes = 1024 * 1024;
// Of fewer bytes the arena costs more than it saves: measured, the socket is as fast up to 8 to 16 MiB.
inline constexpr int64_t kSharedBytesMin = 16 * 1024 * 1024;

// Memory that both sides have mapped.
class Arena {
 public:
  // The receiver's: new, of this size for ever, all of it there; read only. nullopt: the system has none.
  static std::optional<Arena> make(size_t bytes, Descriptor& fd);
  // The sender's. nullopt: not what it is said to be, or it cannot be mapped.
  static std::optional<Arena> take(const Descriptor& fd, size_t bytes);
  Arena(Arena&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  size_t bytes() const { return bytes_; }
  std::byte* at(size_t offset) const { return data_ + offset; }

 private:
  Arena(std::byte* data, size_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_;
  size_t bytes_;
};

class SharedSource final : public SocketStream {
 public:
  // `access`: of blocks on a device, or nullptr.
  explicit SharedSource(Descriptor socket, KvAccess* access = nullptr)
      : SocketStream(std::move(socket)), access_(access) {}
  short events(bool wants_write) const override;
  bool has_unsent() const override { return untold_ > 0; }
  Moved write(std::span<const iovec> parts, Checksum* sum = nullptr) override;
  Moved read(std::span<const iovec> parts, Checksum* sum = nullptr) override;
  uint32_t features() const override;
  bool reaches_device() const override { return ring_ != nullptr && ring_->reaches_device(); }
  // Whether bytes go through memory by now.
  bool shares() const { return ring_ != nullptr; }

 private:
  Moved answer_offer(std::unique_ptr<SharedRing> ring);
  Moved tell();

  KvAccess* access_;
  std::unique_ptr<SharedRing> ring_;
  ArenaHandle handle_ = {};
  uint32_t device_bytes_ = 0;  // of a device's arena whose handle is being read
  size_t handle_bytes_ = 0;    // of it, read
  bool asked_ = false;   // an arena was offered, taken or not
  size_t at_ = 0;        // of the ring: where the next byte goes
  size_t unfreed_ = 0;   // bytes in the ring that the receiver has not given back
  size_t untold_ = 0;    // of these, the receiver does not know of
  std::byte note_[8] = {};
  size_t note_bytes_ = 0;
};

class SharedTarget final : public SocketStream {
 public:
  explicit SharedTarget(Descriptor socket, KvAccess* access = nullptr)
      : SocketStream(std::move(socket)), access_(access) {}
  bool has_bytes() const override { return filled_ > 0; }
  Moved read(std::span<const iovec> parts, Checksum* sum = nullptr) override;
  uint32_t features() const override;
  void grant(uint32_t asked) override;
  bool reaches_device() const override { return phase_ == Phase::Shared && ring_->reaches_device(); }

 private:
  // Offered: the sender has not said yet whether it has taken the arena.
  enum class Phase { Plain, Offered, Shared };
  Moved read_notes();
  bool offer_device();
  bool offer_memory();

  KvAccess* access_;
  Phase phase_ = Phase::Plain;
  std::unique_ptr<SharedRing> ring_;
  size_t at_ = 0;      // of the ring: the next byte to be read
  size_t filled_ = 0;  // bytes there
  size_t owed_ = 0;    // bytes copied out that the sender does not know of
  std::byte notes_[128] = {};
  size_t notes_bytes_ = 0;
};

}  // namespace penstock
