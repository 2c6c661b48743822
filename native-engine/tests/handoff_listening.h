// A receiver of blocks that takes note of which layers of which ones have come, for tests.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kv/endpoint.h"
#include "kv/transfer_wire.h"

namespace penstock::testing {

class Listening {
 public:
  explicit Listening(std::string at) : address(std::move(at)), listener_(listen_at(address)) {}
  ~Listening() { stop_listening(address); }
  // Lets the sender in.
  void accept() {
    pollfd polled{listener_.get(), POLLIN, 0};
    if (poll(&polled, 1, 20'000) != 1) throw std::runtime_error("nobody came");
    socket_ = Descriptor(::accept(listener_.get(), nullptr, nullptr));
    const timeval limit{.tv_sec = 20, .tv_usec = 0};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    take(wire::read<wire::OfferHead>(take(sizeof(wire::OfferHead))).fingerprint_bytes);
    answer();
  }
  void answer() {
    const wire::Answer answer{};
    if (send(socket_.get(), &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer) throw std::runtime_error("the sender is gone");
  }
  // The head of the next message, whose payload is taken too.
  wire::PieceHead next(int64_t block_bytes) {
    const auto head = wire::read<wire::PieceHead>(take(sizeof(wire::PieceHead)));
    if (head.magic != wire::kBlocks) return head;
    for (uint32_t block = head.first; block < head.first + head.count; ++block)
      for (uint32_t layer = head.layer; layer < head.layer + head.layers; ++layer)
        there[{block, layer}] = take(static_cast<size_t>(block_bytes));
    take(sizeof(uint64_t));
    return head;
  }

  std::string address;
  // What has come of which block and layer.
  std::map<std::pair<uint32_t, uint32_t>, std::vector<std::byte>> there;

 private:
  std::vector<std::byte> take(size_t count) {
    std::vector<std::byte> taken(count);
    for (size_t at = 0; at < count;) {
      const ssize_t got = recv(socket_.get(), taken.data() + at, count - at, 0);
      if (got <= 0) throw std::runtime_error("nothing more came");
      at += static_cast<size_t>(got);
    }
    return taken;
  }
  Descriptor listener_;
  Descriptor socket_;
};

}  // namespace penstock::testing
