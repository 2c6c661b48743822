// What a router learns of the prefix cache. The numbers are those of the wire.
#pragma once

#include <cstdint>

namespace penstock {

enum class BlockEventKind : uint8_t { Stored = 1, Removed = 2, Cleared = 3 };

struct BlockEvent {
  BlockEventKind kind;
  uint64_t hash;    // of the block's tokens and everything before them; 0 for Cleared
  uint64_t parent;  // hash of the block before it; 0 for the first of a chain and for kinds other than Stored
};

}  // namespace penstock
