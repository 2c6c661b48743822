// A hash table over arrays of entries, one for each block. See prefix_cache.h.
#include "sched/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <utility>

namespace penstock {
namespace {

constexpr size_t kTokens = kBlockTokens;

uint64_t mix(uint64_t x) {  // the finaliser of splitmix64, a bijection
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

std::span<const int32_t> block_of(std::span<const int32_t> tokens, int32_t index) {
  return tokens.subspan(static_cast<size_t>(index) * kTokens, kTokens);
}

}  // namespace

// Two tokens at a time through a multiplication that spreads upwards and a shift that spreads downwards; a bijection of
// the state for given tokens, so chains differ at least as well as their last blocks do.
uint64_t hash_block(uint64_t parent, std::span<const int32_t> tokens) {
  uint64_t hash = parent + 0x9E3779B97F4A7C15u;
  for (size_t i = 0; i + 1 < tokens.size(); i += 2) {
    const uint64_t pair = static_cast<uint32_t>(tokens[i]) | static_cast<uint64_t>(static_cast<uint32_t>(tokens[i + 1]))
                                                                 << 32;
    hash = (hash ^ pair) * 0x9FB21C651E98DF25u;
    hash ^= hash >> 29;
  }
  hash = mix(hash);
  return hash == 0 ? 1 : hash;
}

PrefixCache::PrefixCache(BlockPool& pool, uint64_t seed, BlockHash hash)
    : pool_(pool),
      seed_(seed),
      hash_(hash),
      entries_(static_cast<size_t>(pool.blocks_total()), Entry{}),
      buckets_(std::bit_ceil(entries_.size()), kNone) {
  events_.reserve(entries_.size() + 1);
  order_.reserve(entries_.size());
}

uint64_t PrefixCache::root(uint64_t salt) const { return mix(seed_ ^ mix(salt)); }

void PrefixCache::extend_hashes(uint64_t salt, std::span<const int32_t> tokens, std::vector<uint64_t>& hashes) const {
  const size_t blocks = tokens.size() / kTokens;
  while (hashes.size() < blocks) {
    const uint64_t parent = hashes.empty() ? root(salt) : hashes.back();
    hashes.push_back(hash_(parent, block_of(tokens, static_cast<int32_t>(hashes.size()))));
  }
}

int32_t PrefixCache::find(uint64_t hash, int32_t parent, uint64_t salt, std::span<const int32_t> tokens) const {
  for (int32_t at = buckets_[bucket(hash)]; at != kNone; at = entry(at).next) {
    const Entry& e = entry(at);
    // The salt of later blocks is that of the first, which the parent stands for.
    if (e.hash == hash && e.parent == parent && e.salt == salt &&
        std::equal(tokens.begin(), tokens.end(), e.tokens.begin()))
      return at;
  }
  return kNone;
}

void PrefixCache::match(const BlockChain& chain, int32_t blocks_max, std::vector<int32_t>& blocks) {
  if (!blocks.empty()) throw std::logic_error("match() into blocks that are held already");
  int32_t parent = kNone;
  for (int32_t i = 0; i < blocks_max && static_cast<size_t>(i) < chain.hashes.size(); ++i) {
    const int32_t found = find(chain.hashes[static_cast<size_t>(i)], parent, chain.salt, block_of(chain.tokens, i));
    if (found == kNone) break;
    blocks.push_back(found);
    parent = found;
  }
  pool_.share(blocks);
}

void PrefixCache::store(const BlockChain& chain, int32_t index, std::span<int32_t> blocks) {
  const uint64_t hash = chain.hashes[static_cast<size_t>(index)];
  const int32_t parent = index == 0 ? kNone : blocks[static_cast<size_t>(index) - 1];
  if (parent != kNone && !entry(parent).used) throw std::logic_error("storing a block whose parent is not cached");
  const auto tokens = block_of(chain.tokens, index);
  int32_t& block = blocks[static_cast<size_t>(index)];
  if (const int32_t equal = find(hash, parent, chain.salt, tokens); equal != kNone) {
    const int32_t twice = std::exchange(block, equal);
    pool_.share(std::span(&equal, 1));
    pool_.release(std::span(&twice, 1));
    return;
  }
  Entry& e = entry(block);
  if (e.used) throw std::logic_error("storing block " + std::to_string(block) + " twice");
  e = {.hash = hash,
       .salt = chain.salt,
       .serial = serial_++,
       .parent = parent,
       .children = 0,
       .next = std::exchange(buckets_[bucket(hash)], block),
       .used = true,
       .tokens = {}};
  std::copy(tokens.begin(), tokens.end(), e.tokens.begin());
  if (parent != kNone) ++entry(parent).children;
  pool_.keep(block);
  ++entries_count_;
  note({BlockEventKind::Stored, hash, parent_hash(e)});
}

bool PrefixCache::has_equal(const BlockChain& chain, int32_t index, std::span<const int32_t> blocks) const {
  const int32_t parent = index == 0 ? kNone : blocks[static_cast<size_t>(index) - 1];
  return find(chain.hashes[static_cast<size_t>(index)], parent, chain.salt, block_of(chain.tokens, index)) != kNone;
}

void PrefixCache::allocate(int32_t count, std::vector<int32_t>& blocks) {
  if (count > blocks_available()) throw std::logic_error("allocate() of more blocks than are available");
  while (!pool_.can_allocate(count)) {
    const int32_t oldest = *pool_.oldest_idle();
    evict(oldest);
    pool_.discard(oldest);
  }
  pool_.allocate(count, blocks);
}

void PrefixCache::evict(int32_t block) {
  Entry& e = entry(block);
  if (!e.used) throw std::logic_error("an idle block is not in the index");
  if (e.children != 0) throw std::logic_error("a block would leave the index before its children");
  int32_t* link = &buckets_[bucket(e.hash)];
  while (*link != block) {
    if (*link == kNone) throw std::logic_error("a cached block is missing from its bucket");
    link = &entry(*link).next;
  }
  *link = e.next;
  if (e.parent != kNone) --entry(e.parent).children;
  e.used = false;
  --entries_count_;
  note({BlockEventKind::Removed, e.hash, 0});
}

// --- News ------------------------------------------------------------------------------------------------------------

void PrefixCache::note(const BlockEvent& event) {
  if (events_lost_) return;
  if (events_.size() == events_.capacity()) {
    events_lost_ = true;
    return;
  }
  events_.push_back(event);
}

void PrefixCache::list_everything() {
  order_.clear();
  for (int32_t block = 0; block < pool_.blocks_total(); ++block)
    if (entry(block).used) order_.push_back(block);
  std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) { return entry(a).serial < entry(b).serial; });
  events_.clear();
  events_taken_ = 0;
  events_.push_back({BlockEventKind::Cleared, 0, 0});
  for (const int32_t block : order_)
    events_.push_back({BlockEventKind::Stored, entry(block).hash, parent_hash(entry(block))});
  events_lost_ = false;
}

