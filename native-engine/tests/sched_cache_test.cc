// The prefix cache: what is found, what is given up first, and what a router is told.
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>

#include "sched/prefix_cache.h"

namespace penstock {
namespace {

using Tokens = std::vector<int32_t>;
using Blocks = std::vector<int32_t>;
using Events = std::vector<BlockEvent>;

Tokens counting(int32_t from, int32_t blocks) {
  Tokens tokens(static_cast<size_t>(blocks * kBlockTokens));
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

Tokens joined(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Everything hashes alike: only the comparison of tokens and parents is left to tell entries apart.
uint64_t worst_hash(uint64_t, std::span<const int32_t>) { return 7; }

// Sequences as a scheduler treats them, without the scheduler.
class Cached {
 public:
  explicit Cached(int32_t blocks, BlockHash hash = hash_block, uint64_t seed = 0)
      : pool(blocks), cache(pool, seed, hash), holders(static_cast<size_t>(blocks), 0) {}

  struct Held {
    uint64_t salt;
    Tokens tokens;
    std::vector<uint64_t> hashes;
    Blocks blocks;
    int32_t hits = 0;
    BlockChain chain() const { return {salt, tokens, hashes}; }
  };

  // Takes what is cached and computes the rest.
  Held run(const Tokens& tokens, uint64_t salt = 0) {
    Held held{salt, tokens, {}, {}};
    cache.extend_hashes(salt, tokens, held.hashes);
    const auto full = static_cast<int32_t>(held.hashes.size());
    cache.match(held.chain(), full, held.blocks);
    held.hits = static_cast<int32_t>(held.blocks.size());
    const auto needed = static_cast<int32_t>((tokens.size() + kBlockTokens - 1) / kBlockTokens);
    cache.allocate(needed - held.hits, held.blocks);
    for (int32_t i = held.hits; i < full; ++i) cache.store(held.chain(), i, held.blocks);
    count(held, 1);
    check();
    return held;
  }
  void let_go(const Held& held) {
    count(held, -1);
    pool.release(held.blocks);
    check();
  }
  void run_and_let_go(const Tokens& tokens, uint64_t salt = 0) { let_go(run(tokens, salt)); }
  int32_t hits(const Tokens& tokens, uint64_t salt = 0) {
    const Held held = run(tokens, salt);
    let_go(held);
    return held.hits;
  }
  Events events() {
    Events out;
    cache.take_events(out, 1'000'000);
    return out;
  }
  void check() {
    pool.check_integrity(holders);
    cache.check_integrity();
  }

  BlockPool pool;
  PrefixCache cache;
  std::vector<int32_t> holders;

 private:
  void count(const Held& held, int32_t change) {
    for (const int32_t block : held.blocks) holders[static_cast<size_t>(block)] += change;
  }
};

TEST(PrefixCache, FindsTheLongestPrefixOfFullBlocks) {
  Cached c(16);
  const Tokens tokens = counting(0, 3);
  c.run_and_let_go(tokens);
  EXPECT_EQ(c.cache.entries(), 3);
  EXPECT_EQ(c.hits(tokens), 3);
  EXPECT_EQ(c.hits(joined(tokens, {1, 2, 3})), 3) << "the rest of it is no full block";
  EXPECT_EQ(c.cache.entries(), 3);
  Tokens other = tokens;
  other[20] = 999;  // in the second block
  EXPECT_EQ(c.hits(other), 1);
  EXPECT_EQ(c.hits(counting(16, 2)), 0) << "the same tokens at another place are another block";
}

TEST(PrefixCache, KeepsChainsOfDifferentSaltsApart) {
  Cached c(16);
  const Tokens tokens = counting(0, 3);
  c.run_and_let_go(tokens, 1);
  EXPECT_EQ(c.hits(tokens, 2), 0);
  EXPECT_EQ(c.hits(tokens, 0), 0);
  EXPECT_EQ(c.hits(tokens, 1), 3);
  EXPECT_EQ(c.cache.entries(), 9);
}

TEST(PrefixCache, IsRightWhenEveryHashCollides) {
  Cached c(64, worst_hash);
  std::mt19937 random(5);
  std::map<Tokens, std::set<uint64_t>> seen;  // prefixes of whole blocks, by salt
  for (int i = 0; i < 400; ++i) {
    Tokens tokens;
    for (uint32_t block = 0; block < 1 + random() % 3; ++block)
      tokens = joined(tokens, counting(static_cast<int32_t>(random() % 2), 1));
    const uint64_t salt = random() % 2;
    int32_t expected = 0;
    for (size_t blocks = 1; blocks * kBlockTokens <= tokens.size(); ++blocks) {
      const Tokens prefix(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(blocks * kBlockTokens));
      expected += seen[prefix].contains(salt) ? 1 : 0;
      seen[prefix].insert(salt);
    }
    ASSERT_EQ(c.hits(tokens, salt), expected);
  }
}

TEST(PrefixCache, SharesTheBlocksOfAPrefixInUse) {
  Cached c(16);
  const Tokens prefix = counting(0, 2);
  const auto a = c.run(joined(prefix, {1, 2}));
  const auto b = c.run(joined(prefix, {3, 4}));
  EXPECT_EQ(b.hits, 2);
  EXPECT_EQ(Blocks(a.blocks.begin(), a.blocks.begin() + 2), Blocks(b.blocks.begin(), b.blocks.begin() + 2));
  EXPECT_EQ(c.pool.blocks_held(), 4) << "two in common and one for each";
  c.let_go(a);
  EXPECT_EQ(c.pool.blocks_held(), 3);
  c.let_go(b);
  EXPECT_EQ(c.pool.blocks_held(), 0);
  EXPECT_EQ(c.pool.blocks_idle(), 2);
}

TEST(PrefixCache, ReplacesABlockThatWasComputedTwice) {
  Cached c(16);
  const Tokens tokens = counting(0, 2);
  const auto first = c.run(tokens);
  // Another that did not look, as a mean over all tokens does not.
  Cached::Held second{0, tokens, first.hashes, {}};
  c.cache.allocate(2, second.blocks);
  EXPECT_EQ(c.pool.blocks_held(), 4);
  c.cache.store(second.chain(), 0, second.blocks);
  c.cache.store(second.chain(), 1, second.blocks);
  EXPECT_EQ(second.blocks, first.blocks);
  EXPECT_EQ(c.pool.blocks_held(), 2);
  EXPECT_EQ(c.cache.entries(), 2);
}

TEST(PrefixCache, GivesUpTheLeastRecentlyUsedAndChildrenBeforeParents) {
  Cached c(6);
  const Tokens a = counting(0, 3), b = counting(1000, 2);
  c.run_and_let_go(a);
  c.run_and_let_go(b);
  EXPECT_EQ(c.hits(Tokens(a.begin(), a.begin() + kBlockTokens)), 1);  // the first block of `a` is used again
  c.events();
  const auto big = c.run(Tokens(4 * kBlockTokens, 5));  // one free block and three of the five cached ones
  const Events events = c.events();
  ASSERT_EQ(events.size(), 3u + 4u);
  std::vector<uint64_t> a_hashes, b_hashes;
  c.cache.extend_hashes(0, a, a_hashes);
  c.cache.extend_hashes(0, b, b_hashes);
  const uint64_t removed[] = {a_hashes[2], a_hashes[1], b_hashes[1]};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(events[i].kind, BlockEventKind::Removed);
    EXPECT_EQ(events[i].hash, removed[i]) << i;
  }
  c.let_go(big);
}

TEST(PrefixCache, NeverGivesUpWhatIsHeld) {
  Cached c(4);
  const auto held = c.run(counting(0, 3));
  EXPECT_EQ(c.cache.blocks_available(), 1);
  Blocks blocks;
  EXPECT_THROW(c.cache.allocate(2, blocks), std::logic_error);
  c.run_and_let_go(counting(100, 1));
  c.run_and_let_go(counting(200, 1));
  EXPECT_EQ(c.cache.entries(), 4);
  c.let_go(held);
  EXPECT_EQ(c.hits(counting(0, 3)), 3);
}

TEST(PrefixCache, TellsWhatComesAndGoesInOrderWithParents) {
  Cached c(2);
  Events events = c.events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, BlockEventKind::Cleared);
  EXPECT_EQ(events[0].hash, 0u);
  EXPECT_TRUE(c.events().empty());
  const auto held = c.run(counting(0, 2));
  events = c.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, BlockEventKind::Stored);
  EXPECT_EQ(events[0].parent, 0u);
  EXPECT_EQ(events[0].hash, held.hashes[0]);
  EXPECT_EQ(events[1].hash, held.hashes[1]);
  EXPECT_EQ(events[1].parent, held.hashes[0]);
}

TEST(PrefixCache, TellsEverythingAnewWhenMoreHappenedThanThereIs) {
  Cached c(4);
  c.events();
  for (int32_t i = 0; i < 50; ++i) c.run_and_let_go(counting(i * 100, 2));
  c.run_and_let_go(joined(counting(0, 1), counting(7, 3)));
  Events first, rest;
  c.cache.take_events(first, 2);
  c.cache.take_events(rest, 100);
  ASSERT_EQ(first.size(), 2u);
  ASSERT_EQ(rest.size(), 3u);
  EXPECT_EQ(first[0].kind, BlockEventKind::Cleared);
  EXPECT_EQ(first[1].parent, 0u);
  EXPECT_EQ(rest[0].parent, first[1].hash);
  EXPECT_EQ(rest[1].parent, rest[0].hash);
  EXPECT_TRUE(c.events().empty());
  c.cache.resync();
  EXPECT_EQ(c.events().size(), 5u);
}

TEST(PrefixCache, ItsEventsAlwaysLeadToWhatIsThere) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  Cached c(24, hash_block, seed);
  std::map<uint64_t, uint64_t> known;  // hash → parent, as a router builds it
  std::vector<Cached::Held> held;
  for (int i = 0; i < 2000; ++i) {
    if (random() % 2 == 0 && c.cache.blocks_available() >= 4) {
      Tokens tokens;
      for (uint32_t block = 0; block < 1 + random() % 3; ++block)
        tokens = joined(tokens, counting(static_cast<int32_t>(random() % 3), 1));
      tokens.resize(tokens.size() + random() % kBlockTokens, 3);
      held.push_back(c.run(tokens, random() % 3));
    } else if (!held.empty()) {
      const size_t at = random() % held.size();
      c.let_go(held[at]);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
    }
    if (random() % 20 != 0) continue;
    for (const BlockEvent& event : c.events()) {
      if (event.kind == BlockEventKind::Cleared) known.clear();
      if (event.kind == BlockEventKind::Removed) {
        ASSERT_EQ(known.erase(event.hash), 1u);
      }
      if (event.kind != BlockEventKind::Stored) continue;
      ASSERT_TRUE(event.parent == 0 || known.contains(event.parent)) << "an orphan";
      ASSERT_TRUE(known.emplace(event.hash, event.parent).second);
    }
    ASSERT_EQ(known.size(), static_cast<size_t>(c.cache.entries()));
  }
}

TEST(PrefixCache, HashesDependOnSeedSaltAndEveryTokenBefore) {
  BlockPool pool(1);
  std::set<uint64_t> seen;
  size_t hashed = 0;
  for (const uint64_t seed : {0, 1}) {
    const PrefixCache cache(pool, seed);
    for (const uint64_t salt : {0, 1, 2}) {
      for (size_t changed = 0; changed < 2 * kBlockTokens; ++changed) {
        Tokens tokens = counting(0, 2);
        tokens[changed] = -1;
        std::vector<uint64_t> hashes;
        cache.extend_hashes(salt, tokens, hashes);
        seen.insert(hashes[1]);
        ++hashed;
      }
    }
  }
  EXPECT_EQ(seen.size(), hashed);
  EXPECT_FALSE(seen.contains(0));
}

}  // namespace
}  // namespace penstock
