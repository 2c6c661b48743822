// One connection of a sender: pieces that go out one after the other, answers that come in. Owns what is being written and read on
// it; which pieces go where, and what an answer means for the transfer, is sender.cc.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kv/piece.h"
#include "kv/transfer_wire.h"
#include "kv/transport.h"
#include "kv/view.h"

namespace penstock {

class SenderStream {
 public:
  using Clock = std::chrono::steady_clock;

  SenderStream(const KvView& kv, std::unique_ptr<Transport> transport)
      : kv_(kv), transport_(std::move(transport)), moved_(Clock::now()) {}

  // For poll(); none where nothing is to be written or read any more.
  int fd() const { return transport_ == nullptr || closing_ ? -1 : transport_->fd(); }
  short events(bool wants_write) const {
    return transport_ == nullptr || closing_ ? short{0} : transport_->events(wants_write || has_output());
  }
  uint32_t features() const { return transport_->features(); }
  // When it last moved, in either direction.
  Clock::time_point moved() const { return moved_; }
  // Who has just been given something to do has not been silent before.
  void touch() { moved_ = Clock::now(); }

  // Something is to be written of what it was given.
  bool has_output() const { return out_sent_ < out_.size() || !blocks_.empty(); }
  // Between pieces only.
  template <typename Head>
  void say(const Head& head) {
    wire::append(out_, head);
  }
  void say_bytes(std::span<const std::byte> bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  // Numbers `first` and following of the transfer's blocks.
  void begin_piece(uint32_t first, std::span<const int32_t> blocks, LayerSpan layers);
  // As much of it as there is room for in one call.
  Moved write();
  // The next answer, once it is there whole.
  Moved read(std::optional<wire::Answer>& answer);

  // Writes no more. `abandons`: nor does the system what it still has. It is closed() as soon as nobody reads the blocks any more.
  void close(bool abandons);
  // Of one that is being closed: looks whether it may be.
  void settle();
  bool closed() const { return transport_ == nullptr; }

  bool let_in = false;  // the receiver has answered its offer

 private:
  const KvView& kv_;
  std::unique_ptr<Transport> transport_;
  Clock::time_point moved_;
  bool closing_ = false;
  std::vector<std::byte> out_;
  size_t out_sent_ = 0;
  std::vector<int32_t> blocks_;  // of the piece being sent
  Piece piece_;
  std::byte in_[sizeof(wire::Answer)] = {};
  size_t in_bytes_ = 0;
};

}  // namespace penstock
