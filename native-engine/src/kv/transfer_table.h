// Which blocks may be written to from outside, by whom, and whether somebody is at it. Owns the right to write and its
// end; bytes are receiver.h, what the blocks are for is sched/. Safe from any thread.
//
//   open() ──▶ Open ──attach()──▶ Writing ──detach(true, note)──▶ (gone, ended(id, true, note))
//               │ close()            │ close()        │ detach(false)
//               ▼                    ▼                ▼
//            (gone)              Closing ──detach()─▶ (gone, ended(id, false))
//
// Open     nobody writes; close() gives the blocks back at once.
// Writing  one connection writes. close() tells it to stop, and the blocks stay where they are until it has: a write that
//          is under way must not hit a block that is somebody else's by then.
// A generation is never used twice in the life of a process, so a late writer of an earlier transfer under the same number
// is refused whatever it says.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

namespace penstock {

using TransferSecret = std::array<uint8_t, 16>;
// In a time that does not depend on where the first difference is.
bool equal_secrets(const TransferSecret& a, const TransferSecret& b);

// Names one transfer and proves the right to write.
struct TransferGrant {
  uint64_t id = 0;
  uint64_t generation = 0;
  TransferSecret secret = {};
};

// Why a writer is sent away. The numbers are those of the wire; 0 is no refusal.
enum class TransferRefusal : uint32_t {
  Unknown = 1,    // no such transfer, or it has been closed
  Stale = 2,      // the number belongs to another one by now
  Forbidden = 3,  // the secret is wrong
  Busy = 4,       // somebody writes already
  Layout = 5,     // the blocks of the two engines do not have the same meaning
  Malformed = 6,  // not this protocol
  Checksum = 7,   // what arrived is not what was sent
  Incomplete = 8,  // the end came before the last block
  Content = 9,     // the writer means K and V of other tokens
  Version = 10,    // this protocol, in another version
};

// What the writer's engine says to the receiver's beside K and V; empty: nothing.
using TransferNote = std::vector<std::byte>;

class TransferTable {
 public:
  // `ended` is called from the thread of the writer, once for each transfer that was attached. A note comes with what is complete.
  using Ended = std::function<void(uint64_t id, uint64_t generation, bool complete, TransferNote note)>;
  explicit TransferTable(Ended ended)
      : ended_(std::move(ended)) {}

  // Lets whoever has the grant, and means the same `content`, write into `blocks`, in order. The id must not be open.
  void open(const TransferGrant& grant, uint64_t content, std::vector<int32_t> blocks);
  // Nobody may begin to write any more. True: nobody writes. False: somebody does, and ended() will come.
  bool close(uint64_t id);

  // The blocks to write to, or why not.
  struct Writer {
    std::vector<int32_t> blocks;
  };
  std::optional<TransferRefusal> attach(const TransferGrant& grant, uint64_t content, Writer& writer);
  // Whether the writer may go on; asked before each piece.
  bool may_write(uint64_t id, uint64_t generation) const;
  // The writer touches the blocks no more. True: what it says is complete is wanted.
  bool detach(uint64_t id, uint64_t generation, bool complete, TransferNote note = {});

 private:
  struct Entry {
    TransferGrant grant;
    uint64_t content = 0;
    std::vector<int32_t> blocks;
    bool writing = false;
    bool closing = false;
  };

  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, Entry> entries_;
  Ended ended_;
};

}  // namespace penstock
