// Blocks of a sequence that hands over, as far as they may be read while the step that fills them is computed. Goal: what is said to
// stay where it is stays there, whatever the cache has and others of the step fill.
#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "sched_bench.h"

namespace penstock {
namespace {

using namespace penstock::testing;

class Settled : public ::testing::Test {
 protected:
  void make(const SchedulerConfig& c) { bench = std::make_unique<Bench>(c); }
  Scheduler& scheduler() { return bench->scheduler; }
  static Request handing(uint64_t id, int32_t blocks) {
    Request r = Bench::request(id, blocks * kBlockTokens, 1);
    r.hands_over = true;
    r.credit_tokens = 0;
    return r;
  }
  void hand_over_ended(uint64_t id) {
    scheduler().hand_over_ended(id, true);
    bench->collect();
    scheduler().check_integrity();
  }
  // Of each sequence of the next step that hands over, how many blocks are settled; the step is then computed.
  std::map<uint64_t, int32_t> settled_of_step() {
    StepPlan& plan = scheduler().plan(bench->now_ms);
    std::map<uint64_t, int32_t> found;
    std::map<uint64_t, std::vector<int32_t>> before;
    for (size_t i = 0; i < plan.owners.size(); ++i) {
      if (plan.sequences[i].pooling != Pooling::none) plan.sequences[i].pooled = pooled;
      if (!plan.owners[i]->hands_over()) continue;
      found[plan.owners[i]->request.id] = scheduler().blocks_settled(i);
      before[plan.owners[i]->request.id] = plan.owners[i]->blocks;
    }
    std::vector<float> logits(plan.sampling.size() * kVocab);
    bench->runner.forward(plan.batch(), logits);
    std::vector<Drawn> drawn;
    for (size_t i = 0; i < plan.sampling.size(); ++i) {
      const auto first = logits.begin() + static_cast<std::ptrdiff_t>(i * kVocab);
      drawn.emplace_back(static_cast<int32_t>(std::max_element(first, first + kVocab) - first));
    }
    scheduler().apply(drawn);
    scheduler().check_integrity();
    for (const auto& [id, blocks] : before) {
      const std::vector<int32_t>& after = scheduler().sequence(id)->blocks;
      EXPECT_TRUE(std::equal(blocks.begin(), blocks.begin() + found.at(id), after.begin()));
      replaced[id] = blocks != after;
    }
    return found;
  }
  using Found = std::map<uint64_t, int32_t>;

  std::unique_ptr<Bench> bench;
  std::vector<float> pooled = std::vector<float>(kFakeEmbeddingDims);
  std::map<uint64_t, bool> replaced;  // whether apply() replaced a block in the last step
};

TEST_F(Settled, AreThoseThatTheStepFillsAndWithTheLastTokenThePartOfOne) {
  make(config(32, 4, 40));
  Request r = handing(1, 6);
  r.prompt.resize(5 * kBlockTokens + 3);
  scheduler().submit(r);
  EXPECT_EQ(settled_of_step(), (Found{{1, 2}})) << "40 rows, of which eight fill no block";
  EXPECT_EQ(settled_of_step(), (Found{{1, 5}}));
  EXPECT_EQ(settled_of_step(), (Found{{1, 6}}));
  hand_over_ended(1);
}

TEST_F(Settled, AreNoneThatTheCacheHasAnEqualOf) {
  make(config(32, 4, 64));
  scheduler().submit(Bench::request(1, 4 * kBlockTokens, 1));
  bench->run_dry();
  // The last token is computed again, in a block of its own, which the cache's takes the place of.
  Request r = handing(2, 4);
  r.prompt = Bench::request(1, 4 * kBlockTokens, 1).prompt;
  r.draw_seeds = {1};
  scheduler().submit(r);
  EXPECT_EQ(settled_of_step(), (Found{{2, 3}}));
  EXPECT_TRUE(replaced[2]);
  hand_over_ended(2);
}

TEST_F(Settled, AreNoneThatAnotherSequenceOfTheStepFillsToo) {
  make(config(32, 4, 128));
  // A mean is made of all rows, so this one takes nothing from the cache and waits for nobody.
  Request mean = Bench::request(1, 3 * kBlockTokens, 1);
  mean.pooling = Pooling::mean;
  Request r = handing(2, 3);
  r.prompt = mean.prompt;
  r.priority = 1;
  scheduler().submit(r);
  scheduler().submit(handing(3, 1));
  scheduler().submit(mean);
  EXPECT_EQ(settled_of_step(), (Found{{2, 0}, {3, 1}}));
  EXPECT_FALSE(replaced[2]) << "it is stored first";
}

TEST_F(Settled, AreNoneThatADecodingSequenceFillsAtTheSameTime) {
  SchedulerConfig c = config(32);
  c.prefill_tokens_max = 1;
  make(c);
  const Request decoding = Bench::request(1, kBlockTokens, 40);
  scheduler().submit(decoding);
  settled_of_step();
  // What that one is about to say, row by row beside it.
  Request r = handing(2, 2);
  r.prompt = decoding.prompt;
  const auto said = Bench::alone(decoding, kBlockTokens);
  r.prompt.insert(r.prompt.end(), said.begin(), said.end());
  scheduler().submit(r);
  for (int32_t row = 0; row < kBlockTokens; ++row) EXPECT_EQ(settled_of_step(), (Found{{2, 1}}));
  EXPECT_TRUE(replaced[2]);
}

}  // namespace
}  // namespace penstock
