// Loading whole models: what a file must say, what options must make sense, and that hostile files end in typed errors.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "model/load.h"
#include "model_fixtures.h"
#include "run_sequences.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr ModelShape kSmall{
    .dim = 64, .ffn_dim = 96, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16, .vocab = 40, .context = 128};

LoadOptions small_options(const std::string& path) {
  LoadOptions options;
  options.path = path;
  options.threads = 1;
  options.blocks_total = 16;
  options.step_tokens_max = 32;
  options.step_sequences_max = 4;
  return options;
}

std::string refusal(const std::vector<uint8_t>& bytes) {
  const TempFile file(bytes);
  try {
    load_model(small_options(file.path()));
  } catch (const ModelFileError& error) {
    EXPECT_EQ(std::string(error.what()).rfind(file.path() + ": at byte ", 0), 0u);
    return error.reason();
  }
  return "accepted";
}

// The small model with one change to its metadata or tensors: rebuilt by hand, since a writer only appends.
std::vector<uint8_t> without(const std::string& key_or_tensor) {
  auto bytes = random_model(kSmall, TensorType::f32, TensorType::f32, true, 1);
  // Renaming in place keeps every offset: the first byte of the name changes.
  const std::string pattern = key_or_tensor;
  const auto found = std::search(bytes.begin(), bytes.end(), pattern.begin(), pattern.end());
  EXPECT_NE(found, bytes.end()) << key_or_tensor;
  *found = 'X';
  return bytes;
}

std::vector<uint8_t> with_u32(const std::string& key, uint32_t value) {
  auto bytes = random_model(kSmall, TensorType::f32, TensorType::f32, true, 1);
  const auto found = std::search(bytes.begin(), bytes.end(), key.begin(), key.end());
  EXPECT_NE(found, bytes.end()) << key;
  std::memcpy(&*found + key.size() + 4, &value, 4);
  return bytes;
}

TEST(Load, ReportsWhatTheSchedulerNeeds) {
  const TempFile file(random_model(kSmall, TensorType::q8_0, TensorType::f16, true, 1));
  const auto runner = load_model(small_options(file.path()));
  const RunnerInfo& info = runner->info();
  EXPECT_EQ(info.arch, "llama");
  EXPECT_EQ(info.model_name, "test model");
  EXPECT_EQ(info.vocab_size, 40);
  EXPECT_EQ(info.context_tokens, 128);
  EXPECT_EQ(info.blocks_total, 16);
  EXPECT_EQ(info.kv_bytes_per_token, 2 * 2 * 2 * 16 * 2);  // layers, k and v, heads, dims, bytes
  const int64_t layer = (64 * 64 * 2 + 64 * 32 * 2 + 64 * 96 * 3) / 32 * 34;
  EXPECT_EQ(info.weight_bytes, 2 * layer + 40 * 64 * 2);
}

TEST(Load, ContextIsLimitedByTheFileTheOptionAndThePool) {
  const TempFile file(random_model(kSmall, TensorType::f32, TensorType::f32, true, 1));
  LoadOptions options = small_options(file.path());
  options.context_tokens_max = 50;
  EXPECT_EQ(load_model(options)->info().context_tokens, 50);
  options.context_tokens_max = 5000;
  EXPECT_EQ(load_model(options)->info().context_tokens, 128);
  options.blocks_total = 3;
  EXPECT_EQ(load_model(options)->info().context_tokens, 48);
  options.blocks_total.reset();
  options.kv_bytes_max = 10 * 16 * 256;
  EXPECT_EQ(load_model(options)->info().blocks_total, 10);
}

TEST(Load, RefusesOptionsThatMakeNoSense) {
  const TempFile file(random_model(kSmall, TensorType::f32, TensorType::f32, true, 1));
  const auto expect_refused = [&](const std::function<void(LoadOptions&)>& change) {
    LoadOptions options = small_options(file.path());
    change(options);
    EXPECT_THROW(load_model(options), std::invalid_argument);
  };
  expect_refused([](LoadOptions& o) { o.threads = -1; });
  expect_refused([](LoadOptions& o) { o.blocks_total = 0; });
  expect_refused([](LoadOptions& o) {
    o.blocks_total.reset();
    o.kv_bytes_max = 100;
  });
  expect_refused([](LoadOptions& o) { o.context_tokens_max = -1; });
  expect_refused([](LoadOptions& o) { o.step_tokens_max = 0; });
  expect_refused([](LoadOptions& o) { o.step_sequences_max = 0; });
}

