// On a device as on the processor: a sequence's logits are the same bits whatever else is in the batch, however its prompt is cut,
// with graphs and without; on the emulator also in any order of threads.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "cuda_models.h"
#include "ops/cuda/platform.h"
#include "story_goldens.h"

namespace penstock {
namespace {

using namespace penstock::testing;

class CudaInvariance : public ::testing::TestWithParam<TensorType> {};

INSTANTIATE_TEST_SUITE_P(EveryKindOfProduct, CudaInvariance,
                         ::testing::Values(TensorType::f32, TensorType::f16, TensorType::q4_1, TensorType::q8_0),
                         [](const auto& format) { return std::string(tensor_type_facts(format.param).name); });

// 270 tokens are two attention segments.
TEST_P(CudaInvariance, ChunksAndCompanyDoNotChangeABit) {
  const TempFile file(random_model(kSmallShape, GetParam(), TensorType::q8_0, true, 21));
  const auto runner = load_model(device_options(file.path()));
  const auto tokens = some_ids(270, 1);
  const auto expected = logits_behind(*runner, tokens, 64);
  EXPECT_TRUE(same_bits(expected, logits_behind(*runner, tokens, 37, 6)));

  TestBlocks pool(runner->info().blocks_total, 5);
  std::mt19937 random(6);
  std::vector<TestSequence> sequences(4);
  sequences[0].tokens = tokens;
  for (size_t i = 1; i < sequences.size(); ++i) sequences[i].tokens = some_ids(30 + 40 * i, static_cast<uint32_t>(i + 1));
  while (sequences[0].computed < 270) {
    std::vector<size_t> which;
    std::vector<int32_t> rows;
    for (size_t i : {2u, 0u, 3u, 1u}) {
      const auto left = static_cast<int32_t>(sequences[i].tokens.size()) - sequences[i].computed;
      if (left == 0 || random() % 3 == 0) continue;
      which.push_back(i);
      rows.push_back(1 + static_cast<int32_t>(random() % static_cast<uint32_t>(std::min(left, i == 0 ? 40 : 8))));
    }
    if (!which.empty()) step(*runner, pool, sequences, which, rows);
  }
  EXPECT_TRUE(same_bits(expected, sequences[0].logits));
}

TEST(CudaInvarianceOfKvTypes, ChunksDoNotChangeABit) {
  const TempFile file(random_model(kSmallShape, TensorType::q4_0, TensorType::q8_0, true, 24));
  const auto tokens = some_ids(262, 5);
  for (const KvType type : {KvType::bf16, KvType::q8_0}) {
    LoadOptions options = device_options(file.path());
    options.kv_type = type;
    const auto runner = load_model(options);
    EXPECT_TRUE(same_bits(logits_behind(*runner, tokens, 64), logits_behind(*runner, tokens, 51, 3))) << kv_type_name(type);
  }
}

#if PENSTOCK_CUDA_EMULATED
TEST(CudaInvarianceOfOrders, ThreadsInAnyOrderGiveTheSameBits) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 25));
  const auto runner = load_model(device_options(file.path()));
  const auto tokens = some_ids(40, 2);
  const simt::OrderResult result = simt::for_each_order([&] { return logits_behind(*runner, tokens, 33, 3); });
  EXPECT_TRUE(result) << result.message;
}

// A model that somebody trained, greedily, as its tokens come: the prompt in one step, then graphs.
TEST(CudaInvarianceOfOrders, ThreadsInAnyOrderTellThePublishedStory) {
  const TempFile file(stories_gguf());
  const auto runner = load_model(device_options(file.path()));
  const StoryGolden golden = goldens().front();
  constexpr size_t kTokens = 5;
  const std::vector<int32_t> published(golden.greedy_ids.begin(), golden.greedy_ids.begin() + kTokens);
  const simt::OrderResult result = simt::for_each_order([&] {
    TestBlocks pool(runner->info().blocks_total, 7);
    std::vector<TestSequence> one(1);
    one[0].tokens = golden.prompt_ids;
    std::vector<float> logits;
    std::vector<int32_t> generated;
    for (size_t i = 0; i < kTokens; ++i) {
      catch_up(*runner, pool, one, 0, i == 0 ? 64 : 1);
      logits.insert(logits.end(), one[0].logits.begin(), one[0].logits.end());
      generated.push_back(largest(one[0].logits));
      one[0].tokens.push_back(generated.back());
    }
    EXPECT_EQ(generated, published);
    return logits;
  });
  EXPECT_TRUE(result) << result.message;
}
#endif

}  // namespace
}  // namespace penstock
