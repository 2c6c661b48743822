// The bytes of a piece where they lie: for each of its blocks, the block of each of its layers. Owns the walk over them, the same on
// either side; what a piece is says transfer_wire.h.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "kv/access.h"
#include "kv/checksum.h"
#include "kv/view.h"

namespace penstock {

// Of one call: enough that the call itself costs nothing, few enough that they are still in a core's own cache where the
// checksum is taken behind it.
inline constexpr size_t kPieceBytesPerCall = 256 * 1024;
inline constexpr size_t kPiecePartsMax = 64;

// Which way the bytes go.
enum class PieceWay : uint8_t { out, in };

class Piece {
 public:
  Piece() = default;
  // Neither the view nor the blocks are copied. `staged`: the parts are the processor's memory, also where the blocks are not:
  // then bytes go through some memory in between, a few blocks at a time.
  Piece(const KvView& kv, std::span<const int32_t> blocks, LayerSpan layers, PieceWay way, bool staged)
      : kv_(&kv), blocks_(blocks), layers_(layers), way_(way), layer_(layers.first) {
    if (staged && kv.access != nullptr) staging_ = kv.access->staging();
  }

  bool done() const { return block_ == blocks_.size() && staged_blocks_ == 0; }

  // The next bytes, at least one part unless done. Throws DeviceFailure where blocks lie on a device.
  std::span<const iovec> parts() {
    if (!staging_.bytes().empty()) return staged_parts();
    size_t count = 0, bytes = 0;
    size_t block = block_, offset = offset_;
    int32_t layer = layer_;
    while (block < blocks_.size() && count < kPiecePartsMax && bytes < kPieceBytesPerCall) {
      const std::span<std::byte> rest = kv_->at(layer, blocks_[block]).subspan(offset);
      parts_[count++] = {rest.data(), rest.size()};
      bytes += rest.size();
      offset = 0;
      if (++layer == layers_.end()) {
        layer = layers_.first;
        ++block;
      }
    }
    return {parts_, count};
  }

  // So many of them have moved. Throws as parts().
  void advance(size_t bytes) {
    if (!staging_.bytes().empty()) return advance_staged(bytes);
    while (bytes > 0) {
      const std::span<std::byte> rest = kv_->at(layer_, blocks_[block_]).subspan(offset_);
      const size_t here = std::min(bytes, rest.size());
      bytes -= here;
      offset_ += here;
      if (here < rest.size()) return;
      offset_ = 0;
      if (++layer_ == layers_.end()) {
        layer_ = layers_.first;
        ++block_;
      }
    }
  }

  // Of what has moved: the transport takes it in.
  Checksum& sum() { return sum_; }

 private:
  // Of a block in the staging memory.
  size_t staged_block_bytes() const { return static_cast<size_t>(layers_.count * kv_->block_bytes); }
  // Of the staging memory: what the next blocks fill.
  std::span<std::byte> staged() const { return staging_.bytes().first(staged_blocks_ * staged_block_bytes()); }
  std::span<const int32_t> staged_ids() const { return blocks_.subspan(block_, staged_blocks_); }

  std::span<const iovec> staged_parts() {
    if (staged_blocks_ == 0) {
      const size_t fitting = staging_.bytes().size() / staged_block_bytes();
      staged_blocks_ = std::min(fitting, blocks_.size() - block_);
      offset_ = 0;
      if (staged_blocks_ > 0 && way_ == PieceWay::out) kv_->access->read(staged_ids(), layers_, staged());
    }
    const std::span<std::byte> rest = staged().subspan(offset_);
    parts_[0] = {rest.data(), std::min(rest.size(), kPieceBytesPerCall)};
    return {parts_, rest.empty() ? size_t{0} : size_t{1}};
  }

  void advance_staged(size_t bytes) {
    offset_ += bytes;
    if (staged_blocks_ == 0 || offset_ < staged().size()) return;
    if (way_ == PieceWay::in) kv_->access->write(staged_ids(), layers_, staged());
    block_ += std::exchange(staged_blocks_, 0);
    offset_ = 0;
  }

  const KvView* kv_ = nullptr;
  std::span<const int32_t> blocks_;
  LayerSpan layers_;
  PieceWay way_ = PieceWay::out;
  size_t block_ = 0;   // of blocks_
  int32_t layer_ = 0;
  size_t offset_ = 0;  // within the block of a layer, or within what is staged
  KvStaging staging_;  // empty: straight from and to the blocks
  size_t staged_blocks_ = 0;  // of blocks_, from block_ on: in the staging memory
  Checksum sum_;
  iovec parts_[kPiecePartsMax] = {};
};

}  // namespace penstock