void PrefixCache::take_events(std::vector<BlockEvent>& out, int32_t events_max) {
  out.clear();
  if (events_lost_) list_everything();
  const size_t count = std::min(events_.size() - events_taken_, static_cast<size_t>(events_max));
  const auto first = events_.begin() + static_cast<std::ptrdiff_t>(events_taken_);
  out.insert(out.end(), first, first + static_cast<std::ptrdiff_t>(count));
  events_taken_ += count;
  if (events_taken_ < events_.size()) return;
  events_.clear();
  events_taken_ = 0;
}

// --- Looking in ------------------------------------------------------------------------------------------------------

void PrefixCache::check_integrity() const {
  int32_t used = 0, chained = 0;
  std::vector<int32_t> children(entries_.size(), 0);
  for (int32_t block = 0; block < pool_.blocks_total(); ++block) {
    const Entry& e = entry(block);
    if (e.used != pool_.is_kept(block)) throw std::logic_error("the index and the pool disagree about a block");
    if (!e.used) continue;
    ++used;
    uint64_t before = root(e.salt);
    if (e.parent != kNone) {
      const Entry& parent = entry(e.parent);
      if (!parent.used) throw std::logic_error("a cached block has lost its parent");
      if (parent.serial >= e.serial) throw std::logic_error("a cached block is older than its parent");
      if (parent.salt != e.salt) throw std::logic_error("a chain of blocks changes its salt");
      if (pool_.holders(e.parent) < pool_.holders(block)) throw std::logic_error("a block is held without its parent");
      ++children[static_cast<size_t>(e.parent)];
      before = parent.hash;
    }
    if (hash_(before, e.tokens) != e.hash) throw std::logic_error("a cached block has another hash than its tokens");
    if (find(e.hash, e.parent, e.salt, e.tokens) != block) throw std::logic_error("two entries say the same");
  }
  for (size_t i = 0; i < buckets_.size(); ++i) {
    for (int32_t at = buckets_[i]; at != kNone; at = entry(at).next) {
      if (!entry(at).used || bucket(entry(at).hash) != i) throw std::logic_error("a bucket holds what is not its own");
      if (++chained > used) throw std::logic_error("the buckets hold a circle or more than there is");
    }
  }
  if (used != entries_count_ || chained != used) throw std::logic_error("cached blocks are miscounted");
  for (size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].used && entries_[i].children != children[i]) throw std::logic_error("children are miscounted");
  std::vector<bool> passed(entries_.size(), false);
  pool_.for_idle([&](int32_t block) {
    const int32_t parent = entry(block).parent;
    if (parent != kNone && passed[static_cast<size_t>(parent)])
      throw std::logic_error("an idle block would leave after its parent");
    passed[static_cast<size_t>(block)] = true;
  });
}

void PrefixCache::check_chain(const BlockChain& chain, std::span<const int32_t> blocks) const {
  int32_t parent = kNone;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Entry& e = entry(blocks[i]);
    const auto tokens = block_of(chain.tokens, static_cast<int32_t>(i));
    if (!e.used || e.parent != parent || e.salt != chain.salt || e.hash != chain.hashes[i] ||
        !std::equal(tokens.begin(), tokens.end(), e.tokens.begin()))
      throw std::logic_error("a computed block is not cached as what it is");
    parent = blocks[i];
  }
}

}  // namespace penstock
