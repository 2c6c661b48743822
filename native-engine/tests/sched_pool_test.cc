// The block pool's books and the order of the waiting queue.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>

#include "sched/block_pool.h"
#include "sched/queue.h"

namespace penstock {
namespace {

using Holders = std::vector<int32_t>;

TEST(BlockPool, HandsOutEachBlockOnceAndThenNoMore) {
  BlockPool pool(5);
  std::vector<int32_t> blocks;
  ASSERT_TRUE(pool.can_allocate(5));
  pool.allocate(5, blocks);
  EXPECT_FALSE(pool.can_allocate(1));
  std::sort(blocks.begin(), blocks.end());
  std::vector<int32_t> all(5);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(blocks, all);
  EXPECT_THROW(pool.allocate(1, blocks), std::logic_error);
  pool.check_integrity(Holders{1, 1, 1, 1, 1});
  pool.release(blocks);
  EXPECT_EQ(pool.blocks_free(), 5);
  pool.check_integrity(Holders{0, 0, 0, 0, 0});
}

TEST(BlockPool, KeepsASharedBlockUntilItsLastHolderLetsGo) {
  BlockPool pool(2);
  std::vector<int32_t> blocks;
  pool.allocate(1, blocks);
  pool.share(blocks);
  pool.check_integrity(Holders{2, 0});
  pool.release(blocks);
  EXPECT_EQ(pool.blocks_held(), 1);
  pool.check_integrity(Holders{1, 0});
  pool.release(blocks);
  EXPECT_EQ(pool.blocks_held(), 0);
  pool.check_integrity(Holders{0, 0});
}

TEST(BlockPool, RefusesToFreeOrShareWhatIsFree) {
  BlockPool pool(2);
  const std::vector<int32_t> blocks{1};
  EXPECT_THROW(pool.release(blocks), std::logic_error);
  EXPECT_THROW(pool.share(blocks), std::logic_error);
  EXPECT_THROW(BlockPool(0), std::invalid_argument);
}

TEST(BlockPool, NoticesHoldersThatItsCallersDoNotKnow) {
  BlockPool pool(3);
  std::vector<int32_t> blocks;
  pool.allocate(2, blocks);
  EXPECT_THROW(pool.check_integrity(Holders{1, 0, 0}), std::logic_error);
  EXPECT_THROW(pool.check_integrity(Holders{2, 1, 0}), std::logic_error);
  pool.check_integrity(Holders{1, 1, 0});
}

TEST(BlockPool, KeepsWhatItIsToldToInOrderOfLeaving) {
  BlockPool pool(4);
  std::vector<int32_t> blocks;
  pool.allocate(4, blocks);
  for (const int32_t block : {0, 1, 2}) pool.keep(block);
  pool.release(blocks);  // the last first
  EXPECT_EQ(pool.blocks_free(), 1);
  EXPECT_EQ(pool.blocks_idle(), 3);
  EXPECT_EQ(pool.blocks_held(), 0);
  EXPECT_EQ(pool.oldest_idle(), 2);
  pool.check_integrity(Holders{0, 0, 0, 0});
  const std::vector<int32_t> again{2};
  pool.share(again);
  EXPECT_EQ(pool.oldest_idle(), 1);
  pool.check_integrity(Holders{0, 0, 1, 0});
  pool.release(again);
  std::vector<int32_t> order;
  pool.for_idle([&](int32_t block) { order.push_back(block); });
  EXPECT_EQ(order, (std::vector<int32_t>{1, 0, 2}));
  EXPECT_THROW(pool.discard(3), std::logic_error);
  for (const int32_t block : order) pool.discard(block);
  EXPECT_EQ(pool.oldest_idle(), std::nullopt);
  EXPECT_EQ(pool.blocks_free(), 4);
  pool.check_integrity(Holders{0, 0, 0, 0});
  EXPECT_THROW(pool.keep(0), std::logic_error);
}

TEST(BlockPool, AddsUpThroughRandomUse) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  BlockPool pool(40);
  std::vector<std::vector<int32_t>> tables;
  Holders holders(40, 0);
  const auto count = [&](const std::vector<int32_t>& blocks, int32_t change) {
    for (const int32_t block : blocks) holders[static_cast<size_t>(block)] += change;
  };
  for (int i = 0; i < 5000; ++i) {
    const auto choice = random() % 4;
    if (choice == 0 && pool.can_allocate(3)) {
      pool.allocate(3, tables.emplace_back());
      count(tables.back(), 1);
      if (random() % 2 == 0) pool.keep(tables.back()[random() % 3]);
    } else if (choice == 1 && !tables.empty()) {
      tables.push_back(tables[random() % tables.size()]);
      pool.share(tables.back());
      count(tables.back(), 1);
    } else if (choice == 2 && pool.oldest_idle().has_value()) {
      pool.discard(*pool.oldest_idle());
    } else if (!tables.empty()) {
      const size_t at = random() % tables.size();
      pool.release(tables[at]);
      count(tables[at], -1);
      tables.erase(tables.begin() + static_cast<std::ptrdiff_t>(at));
    }
    ASSERT_NO_THROW(pool.check_integrity(holders));
  }
}

class Queue : public testing::Test {
 protected:
  Sequence* add(uint64_t id, uint64_t tenant, int32_t priority = 0, uint64_t credit = 1) {
    Sequence* sequence = make(id, tenant, priority, credit);
    queue.push(sequence);
    return sequence;
  }
  Sequence* make(uint64_t id, uint64_t tenant, int32_t priority = 0, uint64_t credit = 1) {
    auto& sequence = all.emplace_back(std::make_unique<Sequence>());
    sequence->request.id = id;
    sequence->request.tenant = tenant;
    sequence->request.priority = priority;
    sequence->credit_tokens = credit;
    sequence->arrival = id;
    return sequence.get();
  }
  std::vector<uint64_t> drain() {
    std::vector<uint64_t> ids;
    for (Sequence* s = queue.next(); s != nullptr; s = queue.next()) {
      ids.push_back(s->request.id);
      queue.take(s);
    }
    return ids;
  }
  WaitingQueue queue;
  std::vector<std::unique_ptr<Sequence>> all;
};

using Ids = std::vector<uint64_t>;

TEST_F(Queue, ServesOneTenantInOrderOfArrival) {
  for (uint64_t id : {1, 2, 3}) add(id, 7);
  EXPECT_EQ(drain(), (Ids{1, 2, 3}));
  EXPECT_TRUE(queue.empty());
}

TEST_F(Queue, TakesTenantsInTurnHoweverManyRequestsOneHas) {
  for (uint64_t id : {1, 2, 3, 4}) add(id, 7);
  add(5, 8);
  add(6, 9);
  add(7, 8);
  EXPECT_EQ(drain(), (Ids{1, 5, 6, 2, 7, 3, 4}));
}

TEST_F(Queue, DoesNotPutATenantThatComesBackBeforeThoseWhoWait) {
  add(1, 7);
  add(2, 7);
  add(3, 8);
  queue.take(queue.next());  // 1 of tenant 7
  queue.take(queue.next());  // 3 of tenant 8, who has nothing left
  add(4, 8);
  EXPECT_EQ(drain(), (Ids{2, 4}));
}

TEST_F(Queue, PutsHigherPriorityFirst) {
  add(1, 7, 0);
  add(2, 7, 5);
  add(3, 7, -5);
  EXPECT_EQ(drain(), (Ids{2, 1, 3}));
}

TEST_F(Queue, PutsThePreemptedAtTheHeadOfTheirPriorityByArrival) {
  add(5, 7);
  add(6, 8, 1);
  queue.push_preempted(make(4, 9));
  queue.push_preempted(make(3, 9));
  EXPECT_EQ(drain(), (Ids{6, 3, 4, 5}));
}

TEST_F(Queue, PassesOverThoseWithoutCreditAndKeepsTheirPlace) {
  Sequence* first = add(1, 7, 0, 0);
  add(2, 7);
  add(3, 8);
  EXPECT_EQ(queue.next()->request.id, 2u);
  EXPECT_EQ(queue.size(), 3u);
  first->credit_tokens = 1;
  queue.credited(first);
  queue.credited(first);
  EXPECT_EQ(drain(), (Ids{1, 3, 2}));
  EXPECT_TRUE(queue.empty());
}

TEST_F(Queue, CountsTokensOfAllWhoWaitAndForgetsThoseWhoLeaveWithoutCredit) {
  Sequence* first = make(1, 7, 0, 0);
  first->tokens = {1, 2, 3};
  queue.push(first);
  Sequence* preempted = make(2, 7, 0, 0);
  preempted->tokens = {1, 2};
  queue.push_preempted(preempted);
  EXPECT_EQ(queue.tokens(), 5);
  EXPECT_EQ(queue.next(), nullptr);
  queue.remove(first);
  EXPECT_EQ(queue.tokens(), 2);
  preempted->credit_tokens = 1;
  queue.credited(preempted);
  EXPECT_EQ(drain(), Ids{2});
  EXPECT_EQ(queue.tokens(), 0);
}

TEST_F(Queue, ForgetsWhoLeavesWithoutSpendingTheTurn) {
  Sequence* first = add(1, 7);
  add(2, 7);
  add(3, 8);
  queue.remove(first);
  EXPECT_THROW(queue.remove(first), std::logic_error);
  EXPECT_EQ(drain(), (Ids{2, 3}));
}

}  // namespace
}  // namespace penstock
