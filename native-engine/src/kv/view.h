// The paged cache as memory: for whoever moves whole blocks and does not care what is in them. Owns nothing. Memory that the
// processor cannot reach is moved by a KvAccess.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace penstock {

class KvAccess;

// Some layers that follow each other.
struct LayerSpan {
  int32_t first = 0;
  int32_t count = 0;
  int32_t end() const { return first + count; }
  bool operator==(const LayerSpan&) const = default;
};

// Layout [layer][block][block_bytes]; see cache.h.
struct KvView {
  std::byte* base = nullptr;
  int32_t layers = 0;
  int32_t blocks_total = 0;
  int64_t block_bytes = 0;  // of one block of one layer
  // Where the blocks lie in a device's memory: `base` is an address there, for `access` alone. nullptr: in the processor's.
  KvAccess* access = nullptr;

  std::span<std::byte> at(int32_t layer, int32_t block) const {
    return {base + (int64_t{layer} * blocks_total + block) * block_bytes, static_cast<size_t>(block_bytes)};
  }
  // Of one block over all layers: what travels.
  int64_t bytes_per_block() const { return layers * block_bytes; }
};

}  // namespace penstock
