// Blocks set aside for K and V that another engine computes. Owns the shape of a reservation; who makes room for it and
// what becomes of it is scheduler.h, who may write into its blocks is kv/transfer_table.h.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock {

//              reserve()                 commit()
//   (nothing) ───────────▶ Filling ─────────────────▶ Committed
//                             │ drop()                   │ drop(), or its blocks are needed by others
//                             ▼                          ▼
//                     blocks are free again      whole blocks are ordinary entries of the prefix cache
//
// Filling    the first `cached` blocks are entries of the prefix cache that were found there, the others are being written
//            to and nobody reads them. They cannot be taken away before whoever writes has stopped: drop() comes after
//            that, never before.
// Committed  all whole blocks are entries of the prefix cache, held so that they stay until the sequence that they are for is
//            admitted. Losing them costs a computation and nothing else. The rest of the tokens lies in one more block, which no
//            cache knows: the first sequence that is admitted by the reservation's name gets it as its own, to write on in it.
enum class ReservationState : uint8_t { Filling, Committed };

// Numbers come again after a reservation is gone, its order does not.
struct ReservationName {
  uint64_t id = 0;
  uint64_t order = 0;
};

struct Reservation {
  uint64_t id = 0;  // unique among live ones
  uint64_t salt = 0;
  ReservationState state = ReservationState::Filling;
  uint64_t order = 0;            // of making, unique
  std::vector<int32_t> tokens;   // what the blocks are to hold, the last one perhaps not to its end
  std::vector<uint64_t> hashes;  // [whole()]
  std::vector<int32_t> blocks;   // block ids in order of position
  int32_t cached = 0;            // blocks found in the cache when it was made

  // Blocks that are full of tokens.
  int32_t whole() const { return static_cast<int32_t>(hashes.size()); }
  // The rest of the tokens has a block, which nobody has been given yet.
  bool has_rest() const { return blocks.size() > hashes.size(); }
};

enum class ReserveError : uint8_t {
  DuplicateId,
  TooLong,  // for the pool or the context
  NoRoom,   // now; it may be tried again
};

}  // namespace penstock
