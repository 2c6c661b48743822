// Which KV blocks hold which tokens. Owns the index from chains of tokens to computed blocks, the choice of what is
// given up when memory runs out, and the news of both. Holders and free blocks are block_pool.h, who computes a block
// is the scheduler, and no tensor is touched here.
//
// An entry is a full block that was computed: its kBlockTokens tokens and the entry of the block before it, or, for the
// first of a chain, the salt. An entry has the number of its block, so the index takes no memory beyond arrays of
// blocks_total. Two entries never say the same, so a chain of tokens under a salt names at most one chain of blocks.
//
// Why a hit is never wrong: the hash only chooses where to look. A hit needs equal tokens and the very entry before it,
// and an entry outlives its children, so by induction every token before it and the salt are equal too. K and V are a
// pure function of those tokens, bit for bit (model/runner.h), so reading them instead of computing changes nothing;
// for the same reason a block computed twice can be replaced by its equal while a sequence runs.
//
// Why an entry outlives its children without being asked: who holds a block holds everything before it, and blocks are
// released from the end of a chain. So of two idle blocks of a chain the later one was let go first, and the one let go
// longest ago has no child. check_integrity() and evict() hold it to that.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "model/batch.h"
#include "sched/block_event.h"
#include "sched/block_pool.h"

namespace penstock {

// Hash of a block from the hash before it and its kBlockTokens tokens. Never 0, which on the wire means no block.
using BlockHash = uint64_t (*)(uint64_t parent, std::span<const int32_t> tokens);
uint64_t hash_block(uint64_t parent, std::span<const int32_t> tokens);

// The blocks of a sequence and what is known of their tokens, as the cache sees them.
struct BlockChain {
  uint64_t salt;                     // chains of different salts have nothing in common
  std::span<const int32_t> tokens;   // [>= kBlockTokens * number of full blocks]
  std::span<const uint64_t> hashes;  // [full blocks] as extend_hashes() makes them
};

// Allocates everything at construction, events included. Not thread safe: the step loop is its only user.
class PrefixCache {
 public:
  // `seed` makes the hashes those of one process: whoever does not know it cannot write prompts that collide. `hash` is
  // an argument so that tests can make collisions; results never depend on it.
  explicit PrefixCache(BlockPool& pool, uint64_t seed = 0, BlockHash hash = hash_block);

  // Appends the hashes that `hashes` lacks of the full blocks of `tokens`.
  void extend_hashes(uint64_t salt, std::span<const int32_t> tokens, std::vector<uint64_t>& hashes) const;

  // Appends the cached blocks of the longest known prefix, at most blocks_max, each with one holder more. `blocks` must
  // be empty.
  void match(const BlockChain& chain, int32_t blocks_max, std::vector<int32_t>& blocks);
  // blocks[index] has been computed, and everything before it is cached: makes it an entry, or replaces it by the entry
  // that says the same and lets go of the double.
  void store(const BlockChain& chain, int32_t index, std::span<int32_t> blocks);
  // Whether store() would replace it.
  bool has_equal(const BlockChain& chain, int32_t index, std::span<const int32_t> blocks) const;

  // Free blocks and those that can be made free: kept ones without a holder.
  int32_t blocks_available() const { return pool_.blocks_free() + pool_.blocks_idle(); }
  // Appends `count` blocks with one holder each, giving up the least recently used entries where free blocks run out.
  // Precondition: count <= blocks_available().
  void allocate(int32_t count, std::vector<int32_t>& blocks);

  int32_t entries() const { return entries_count_; }

  // Moves at most `events_max` events to `out` (cleared first), in order. When more happened than is worth telling one
  // by one, Cleared comes and then everything that is there, parents before children.
  void take_events(std::vector<BlockEvent>& out, int32_t events_max);
  // The next events are Cleared and everything that is there: for a listener that knows nothing.
  void resync() { events_lost_ = true; }

  // Throws std::logic_error when index, lists and blocks contradict each other.
  void check_integrity() const;
  // Throws std::logic_error unless `blocks` are the entries of the first blocks of `chain`.
  void check_chain(const BlockChain& chain, std::span<const int32_t> blocks) const;

 private:
  static constexpr int32_t kNone = -1;
  struct Entry {
    uint64_t hash;
    uint64_t salt;
    uint64_t serial;  // of storing: a parent's is smaller than its children's
    int32_t parent;   // kNone for the first of a chain
    int32_t children;
    int32_t next;  // in the same bucket
    bool used;     // the rest means something
    std::array<int32_t, kBlockTokens> tokens;
  };

  uint64_t root(uint64_t salt) const;
  int32_t find(uint64_t hash, int32_t parent, uint64_t salt, std::span<const int32_t> tokens) const;
  void evict(int32_t block);
  void note(const BlockEvent& event);
  void list_everything();
  Entry& entry(int32_t block) { return entries_[static_cast<size_t>(block)]; }
  const Entry& entry(int32_t block) const { return entries_[static_cast<size_t>(block)]; }
  size_t bucket(uint64_t hash) const { return static_cast<size_t>(hash) & (buckets_.size() - 1); }
  uint64_t parent_hash(const Entry& e) const { return e.parent == kNone ? 0 : entry(e.parent).hash; }

  BlockPool& pool_;
  uint64_t seed_;
  BlockHash hash_;
  std::vector<Entry> entries_;    // [blocks_total]
  std::vector<int32_t> buckets_;  // a power of two >= blocks_total; the first entry of each
  int32_t entries_count_ = 0;
  uint64_t serial_ = 0;

  // Bounded by Cleared and one event for each block: past that, telling everything anew is shorter.
  std::vector<BlockEvent> events_;  // capacity blocks_total + 1
  size_t events_taken_ = 0;         // of events_
  bool events_lost_ = true;         // a listener knows nothing before its first events
  std::vector<int32_t> order_;      // scratch of list_everything()
};

}  // namespace penstock
