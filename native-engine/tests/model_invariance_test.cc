// A sequence's logits are the same bits whatever else is in the batch, however its prompt is cut, on any number of
// threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/gguf.h"
#include "model/load.h"
#include "model_fixtures.h"
#include "run_sequences.h"

namespace penstock {
namespace {

using namespace penstock::testing;

// Wide enough that products are spread over threads, with a context of several attention segments.
constexpr ModelShape kShape{
    .dim = 192, .ffn_dim = 416, .layers = 2, .heads = 6, .kv_heads = 2, .head_dim = 32, .vocab = 130, .context = 900};

std::unique_ptr<Runner> load(const TempFile& file, int32_t threads, KernelChoice kernels = KernelChoice::automatic,
                             KvType kv_type = KvType::f16) {
  LoadOptions options;
  options.path = file.path();
  options.threads = threads;
  options.blocks_total = 256;
  options.step_tokens_max = 256;
  options.step_sequences_max = 8;
  options.kernels = kernels;
  options.kv_type = kv_type;
  return load_model(options);
}

std::vector<int32_t> random_ids(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % kShape.vocab);
  return ids;
}

std::vector<float> alone(Runner& runner, const std::vector<int32_t>& tokens, int32_t chunk) {
  TestBlocks pool(runner.info().blocks_total, static_cast<uint32_t>(chunk));
  std::vector<TestSequence> one(1);
  one[0].tokens = tokens;
  catch_up(runner, pool, one, 0, chunk);
  return one[0].logits;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class Invariance : public ::testing::TestWithParam<TensorType> {};

INSTANTIATE_TEST_SUITE_P(EveryFormat, Invariance,
                         ::testing::Values(TensorType::f32, TensorType::f16, TensorType::q4_0, TensorType::q4_1,
                                           TensorType::q8_0),
                         [](const auto& format) { return std::string(tensor_type_facts(format.param).name); });

TEST_P(Invariance, ChunksThreadsAndCompanyDoNotChangeABit) {
  const TempFile file(random_model(kShape, GetParam(), TensorType::q8_0, true, 21));
  const auto single = load(file, 1);
  const auto threaded = load(file, 3);
  // 600 tokens are three attention segments: a chunk of 1 takes the path that splits a row's context over threads, a
  // chunk of 256 the one that does not.
  const auto tokens = random_ids(600, 1);
  const auto expected = alone(*single, tokens, 256);
  EXPECT_TRUE(same_bits(expected, alone(*single, tokens, 37)));
  EXPECT_TRUE(same_bits(expected, alone(*threaded, tokens, 256)));
  EXPECT_TRUE(same_bits(expected, alone(*threaded, tokens, 16)));
  EXPECT_TRUE(same_bits(expected, alone(*threaded, tokens, 1)));

  TestBlocks pool(threaded->info().blocks_total, 5);
  std::mt19937 random(6);
  std::vector<TestSequence> sequences(4);
  sequences[0].tokens = tokens;
  for (size_t i = 1; i < sequences.size(); ++i)
    sequences[i].tokens = random_ids(50 + 90 * i, static_cast<uint32_t>(i + 1));
  while (sequences[0].computed < 600) {
    std::vector<size_t> which;
    std::vector<int32_t> rows;
    for (size_t i : {2u, 0u, 3u, 1u}) {
      const auto left = static_cast<int32_t>(sequences[i].tokens.size()) - sequences[i].computed;
      if (left == 0 || random() % 3 == 0) continue;
      which.push_back(i);
      rows.push_back(1 + static_cast<int32_t>(random() % static_cast<uint32_t>(std::min(left, 40))));
    }
    if (!which.empty()) step(*threaded, pool, sequences, which, rows);
  }
  EXPECT_TRUE(same_bits(expected, sequences[0].logits));
}

TEST_P(Invariance, FastKernelsAgreeWithTheReference) {
  const TempFile file(random_model(kShape, GetParam(), TensorType::q8_0, false, 22));
  const auto tokens = random_ids(280, 3);
  const auto fast = alone(*load(file, 2), tokens, 64);
  const auto plain = alone(*load(file, 1, KernelChoice::reference), tokens, 64);
  double difference = 0, magnitude = 0;
  for (size_t i = 0; i < fast.size(); ++i) {
    ASSERT_TRUE(std::isfinite(fast[i]));
    difference += std::pow(double{fast[i]} - plain[i], 2);
    magnitude += std::pow(double{plain[i]}, 2);
  }
  // Normalised mean squared error: a rounding in a norm can move an activation by one int8 step.
  EXPECT_LT(difference / magnitude, is_quantized(GetParam()) ? 5e-4 : 1e-6);
  EXPECT_GT(magnitude, 0);
}

double normalised_error(const std::vector<float>& a, const std::vector<float>& exact) {
  double error = 0, magnitude = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(double{a[i]} - exact[i], 2);
    magnitude += std::pow(double{exact[i]}, 2);
  }
  return error / magnitude;
}

TEST(InvarianceOfKvTypes, ChunksAndThreadsDoNotChangeABit) {
  const TempFile file(random_model(kShape, TensorType::q4_0, TensorType::q8_0, true, 24));
  const auto tokens = random_ids(560, 5);
  for (KvType type : {KvType::f16, KvType::q8_0, KvType::f32}) {
    const auto single = load(file, 1, KernelChoice::automatic, type);
    const auto threaded = load(file, 3, KernelChoice::automatic, type);
    const auto expected = alone(*single, tokens, 256);
    for (int32_t chunk : {1, 33, 130}) {
      EXPECT_TRUE(same_bits(expected, alone(*threaded, tokens, chunk))) << kv_type_name(type) << " " << chunk;
    }
  }
}

// Normalised mean squared error of the logits against KV in f32. The weights are random, so a model's redundancy does
// not hide the loss.
TEST(KvTypes, QuantisedKvCostsLittleAndHalvesTheMemory) {
  const TempFile file(random_model(kShape, TensorType::f32, TensorType::f32, true, 25));
  const auto tokens = random_ids(300, 6);
  const auto logits = [&](KvType type) { return alone(*load(file, 2, KernelChoice::automatic, type), tokens, 64); };
  const auto exact = logits(KvType::f32);
  EXPECT_LT(normalised_error(logits(KvType::f16), exact), 1e-6);
  EXPECT_LT(normalised_error(logits(KvType::q8_0), exact), 2e-4);
  const auto bytes = [&](KvType type) {
    return load(file, 1, KernelChoice::automatic, type)->info().kv_bytes_per_token;
  };
  EXPECT_EQ(bytes(KvType::q8_0) * 32, bytes(KvType::f16) * 17);
}

TEST(KvTypes, QuantisedKvRefusesHeadsThatAreNoWholeBlocks) {
  ModelShape shape = kShape;
  shape.head_dim = 24;
  const TempFile file(random_model(shape, TensorType::f32, TensorType::f32, true, 26));
  try {
    load(file, 1, KernelChoice::automatic, KvType::q8_0);
    FAIL() << "loaded";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("multiple of 32"), std::string::npos) << error.what();
  }
  EXPECT_NO_THROW(load(file, 1, KernelChoice::automatic, KvType::f16));
}