TEST(Load, FingerprintsAreEqualExactlyForExchangeableKv) {
  const auto fingerprint = [](uint32_t seed, KvType type) {
    const TempFile file(random_model(kSmall, TensorType::f32, TensorType::f32, true, seed));
    LoadOptions options = small_options(file.path());
    options.kv_type = type;
    return load_model(options)->info().kv_fingerprint;
  };
  EXPECT_EQ(fingerprint(1, KvType::f16), fingerprint(1, KvType::f16));
  EXPECT_NE(fingerprint(1, KvType::f16), fingerprint(2, KvType::f16));
  EXPECT_NE(fingerprint(1, KvType::f16), fingerprint(1, KvType::f32));
}

TEST(Load, ReportsProgressFromNothingToAll) {
  const TempFile file(random_model(kSmall, TensorType::f32, TensorType::f32, false, 1));
  LoadOptions options = small_options(file.path());
  std::vector<std::pair<int64_t, int64_t>> seen;
  options.progress = [&](int64_t done, int64_t total) { seen.emplace_back(done, total); };
  load_model(options);
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen.front().first, 0);
  EXPECT_EQ(seen.back().first, seen.back().second);
  for (size_t i = 1; i < seen.size(); ++i) EXPECT_LE(seen[i - 1].first, seen[i].first);
}

TEST(Load, RefusesFilesThatCannotBeRead) {
  EXPECT_THROW(load_model(small_options("/nonexistent/model.gguf")), ModelFileError);
  EXPECT_THROW(load_model(small_options("/tmp")), ModelFileError);
  EXPECT_NE(refusal({}).find("empty"), std::string::npos);
}

// Tensors are read, not mapped: the bytes that are gone are an error, where touching them would end the process.
TEST(Load, AFileThatShrinksWhileItIsLoadedIsATypedError) {
  const auto bytes = random_model(kSmall, TensorType::q8_0, TensorType::f16, false, 1);
  const TempFile file(bytes);
  LoadOptions options = small_options(file.path());
  options.progress = [&](int64_t done, int64_t) {
    if (done == 0) std::filesystem::resize_file(file.path(), bytes.size() / 2);
  };
  try {
    load_model(options);
    FAIL() << "half a file was accepted";
  } catch (const ModelFileError& error) {
    EXPECT_EQ(error.reason(), "the file has become shorter since it was opened");
  }
}

TEST(Load, NamesTheTensorWhoseRowsAreNoWholeBlocks) {
  ModelShape shape = kSmall;
  shape.dim = 96;  // no multiple of 256
  EXPECT_NE(refusal(random_model(shape, TensorType::q4_k, TensorType::f16, true, 1)).find("multiple of 256"),
            std::string::npos);
}

TEST(Load, RefusesMissingKeysAndTensorsByName) {
  for (const std::string name :
       {"general.architecture", "llama.block_count", "llama.embedding_length", "llama.context_length",
        "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon",
        "token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight"}) {
    EXPECT_NE(refusal(without(name)).find("\"" + name + "\" is missing"), std::string::npos)
        << name << ": " << refusal(without(name));
  }
}

TEST(Load, RefusesDimensionsThatDoNotFit) {
  EXPECT_NE(refusal(with_u32("llama.block_count", 3)).find("the model states 3 layers"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.block_count", 1)).find("no part of a llama model of 1 layers"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.block_count", 4000000000u)).find("llama.block_count"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.embedding_length", 32)).find("has the shape"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.feed_forward_length", 95)).find("has the shape"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.attention.head_count_kv", 3)).find("not a multiple"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.attention.key_length", 24)).find("differs from the key length"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.attention.value_length", 8)).find("differs from the key length"),
            std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.rope.dimension_count", 18)).find("18 rotating dimensions"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.rope.dimension_count", 7)).find("7 rotating dimensions"), std::string::npos);
  EXPECT_NE(refusal(with_u32("llama.attention.layer_norm_rms_epsilon", 0x7FC00000)).find("not a positive number"),
            std::string::npos);
}

