// Arenas and the notes about them. See shared_memory.h.
#include "kv/shared_memory.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kv/transfer_wire.h"

namespace penstock {
namespace {

// What is told, or given back, at a time, as a share of the ring: the other side copies one such part while the next is being
// filled.
constexpr size_t kSteps = 8;
// No receiver of ours offers more, and nobody is to have us map what it likes.
constexpr size_t kArenaBytesMax = 64 * 1024 * 1024;

#ifdef __linux__
constexpr uint32_t kFeatures = wire::kFeatureSharedMemory;
#else
constexpr uint32_t kFeatures = 0;  // no memory without a name that can be sealed
#endif

Moved broken(int error) { return {.over = true, .error = error}; }

iovec part_of(const void* bytes, size_t count) { return {const_cast<void*>(bytes), count}; }

void copy_bytes(std::byte* to, const std::byte* from, size_t bytes, Checksum* sum) {
  if (sum != nullptr) return sum->copy(to, {from, bytes});
  std::memcpy(to, from, bytes);
}

class MemoryRing final : public SharedRing {
 public:
  explicit MemoryRing(Arena arena) : arena_(std::move(arena)) {}
  size_t bytes() const override { return arena_.bytes(); }
  bool reaches_device() const override { return false; }
  size_t copy(size_t& at, std::span<const iovec> parts, size_t limit, bool to_ring, Checksum* sum) override {
    size_t done = 0;
    for (const iovec& part : parts) {
      for (size_t offset = 0; offset < part.iov_len && done < limit;) {
        const size_t here = std::min({part.iov_len - offset, limit - done, arena_.bytes() - at});
        std::byte* const place = static_cast<std::byte*>(part.iov_base) + offset;
        copy_bytes(to_ring ? arena_.at(at) : place, to_ring ? place : arena_.at(at), here, sum);
        at = (at + here) % arena_.bytes();
        offset += here;
        done += here;
      }
    }
    return done;
  }

