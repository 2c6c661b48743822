// How bytes cross between two engines. Owns a connection as a stream of bytes in each direction; what the bytes mean is
// transfer_wire.h, who may write where transfer_table.h, and for how long anybody waits sender.h and receiver.h: no call here
// ever waits.
//
//   address         sender         receiver        bytes of K and V
//   tcp:HOST:PORT   SocketStream   SocketStream    through the socket, perhaps several (sender.h), perhaps without a copy on the
//                                                  sender's side (zero_copy.h)
//   unix:PATH       SharedSource   SharedTarget    through shared memory (shared_memory.h), a GPU's where both sides have one,
//                                                  or through the socket where that is not to be had
//
// Room for more: a kind of transport is an address (endpoint.h) and a class for each side. UCX is a stream whose fd() is its
// worker's. A sender skips addresses that it does not know.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kv/checksum.h"
#include "serve/descriptor.h"

namespace penstock {

class KvAccess;

// What one call did.
struct Moved {
  size_t bytes = 0;   // 0: nothing now; again when poll() says so
  bool over = false;  // nothing moves on this connection any more
  int error = 0;      // why it is over; 0: the other side closed it
};

class Transport {
 public:
  Transport() = default;
  virtual ~Transport() = default;  // closes
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  virtual int fd() const = 0;
  // What poll() is to look for.
  virtual short events(bool wants_write) const = 0;
  // Bytes are there to be read that poll() does not see.
  virtual bool has_bytes() const { return false; }
  // Bytes were taken that the other side does not know of yet: write() again, of nothing, when poll() says so.
  virtual bool has_unsent() const { return false; }

  // Gathers, in order, as much as there is room for. `sum` takes in what has moved. With a sum, parts are blocks, which stay as they
  // are until is_settled().
  virtual Moved write(std::span<const iovec> parts, Checksum* sum = nullptr) = 0;
  // Straight into place, as much as there is. `sum` takes in what lies there now.
  virtual Moved read(std::span<const iovec> parts, Checksum* sum = nullptr) = 0;

  // Whether the system is done with the memory of the blocks that were written. settle() looks; poll() says when to.
  virtual bool is_settled() const { return true; }
  virtual void settle() {}
  // What was written and has not gone yet is not to go any more, so that it is settled soon. Nothing can be written or read after it.
  virtual void abandon() {}

  // Parts may be in the memory of a device; heads never are.
  virtual bool reaches_device() const { return false; }

  // Bits of wire::OfferHead: the sender's, what it asks for; the receiver's, what it understands.
  virtual uint32_t features() const { return 0; }
  // On the receiver's side, between the proof of the sender's right and the answer to it: grants what it has asked for, where
  // the system lets it.
  virtual void grant([[maybe_unused]] uint32_t asked) {}
};

// A socket as it is. Also what both sides of a Unix socket are until they share memory.
class SocketStream : public Transport {
 public:
  explicit SocketStream(Descriptor socket) : socket_(std::move(socket)) {}
  int fd() const override { return socket_.get(); }
  short events(bool wants_write) const override;
  Moved write(std::span<const iovec> parts, Checksum* sum = nullptr) override;
  Moved read(std::span<const iovec> parts, Checksum* sum = nullptr) override;

 protected:
  // Of a call that has returned `count`, with its errno.
  static Moved moved_by(ssize_t count);
  // One call, with flags besides those that every call has.
  Moved send(std::span<const iovec> parts, Checksum* sum, int flags);

 private:
  Descriptor socket_;
};

// Sending from where the blocks lie, without a copy into the socket's memory.
enum class ZeroCopy : uint8_t {
  off,
  automatic,  // over TCP to another host, as long as the system does not copy all the same
  always,     // whatever it does; for measurements
};

struct TransportWish {
  bool shares = false;  // shared memory, where the address is on this host
  ZeroCopy zero_copy = ZeroCopy::off;
};

// Towards `address`, perhaps still on its way. `access`: of blocks that lie on a device, or nullptr. Throws as connect_to().
std::unique_ptr<Transport> open_transport(const std::string& address, TransportWish wish, KvAccess* access = nullptr);
// What a socket of listen_at(`address`) has accepted.
std::unique_ptr<Transport> accepted_transport(Descriptor socket, const std::string& address, KvAccess* access = nullptr);

}  // namespace penstock
