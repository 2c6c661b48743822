// The bytes of a piece where they lie: for each of its blocks, the block of each layer. Owns the walk over them, the same on
// either side; what a piece is says transfer_wire.h.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kv/checksum.h"
#include "kv/view.h"

namespace penstock {

// Of one call: enough that the call itself costs nothing, few enough that they are still in a core's own cache where the
// checksum is taken behind it.
inline constexpr size_t kPieceBytesPerCall = 256 * 1024;
inline constexpr size_t kPiecePartsMax = 64;

class Piece {
 public:
  Piece() = default;
  // Neither the view nor the blocks are copied.
  Piece(const KvView& kv, std::span<const int32_t> blocks) : kv_(&kv), blocks_(blocks) {}

  bool done() const { return block_ == blocks_.size(); }

  // The next bytes, at least one part unless done.
  std::span<const iovec> parts() {
    size_t count = 0, bytes = 0;
    size_t block = block_, offset = offset_;
    int32_t layer = layer_;
    while (block < blocks_.size() && count < kPiecePartsMax && bytes < kPieceBytesPerCall) {
      const std::span<std::byte> rest = kv_->at(layer, blocks_[block]).subspan(offset);
      parts_[count++] = {rest.data(), rest.size()};
      bytes += rest.size();
      offset = 0;
      if (++layer == kv_->layers) {
        layer = 0;
        ++block;
      }
    }
    return {parts_, count};
  }

  // So many of them have moved.
  void advance(size_t bytes) {
    while (bytes > 0) {
      const std::span<std::byte> rest = kv_->at(layer_, blocks_[block_]).subspan(offset_);
      const size_t here = std::min(bytes, rest.size());
      bytes -= here;
      offset_ += here;
      if (here < rest.size()) return;
      offset_ = 0;
      if (++layer_ == kv_->layers) {
        layer_ = 0;
        ++block_;
      }
    }
  }

  // Of what has moved: the transport takes it in.
  Checksum& sum() { return sum_; }

 private:
  const KvView* kv_ = nullptr;
  std::span<const int32_t> blocks_;
  size_t block_ = 0;   // of blocks_
  int32_t layer_ = 0;
  size_t offset_ = 0;  // within the block of a layer
  Checksum sum_;
  iovec parts_[kPiecePartsMax];
};

}  // namespace penstock
