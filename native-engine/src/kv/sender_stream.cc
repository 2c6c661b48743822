// Pieces out, answers in. See sender_stream.h.
#include "kv/sender_stream.h"

#include <utility>

namespace penstock {

void SenderStream::begin_piece(uint32_t first, std::span<const int32_t> blocks, LayerSpan layers) {
  // A copy: the list of a transfer grows, and moves.
  blocks_.assign(blocks.begin(), blocks.end());
  piece_ = Piece(kv_, blocks_, layers, PieceWay::out, !transport_->reaches_device());
  say(wire::PieceHead{.first = first,
                      .count = static_cast<uint32_t>(blocks.size()),
                      .layer = static_cast<uint32_t>(layers.first),
                      .layers = static_cast<uint32_t>(layers.count)});
}

Moved SenderStream::write() {
  if (out_sent_ == out_.size()) {
    out_.clear();
    out_sent_ = 0;
    if (!blocks_.empty() && piece_.done()) {
      say(piece_.sum().value());
      blocks_.clear();
    }
  }
  Moved moved;
  if (out_sent_ < out_.size()) {
    const iovec part{out_.data() + out_sent_, out_.size() - out_sent_};
    moved = transport_->write({&part, 1});
    out_sent_ += moved.bytes;
  } else if (blocks_.empty()) {
    moved = transport_->write({});  // of what was taken before
  } else {
    moved = transport_->write(piece_.parts(), &piece_.sum());
    piece_.advance(moved.bytes);
  }
  if (moved.bytes > 0) moved_ = Clock::now();
  return moved;
}

Moved SenderStream::read(std::optional<wire::Answer>& answer) {
  answer.reset();
  const iovec part{in_ + in_bytes_, sizeof in_ - in_bytes_};
  const Moved moved = transport_->read({&part, 1});
  if (moved.bytes == 0) return moved;
  moved_ = Clock::now();
  in_bytes_ += moved.bytes;
  if (in_bytes_ == sizeof in_) {
    answer = wire::read<wire::Answer>(in_);
    in_bytes_ = 0;
  }
  return moved;
}

void SenderStream::close(bool abandons) {
  if (transport_ == nullptr) return;
  if (!std::exchange(closing_, true) && abandons && !transport_->is_settled()) transport_->abandon();
  settle();
}

void SenderStream::settle() {
  if (transport_ == nullptr || !closing_) return;
  transport_->settle();
  if (transport_->is_settled()) transport_.reset();
}

}  // namespace penstock