// Rows of other sequences that are NaN through and through must not touch this one.
TEST(InvarianceToFaults, ANaNInOneSequenceStaysThere) {
  auto bytes = random_model(kShape, TensorType::q4_1, TensorType::f32, false, 23);
  // Token 129's embedding becomes NaN; the embedding is the first tensor, so its data starts the data section.
  const GgufFile parsed = GgufFile::parse("model", std::as_bytes(std::span(bytes)));
  const auto offset = reinterpret_cast<const uint8_t*>(parsed.tensor("token_embd.weight")->data.data()) - bytes.data();
  const float nan = std::nanf("");
  for (uint32_t i = 0; i < kShape.dim; ++i) std::memcpy(bytes.data() + offset + (129 * kShape.dim + i) * 4, &nan, 4);
  const TempFile file(bytes);
  const auto runner = load(file, 2);
  auto clean = random_ids(40, 4);
  for (int32_t& id : clean) id %= 129;
  const auto expected = alone(*runner, clean, 64);
  TestBlocks pool(runner->info().blocks_total, 1);
  std::vector<TestSequence> sequences(2);
  sequences[0].tokens = {129, 5, 129};
  sequences[1].tokens = clean;
  step(*runner, pool, sequences, {0, 1}, {3, 40});
  EXPECT_TRUE(same_bits(expected, sequences[1].logits));
  for (float logit : sequences[0].logits) EXPECT_TRUE(std::isnan(logit));
}

// What each layer of the cache held when it was told to be stored.
class Snapshots final : public StepWatch {
 public:
  explicit Snapshots(const KvView& kv) : kv_(kv) {}
  void layers_stored(int32_t layers) override {
    ASSERT_EQ(layers, static_cast<int32_t>(told.size()) + 1) << "one after the other";
    told.push_back(layer(layers - 1));
  }
  std::vector<std::byte> layer(int32_t index) const {
    const std::byte* first = kv_.at(index, 0).data();
    return {first, first + kv_.blocks_total * kv_.block_bytes};
  }
  std::vector<std::vector<std::byte>> told;

 private:
  KvView kv_;
};

TEST(Watch, IsToldOfEachLayerWhenItsKeysAndValuesAreThere) {
  ModelShape shape = kShape;
  shape.layers = 5;
  const TempFile file(random_model(shape, TensorType::q8_0, TensorType::q8_0, true, 21));
  for (const int32_t threads : {1, 3}) {
    const auto runner = load(file, threads);
    TestBlocks pool(runner->info().blocks_total, 3);
    std::vector<TestSequence> sequences(3);
    for (size_t i = 0; i < sequences.size(); ++i) sequences[i].tokens = random_ids(90 + i, static_cast<uint32_t>(i));
    // Prompts without logits, which leave the last layer early; then some with; then one row beside a chunk.
    for (const std::vector<int32_t>& rows : std::vector<std::vector<int32_t>>{{40, 33, 50}, {49, 57, 42}, {1, 1}}) {
      Snapshots watch(runner->kv());
      std::vector<size_t> which(rows.size());
      std::iota(which.begin(), which.end(), size_t{0});
      step(*runner, pool, sequences, which, rows, &watch);
      ASSERT_EQ(watch.told.size(), 5u);
      for (int32_t layer = 0; layer < 5; ++layer)
        EXPECT_EQ(watch.told[static_cast<size_t>(layer)], watch.layer(layer)) << "layer " << layer;
      // One that is complete goes on with a token.
      for (TestSequence& sequence : sequences)
        if (sequence.computed == static_cast<int32_t>(sequence.tokens.size())) sequence.tokens.push_back(7);
    }
  }
}

}  // namespace
}  // namespace penstock