 private:
  Arena arena_;
};

std::unique_ptr<SharedRing> ring_of(std::optional<Arena> arena) {
  return arena.has_value() ? std::make_unique<MemoryRing>(std::move(*arena)) : nullptr;
}

#ifdef __linux__

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::byte* mapped(int fd, size_t bytes, int protection) {
  void* data = mmap(nullptr, bytes, protection, MAP_SHARED | MAP_POPULATE, fd, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

// A note with a descriptor.
bool send_with(int socket, const wire::Note& note, int fd) {
  iovec part = part_of(&note, sizeof note);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  return sendmsg(socket, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof note);
}

// As recv(), and the descriptor that came along, if any; more than one are closed by the kernel.
ssize_t receive_with(int socket, std::span<std::byte> into, Descriptor& fd) {
  iovec part = part_of(into.data(), into.size());
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  const int saved_errno = errno;
  if (count >= 0) {
    for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr; head = CMSG_NXTHDR(&message, head)) {
      if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
      int received = -1;
      std::memcpy(&received, CMSG_DATA(head), sizeof received);
      fd = Descriptor(received);
    }
  }
  errno = saved_errno;
  return count;
}

#else

bool send_with(int, const wire::Note&, int) { return false; }
ssize_t receive_with(int socket, std::span<std::byte> into, Descriptor&) { return recv(socket, into.data(), into.size(), 0); }

#endif

}  // namespace

#ifdef __linux__

std::optional<Arena> Arena::make(size_t bytes, Descriptor& fd) {
  fd = Descriptor(memfd_create("penstock-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  // All pages now: where memory is short, this says so, and a write to the mapping would end the process.
  if (!fd.is_open() || posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0)
    return std::nullopt;
  std::byte* data = mapped(fd.get(), bytes, PROT_READ);
  if (data == nullptr) return std::nullopt;
  return Arena(data, bytes);
}

std::optional<Arena> Arena::take(const Descriptor& fd, size_t bytes) {
  struct stat found {};
  if (!fd.is_open() || bytes == 0 || bytes > kArenaBytesMax || fstat(fd.get(), &found) != 0 ||
      found.st_size != static_cast<off_t>(bytes))
    return std::nullopt;
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return std::nullopt;
  std::byte* data = mapped(fd.get(), bytes, PROT_READ | PROT_WRITE);
  if (data == nullptr) return std::nullopt;
  return Arena(data, bytes);
}

#else

std::optional<Arena> Arena::make(size_t, Descriptor&) { return std::nullopt; }
std::optional<Arena> Arena::take(const Descriptor&, size_t) { return std::nullopt; }

#endif

Arena::~Arena() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

// --- The side that sends

uint32_t SharedSource::features() const { return kFeatures | (access_ != nullptr ? wire::kFeatureDeviceMemory : 0); }

short SharedSource::events(bool wants_write) const {
  const bool has_room = ring_ == nullptr || unfreed_ < ring_->bytes();
  return static_cast<short>(POLLIN | (has_unsent() || (wants_write && has_room) ? POLLOUT : 0));
}

Moved SharedSource::write(std::span<const iovec> parts, Checksum* sum) {
  if (ring_ == nullptr) return SocketStream::write(parts, sum);
  const size_t limit = std::min(ring_->bytes() - unfreed_, ring_->bytes() / kSteps);
  const size_t copied = ring_->copy(at_, parts, limit, true, sum);
  unfreed_ += copied;
  untold_ += copied;
  const Moved told = tell();
  return told.over ? told : Moved{.bytes = copied};
}

// What does not go now goes with the next bytes, or when poll() says that there is room.
Moved SharedSource::tell() {
  if (untold_ == 0) return {};
  const wire::Note note{.magic = wire::kFilled, .bytes = static_cast<uint32_t>(untold_)};
  const iovec part = part_of(&note, sizeof note);
  const Moved sent = SocketStream::write({&part, 1});
  if (sent.bytes == sizeof note) untold_ = 0;
  // A Unix socket takes eight bytes or none.
  return sent.bytes == 0 || sent.bytes == sizeof note ? sent : broken(EPROTO);
}

Moved SharedSource::read(std::span<const iovec> parts, Checksum*) {
  for (;;) {
    if (device_bytes_ > 0) {
      const iovec rest = part_of(handle_.data() + handle_bytes_, handle_.size() - handle_bytes_);
      const Moved moved = SocketStream::read({&rest, 1});
      if (moved.over || moved.bytes == 0) return moved;
      handle_bytes_ += moved.bytes;
      if (handle_bytes_ < handle_.size()) continue;
      const size_t bytes = std::exchange(device_bytes_, 0);
      const Moved answered = answer_offer(access_ == nullptr ? nullptr : access_->take_ring(handle_, bytes));
      if (answered.over) return answered;
    }
    Descriptor fd;
    const ssize_t count = receive_with(this->fd(), std::span(note_).subspan(note_bytes_), fd);
    if (count == 0) return {.over = true};
    if (count < 0) return moved_by(count);
    note_bytes_ += static_cast<size_t>(count);
    if (note_bytes_ < sizeof note_) continue;
    note_bytes_ = 0;
    const auto note = wire::read<wire::Note>(note_);
    if (note.magic == wire::kArena || note.magic == wire::kDeviceArena) {
      if (std::exchange(asked_, true)) return broken(EPROTO);
      if (note.magic == wire::kDeviceArena) {
        if (note.bytes == 0 || note.bytes > kArenaBytesMax) return broken(EPROTO);
        device_bytes_ = note.bytes;
      } else if (const Moved answered = answer_offer(ring_of(Arena::take(fd, note.bytes))); answered.over) {
        return answered;
      }
    } else if (note.magic == wire::kFreed && ring_ != nullptr) {
      if (note.bytes > unfreed_ - untold_) return broken(EPROTO);
      unfreed_ -= note.bytes;
    } else {
      // Everything else that a receiver says is of the same size, and whoever reads has room for one.
      if (parts.empty() || parts.front().iov_len < sizeof note_) return broken(EPROTO);
      std::memcpy(parts.front().iov_base, note_, sizeof note_);
      return {.bytes = sizeof note_};
    }
  }
}

// nullptr: it could not be mapped.
Moved SharedSource::answer_offer(std::unique_ptr<SharedRing> ring) {
  ring_ = std::move(ring);
  const wire::Note note{.magic = wire::kTaken, .bytes = ring_ != nullptr ? 1u : 0u};
  const iovec part = part_of(&note, sizeof note);
  // The offer has been read, so there is room.
  const Moved sent = SocketStream::write({&part, 1});
  return sent.bytes == sizeof note ? sent : broken(sent.over ? sent.error : EPROTO);
}

// --- The side that receives

// Memory of a device is understood here also where there is none: it is not granted then.
uint32_t SharedTarget::features() const { return kFeatures | wire::kFeatureDeviceMemory; }

void SharedTarget::grant(uint32_t asked) {
  const bool offered = ((asked & wire::kFeatureDeviceMemory) != 0 && offer_device()) ||
                       ((asked & wire::kFeatureSharedMemory) != 0 && offer_memory());
  if (offered) phase_ = Phase::Offered;
}

bool SharedTarget::offer_device() {
  if (access_ == nullptr) return false;
  ArenaHandle handle;
  std::unique_ptr<SharedRing> made = access_->make_ring(handle);
  if (made == nullptr) return false;
  const wire::Note note{.magic = wire::kDeviceArena, .bytes = static_cast<uint32_t>(made->bytes())};
  const iovec parts[] = {part_of(&note, sizeof note), part_of(handle.data(), handle.size())};
  // The first bytes on this connection: there is room, or it is broken.
  if (SocketStream::write(parts).bytes != sizeof note + handle.size()) return false;
  ring_ = std::move(made);
  return true;
}

bool SharedTarget::offer_memory() {
  Descriptor descriptor;
  std::unique_ptr<SharedRing> made = ring_of(Arena::make(kArenaBytes, descriptor));
  if (made == nullptr) return false;
  if (!send_with(fd(), {.magic = wire::kArena, .bytes = static_cast<uint32_t>(kArenaBytes)}, descriptor.get())) return false;
  ring_ = std::move(made);
  return true;
}

Moved SharedTarget::read(std::span<const iovec> parts, Checksum* sum) {
  if (phase_ != Phase::Plain && filled_ == 0) {
    const Moved told = read_notes();
    if (told.over) return told;
  }
  if (phase_ == Phase::Plain) return SocketStream::read(parts, sum);
  if (filled_ == 0) return {};
  const size_t copied = ring_->copy(at_, parts, filled_, false, sum);
  filled_ -= copied;
  owed_ += copied;
  if (owed_ < ring_->bytes() / kSteps) return {.bytes = copied};
  const wire::Note note{.magic = wire::kFreed, .bytes = static_cast<uint32_t>(std::exchange(owed_, 0))};
  const iovec part = part_of(&note, sizeof note);
  // At most a ring of such notes is unread, so there is room.
  const Moved sent = SocketStream::write({&part, 1});
  return sent.bytes == sizeof note ? Moved{.bytes = copied} : broken(sent.over ? sent.error : EPROTO);
}

// Until something is in the ring, or the sender has declined it.
Moved SharedTarget::read_notes() {
  while (phase_ == Phase::Offered || filled_ == 0) {
    // Behind the first note there may be the stream itself, if the sender has declined.
    const size_t wanted = phase_ == Phase::Offered ? sizeof(wire::Note) : sizeof notes_;
    const iovec part = part_of(notes_ + notes_bytes_, wanted - notes_bytes_);
    const Moved moved = SocketStream::read({&part, 1});
    if (moved.over || moved.bytes == 0) return moved;
    notes_bytes_ += moved.bytes;
    size_t done = 0;
    for (; notes_bytes_ - done >= sizeof(wire::Note); done += sizeof(wire::Note)) {
      const auto note = wire::read<wire::Note>(std::span(notes_).subspan(done));
      if (phase_ == Phase::Offered) {
        if (note.magic != wire::kTaken || note.bytes > 1) return broken(EPROTO);
        phase_ = note.bytes == 1 ? Phase::Shared : Phase::Plain;
        if (phase_ == Phase::Plain) ring_.reset();
      } else {
        if (note.magic != wire::kFilled || note.bytes == 0 || note.bytes > ring_->bytes() - filled_ - owed_) return broken(EPROTO);
        filled_ += note.bytes;
      }
    }
    std::memmove(notes_, notes_ + done, notes_bytes_ - done);
    notes_bytes_ -= done;
    if (phase_ == Phase::Plain) return {};
  }
  return {};
}

}  // namespace penstock
