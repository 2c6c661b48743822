// The whole path from file to token on a real model, against what llama2.c computes.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/load.h"
#include "model_fixtures.h"
#include "run_sequences.h"
#include "story_goldens.h"

namespace penstock {
namespace {

using namespace penstock::testing;

class Golden260K : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { file_ = new TempFile(stories_gguf()); }
  static void TearDownTestSuite() {
    delete file_;
    file_ = nullptr;
  }

  static std::unique_ptr<Runner> load(KernelChoice kernels, KvType kv, int32_t threads = 2) {
    LoadOptions options;
    options.path = file_->path();
    options.threads = threads;
    options.blocks_total = 64;
    options.step_tokens_max = 64;
    options.kv_type = kv;
    options.kernels = kernels;
    return load_model(options);
  }

  // Greedy continuation of one prompt, fed in chunks, decoded alone.
  static void expect_golden(Runner& runner, const StoryGolden& golden, int32_t chunk, float tolerance) {
    TestBlocks pool(runner.info().blocks_total, 7);
    std::vector<TestSequence> one(1);
    one[0].tokens = golden.prompt_ids;
    catch_up(runner, pool, one, 0, chunk);
    for (const auto& [id, logit] : golden.top)
      EXPECT_NEAR(one[0].logits[static_cast<size_t>(id)], logit, tolerance) << "token " << id;
    std::vector<int32_t> generated;
    while (generated.size() < golden.greedy_ids.size()) {
      generated.push_back(largest(one[0].logits));
      one[0].tokens.push_back(generated.back());
      catch_up(runner, pool, one, 0, 1);
    }
    EXPECT_EQ(generated, golden.greedy_ids);
  }

  static TempFile* file_;
};

TempFile* Golden260K::file_ = nullptr;

TEST_F(Golden260K, FixtureHoldsFivePromptsOfSixtyFourTokens) {
  const auto all = goldens();
  ASSERT_EQ(all.size(), 5u);
  for (const auto& golden : all) {
    EXPECT_EQ(golden.greedy_ids.size(), 64u);
    EXPECT_EQ(golden.top.size(), 5u);
  }
}

TEST_F(Golden260K, ReferenceKernelsReproduceIdsAndLogits) {
  const auto runner = load(KernelChoice::reference, KvType::f32, 1);
  for (const auto& golden : goldens()) expect_golden(*runner, golden, 64, 1e-3f);
}

TEST_F(Golden260K, FastestKernelsReproduceIdsAndLogits) {
  const auto runner = load(KernelChoice::automatic, KvType::f32);
  for (const auto& golden : goldens()) expect_golden(*runner, golden, 64, 1e-3f);
}

// Half precision keys and values move logits by a few thousandths; no id of the goldens is that close to another.
TEST_F(Golden260K, HalfPrecisionKvReproducesIds) {
  const auto runner = load(KernelChoice::automatic, KvType::f16);
  for (const auto& golden : goldens()) expect_golden(*runner, golden, 64, 2e-2f);
}

TEST_F(Golden260K, ChunksOfAnySizeGiveTheSameIds) {
  const auto runner = load(KernelChoice::automatic, KvType::f32);
  for (int32_t chunk : {1, 2, 3, 7}) {
    for (const auto& golden : goldens()) expect_golden(*runner, golden, chunk, 1e-3f);
  }
}

// All prompts at once: some still in chunks of their prompt while others decode, in an order that changes every step.
TEST_F(Golden260K, InterleavedSequencesGiveTheSameIds) {
  const auto runner = load(KernelChoice::automatic, KvType::f32);
  const auto all = goldens();
  TestBlocks pool(runner->info().blocks_total, 11);
  std::mt19937 random(3);
  std::vector<TestSequence> sequences(all.size());
  for (size_t i = 0; i < all.size(); ++i) sequences[i].tokens = all[i].prompt_ids;
  const auto finished = [&](size_t i) { return sequences[i].tokens.size() >= all[i].prompt_ids.size() + 64; };
  while (true) {
    std::vector<size_t> which;
    for (size_t i = 0; i < all.size(); ++i) {
      if (!finished(i) && random() % 4 != 0) which.push_back(i);
    }
    bool done = true;
    for (size_t i = 0; i < all.size(); ++i) done = done && finished(i);
    if (done) break;
    if (which.empty()) continue;
    std::shuffle(which.begin(), which.end(), random);
    std::vector<int32_t> rows;
    for (size_t i : which) {
      const auto left = static_cast<int32_t>(sequences[i].tokens.size()) - sequences[i].computed;
      rows.push_back(1 + static_cast<int32_t>(random() % static_cast<uint32_t>(left)));
    }
    step(*runner, pool, sequences, which, rows);
    for (size_t i : which) {
      if (sequences[i].computed == static_cast<int32_t>(sequences[i].tokens.size()))
        sequences[i].tokens.push_back(largest(sequences[i].logits));
    }
  }
  for (size_t i = 0; i < all.size(); ++i) {
    const std::vector<int32_t> generated(sequences[i].tokens.begin() + static_cast<int64_t>(all[i].prompt_ids.size()),
                                         sequences[i].tokens.end());
    EXPECT_EQ(generated, all[i].greedy_ids) << "prompt " << i;
  }
}

}  // namespace
}  // namespace penstock