TEST(Load, RefusesAnotherArchitecture) {
  GgufWriter out;
  out.string("general.architecture", "mamba\n").tensor_f32("token_embd.weight", {8, 1}, std::vector<float>(8));
  EXPECT_EQ(refusal(out.build()), "the architecture is \"mamba?\"; supported are llama, qwen2 or qwen3");
}

TEST(Load, VocabularyIsWhatTheTokenizerKnows) {
  GgufWriter out;
  write_metadata(out, kSmall);
  out.strings("tokenizer.ggml.tokens", std::vector<std::string>(41, "t"))
      .tensor_f32("token_embd.weight", {64, 40}, std::vector<float>(64 * 40));
  EXPECT_NE(refusal(out.build()).find("the tokenizer has 41 tokens"), std::string::npos);
}

TEST(Load, BrokenBatchesAreRefusedBeforeAnythingIsWritten) {
  const TempFile file(random_model(kSmall, TensorType::f32, TensorType::f32, true, 1));
  const auto runner = load_model(small_options(file.path()));
  std::vector<float> logits(40);
  const std::vector<int32_t> ids{1, 2, 3}, positions{0, 1, 2}, blocks{4}, outside{16};
  const auto run = [&](std::vector<int32_t> i, std::vector<int32_t> p, StepSequence s, size_t room = 40) {
    const std::vector<StepSequence> sequences{s};
    runner->forward({i, p, sequences}, std::span(logits).first(room));
  };
  EXPECT_NO_THROW(run(ids, positions, {0, 3, 3, blocks, true}));
  EXPECT_THROW(run({1, 2, 40}, positions, {0, 3, 3, blocks, true}), std::logic_error);
  EXPECT_THROW(run({1, -2, 3}, positions, {0, 3, 3, blocks, true}), std::logic_error);
  EXPECT_THROW(run(ids, {0, 1, 3}, {0, 3, 3, blocks, true}), std::logic_error);
  EXPECT_THROW(run(ids, positions, {0, 2, 2, blocks, true}), std::logic_error);
  EXPECT_THROW(run(ids, positions, {1, 3, 3, blocks, true}), std::logic_error);
  EXPECT_THROW(run(ids, positions, {0, 3, 3, outside, true}), std::logic_error);
  EXPECT_THROW(run(ids, positions, {0, 3, 3, {}, true}), std::logic_error);
  EXPECT_THROW(run(ids, positions, {0, 3, 3, blocks, true}, 39), std::logic_error);
  EXPECT_THROW(run({}, {}, {0, 0, 0, blocks, true}), std::logic_error);
}

// Whatever the bytes, loading ends in a Runner that computes or in a typed error.
TEST(Load, MutatedModelsNeverCrash) {
  ModelShape tiny = kSmall;
  tiny.layers = 1;
  tiny.vocab = 16;
  const auto original = random_model(tiny, TensorType::q4_1, TensorType::q8_0, true, 3);
  std::mt19937 random(77);
  int loaded = 0;
  for (int round = 0; round < 400; ++round) {
    auto bytes = original;
    const size_t structure = 2048;  // metadata and tensor descriptions lie at the front
    for (uint32_t edit = 0; edit < 1 + random() % 3; ++edit) {
      const size_t at = random() % (random() % 4 == 0 ? bytes.size() : structure);
      bytes[at] = random() % 2 == 0 ? static_cast<uint8_t>(random()) : static_cast<uint8_t>(random() % 2 * 255);
    }
    const TempFile file(bytes);
    try {
      LoadOptions options = small_options(file.path());
      options.blocks_total.reset();
      options.kv_bytes_max = 1 << 20;
      const auto runner = load_model(options);
      const std::vector<int32_t> ids{0, 1, 2}, positions{0, 1, 2}, blocks{0};
      const std::vector<StepSequence> sequences{{0, 3, 3, blocks, true}};
      std::vector<float> logits(static_cast<size_t>(runner->info().vocab_size));
      if (runner->info().vocab_size >= 3 && runner->info().context_tokens >= 3)
        runner->forward({ids, positions, sequences}, logits);
      ++loaded;
    } catch (const ModelFileError&) {
    } catch (const std::invalid_argument&) {  // KV of the claimed shape does not fit into kv_bytes_max
    }
  }
  EXPECT_GT(loaded, 20);
}

}  // namespace
}  // namespace penstock
