// The whole path from file to token on a device, against the processor and against what others computed.
#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_models.h"
#include "family_models.h"
#include "model/cuda/kernel_limits.h"
#include "model/cuda/step_arrays.h"
#include "model/device_sampler.h"
#include "ops/cuda/gemm.h"
#include "ops/cuda/matmul.h"
#include "story_goldens.h"

namespace penstock {
namespace {

using namespace penstock::testing;
using namespace penstock::cuda;

// Greedy text of `count` tokens, the prompt in chunks of `chunk`.
std::vector<int32_t> greedy(Runner& runner, const StoryGolden& golden, int32_t chunk, size_t count) {
  TestBlocks pool(runner.info().blocks_total, 7);
  std::vector<TestSequence> one(1);
  one[0].tokens = golden.prompt_ids;
  catch_up(runner, pool, one, 0, chunk);
  for (const auto& [id, logit] : golden.top) EXPECT_NEAR(one[0].logits[static_cast<size_t>(id)], logit, 2e-2f);
  std::vector<int32_t> generated;
  while (generated.size() < count) {
    generated.push_back(largest(one[0].logits));
    one[0].tokens.push_back(generated.back());
    catch_up(runner, pool, one, 0, 1);
  }
  return generated;
}

// The published text is that of f32. Half precision keys and values move no choice of it, on the processor either.
TEST(CudaStories, GivesTheGreedyTextThatOthersPublished) {
  const TempFile file(stories_gguf());
  const auto runner = load_model(device_options(file.path()));
  for (const StoryGolden& golden : goldens()) {
    const size_t count = golden.prompt_ids == goldens().front().prompt_ids ? 64 : 12;
    const auto begin = golden.greedy_ids.begin();
    EXPECT_EQ(greedy(*runner, golden, 64, count), std::vector<int32_t>(begin, begin + static_cast<int64_t>(count)));
  }
}

TEST(CudaStories, GivesTheTextOfTheProcessorWithEveryTypeOfKeysAndValues) {
  const TempFile file(stories_gguf());
  for (const KvType type : {KvType::f16, KvType::bf16}) {
    LoadOptions options = device_options(file.path());
    options.kv_type = type;
    const StoryGolden golden = goldens()[1];
    EXPECT_EQ(greedy(*load_model(options), golden, 5, 16), greedy(*on_processor(options), golden, 5, 16))
        << kv_type_name(type);
  }
}

class CudaFamily : public ::testing::TestWithParam<FamilyCase> {};

INSTANTIATE_TEST_SUITE_P(Every, CudaFamily, ::testing::ValuesIn(family_cases()),
                         [](const auto& each) { return each.param.name; });

// Logits lie within +-4; a wrong pairing, frequency, bias, norm or window gives 0.1 and more. What is left is that of f16 keys
// and values.
TEST_P(CudaFamily, GivesTheGoldenLogits) {
  const FamilyCase& c = GetParam();
  const TempFolder folder;
  write_family_folder(folder, c);
  const auto runner = load_model(device_options(folder.path()));
  for (size_t i = 0; i < c.positions.size(); ++i) {
    const std::vector<int32_t> tokens(c.prompt.begin(), c.prompt.begin() + c.positions[i] + 1);
    const std::vector<float> logits = logits_behind(*runner, tokens, 37);
    for (size_t id = 0; id < logits.size(); ++id) ASSERT_NEAR(logits[id], c.logits[i][id], 1e-2f) << "position " << i;
  }
}

struct Format {
  TensorType type;
  TensorType embedding;
  double error_max;
};
class CudaFormat : public ::testing::TestWithParam<Format> {};

// bf16 rounds activations to 8 bits; a rounding in a norm can move an activation by one int8 step.
INSTANTIATE_TEST_SUITE_P(Every, CudaFormat,
                         ::testing::Values(Format{TensorType::f32, TensorType::f32, 1e-6},
                                           Format{TensorType::f16, TensorType::f16, 1e-5},
                                           Format{TensorType::bf16, TensorType::bf16, 2e-4},
                                           Format{TensorType::q8_0, TensorType::q8_0, 5e-4},
                                           Format{TensorType::q4_0, TensorType::q8_0, 5e-4},
                                           Format{TensorType::q4_1, TensorType::f16, 5e-4},
                                           Format{TensorType::q5_0, TensorType::q8_0, 5e-4},
                                           Format{TensorType::q5_1, TensorType::f32, 5e-4},
                                           Format{TensorType::q4_k, TensorType::q6_k, 5e-4},
                                           Format{TensorType::q5_k, TensorType::q6_k, 5e-4},
                                           Format{TensorType::q6_k, TensorType::q4_k, 5e-4}),
                         [](const auto& each) { return std::string(tensor_type_facts(each.param.type).name); });

TEST_P(CudaFormat, GivesTheLogitsOfTheProcessor) {
  const Format& format = GetParam();
  const bool tied = format.type == TensorType::q8_0;
  const TempFile file(format_model(format.type, format.embedding, tied, 11));
  const LoadOptions options = device_options(file.path());
  const auto device = load_model(options);
  const auto processor = on_processor(options);
  EXPECT_EQ(device->info().weight_bytes, processor->info().weight_bytes);
  const auto tokens = some_ids(21, 3);
  const auto ours = logits_behind(*device, tokens, 19, 1);
  EXPECT_LT(error_of(ours, logits_behind(*processor, tokens, 19, 1)), format.error_max);
}

TEST(CudaDecoder, QuantisesWhileLoadingAsTheProcessorDoes) {
  const TempFile file(random_model(kSmallShape, TensorType::f16, TensorType::f16, true, 4));
  LoadOptions options = device_options(file.path());
  options.quantize = TensorType::q8_0;
  const auto tokens = some_ids(20, 5);
  EXPECT_LT(error_of(logits_behind(*load_model(options), tokens, 64), logits_behind(*on_processor(options), tokens, 64)), 5e-4);
}

// A step of everything at once: a prompt in the middle, one whose end samples, one that decodes, and both kinds of pooling.
TEST(CudaDecoder, PoolsAndSamplesInOneStepAsTheProcessorDoes) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, false, 6));
  LoadOptions options = device_options(file.path());
  const auto run = [&](Runner& runner) {
    const auto ids = some_ids(30, 8);
    std::vector<int32_t> positions;
    std::vector<std::vector<int32_t>> tables{{3, 9}, {1}, {2, 8}, {5}};
    std::vector<float> mean(kSmallShape.dim), last(kSmallShape.dim), both(kSmallShape.dim);
    const std::vector<StepSequence> sequences{
        {0, 17, 17, tables[0], false, Pooling::mean, mean},
        {17, 1, 1, tables[1], true, Pooling::none, {}},
        {18, 10, 10, tables[2], true, Pooling::mean, both},
        {28, 2, 2, tables[3], false, Pooling::last, last},
    };
    for (const StepSequence& s : sequences)
      for (int32_t i = 0; i < s.rows; ++i) positions.push_back(i);
    std::vector<float> logits(2 * kSmallShape.vocab);
    runner.forward({ids, positions, sequences}, logits);
    std::vector<std::vector<float>> all{mean, both, last};
    for (size_t row = 0; row < 2; ++row) {
      const auto begin = logits.begin() + static_cast<int64_t>(row * kSmallShape.vocab);
      all.emplace_back(begin, begin + kSmallShape.vocab);
    }
    return all;
  };
  const auto ours = run(*load_model(options)), theirs = run(*on_processor(options));
  for (size_t i = 0; i < theirs.size(); ++i) EXPECT_LT(error_of(ours[i], theirs[i]), 5e-4) << i;
}

// Greedy, hot, filtered, penalised, biased and masked.
TEST(CudaDecoder, DrawsTheTokensThatTheProcessorWouldDraw) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 9));
  const auto runner = load_model(device_options(file.path()));
  const std::vector<int32_t> ids{4, 9, 22, 61}, positions(4, 0), output{7, 7, 12}, table[] = {{0}, {1}, {2}, {3}};
  std::vector<StepSequence> sequences;
  for (int32_t i = 0; i < 4; ++i) sequences.push_back({i, 1, 1, table[i], true});
  std::vector<SamplingParams> params(4);
  params[0].temperature = 0;
  params[1] = {.temperature = 1.3f, .top_p = 0.8f, .top_k = 20, .min_p = 0.01f, .seed = 5, .bias = {}};
  params[2] = {.temperature = 0.9f, .repetition_penalty = 1.3f, .presence_penalty = 0.5f, .frequency_penalty = 0.2f, .seed = 6,
               .bias = {{3, 2.0f}, {60, -1.0f}}};
  params[3] = {.temperature = 2.0f, .seed = 7, .bias = {}};
  const std::vector<uint32_t> mask{0x00F0F0F0, 0xFFFF0000, 0x3F};
  for (int round = 0; round < 2; ++round) {  // scratch is as it was
    runner->forward({ids, positions, sequences}, {});
    DeviceSampler& device = *runner->device_sampler();
    std::vector<float> logits(4 * kSmallShape.vocab);
    device.read_logits(std::vector<int32_t>{0, 1, 2, 3}, logits);
    std::vector<DeviceRow> rows;
    for (const SamplingParams& p : params) rows.push_back({&p, ids, output, {}});
    rows[3].mask = mask;
    std::vector<int32_t> drawn(4), expected;
    device.sample(rows, drawn);
    Sampler sampler;
    for (size_t i = 0; i < 4; ++i)
      expected.push_back(sampler.sample(std::span(logits).subspan(i * kSmallShape.vocab, kSmallShape.vocab), params[i], ids,
                                        output, rows[i].mask).token);
    EXPECT_EQ(drawn, expected);
  }
}

std::string refusal(const LoadOptions& options) {
  try {
    load_model(options);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(CudaDecoder, MultipliesByALibraryOnlyWhereItIsAskedForAndThere) {
  const TempFile file(random_model(kSmallShape, TensorType::f16, TensorType::f16, true, 8));
  LoadOptions options = device_options(file.path());
  options.step_tokens_max = 160;
  const auto tokens = some_ids(150, 3);
  const auto expected = logits_behind(*load_model(options), tokens, 160);
  options.gemm = GemmChoice::automatic;
  if (Gemm::has_library()) {
    EXPECT_LT(error_of(logits_behind(*load_model(options), tokens, 160), expected), 1e-4);
    return;
  }
  EXPECT_TRUE(same_bits(logits_behind(*load_model(options), tokens, 160), expected));
  options.gemm = GemmChoice::cublaslt;
  EXPECT_NE(refusal(options).find("without cuBLASLt"), std::string::npos) << refusal(options);
}

TEST(CudaDecoder, NamesItsLayoutInTheFingerprint) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 7));
  LoadOptions options = device_options(file.path());
  const std::string device = load_model(options)->info().kv_fingerprint;
  EXPECT_NE(device, on_processor(options)->info().kv_fingerprint);
  options.kv_type = KvType::bf16;
  EXPECT_NE(device, load_model(options)->info().kv_fingerprint);
}

TEST(CudaDecoder, RefusesWhatItCannotKeepOrCompute) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 7));
  LoadOptions options = device_options(file.path());
  options.kv_type = KvType::f32;
  EXPECT_NE(refusal(options).find("f32"), std::string::npos) << refusal(options);
  options = device_options(file.path());
  options.device.index = 9;
  EXPECT_NE(refusal(options).find("cuda:9"), std::string::npos) << refusal(options);
  options = device_options(file.path());
  options.cuda = nullptr;
  EXPECT_EQ(refusal(options), "this engine was built without CUDA");
  options.device = {};
  options.kv_type = KvType::bf16;
  EXPECT_EQ(refusal(options), "kv_type bf16 needs a CUDA device");
}

// Before the weights are read. Steps of so many rows are beyond the int8 kernel's indices, not beyond those of f16.
TEST(CudaDecoder, RefusesStepsThatItsKernelsCannotNumber) {
  ModelShape wide = kSmallShape;
  wide.ffn_dim = 1 << 15;
  wide.layers = 1;
  const TempFile quantised(random_model(wide, TensorType::q8_0, TensorType::q8_0, true, 7));
  LoadOptions options = device_options(quantised.path());
  options.step_tokens_max = (1 << 16) - options.step_sequences_max;
  EXPECT_NE(refusal(options).find("fewer --step-tokens"), std::string::npos) << refusal(options);
  EXPECT_NE(refusal(options).find("up to 65472 rows"), std::string::npos) << refusal(options);
}

// The longest context that a file may state, of as many heads as it may.
TEST(CudaKernelLimits, NoStateOfAttentionIsNumberedBeyond31Bits) {
  for (const int32_t heads : {32, 4096}) {
    const StepArrays::Shape shape{.rows = 1 << 16,
                                  .read_rows = 1 << 16,
                                  .sequences = 1 << 14,
                                  .blocks = static_cast<int32_t>(kContextMax / kBlockTokens),
                                  .attention = {.heads = heads, .kv_heads = 8, .head_dim = 64, .window_tokens = 0, .blocks_wanted = 1056}};
    const int64_t rows = StepArrays::partial_rows_max(shape);
    EXPECT_GT(rows, 0);
    EXPECT_LT(rows * heads, int64_t{1} << 31) << heads << " heads";
  }
}

TEST(CudaKernelLimits, NameWhatIsTooLarge) {
  Config config{};
  config.dim = config.ffn_dim = 4096;
  config.heads = config.kv_heads = 32;
  config.head_dim = 128;
  config.vocab_size = 128'256;
  const DecoderLimits limits{0, 8192, 256};
  EXPECT_NO_THROW(check_kernel_limits(config, limits, true));
  const auto refused = [&](auto change) {
    Config other = config;
    DecoderLimits others = limits;
    change(other, others);
    try {
      check_kernel_limits(other, others, true);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto names = [&](auto change, const std::string& what) {
    const std::string said = refused(change);
    EXPECT_NE(said.find(what), std::string::npos) << said;
  };
  names([](Config& c, DecoderLimits&) { c.head_dim = 264; }, "heads of 264 dimensions");
  names([](Config& c, DecoderLimits&) { c.dim = kNormColsMax + 4; }, "a width of 32772");
  names([](Config& c, DecoderLimits&) { c.vocab_size = kSampleVocabMax + 1; }, "a vocabulary of 917505");
  names([](Config& c, DecoderLimits&) { c.ffn_dim = kProductOutputsMax + 1; }, "a matrix of 1048561 rows");
  // Llama 3.1 405B, whose feed-forward is 53248 wide.
  names([](Config& c, DecoderLimits& l) { c.ffn_dim = 53248, l.step_tokens = 1 << 16; }, "up to 40320 rows");
  Config wide = config;
  wide.ffn_dim = 53248;
  EXPECT_NO_THROW(check_kernel_limits(wide, {0, 1 << 16, 256}, false)) << "f16 has no such limit";
  EXPECT_NO_THROW(check_kernel_limits(wide, {0, 40'000, 320}, true));
}

TEST(CudaDecoder, RefusesBrokenBatchesBeforeAnythingIsChanged) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 7));
  const auto runner = load_model(device_options(file.path()));
  const auto tokens = some_ids(20, 1);
  const auto expected = logits_behind(*runner, tokens, 64);
  const std::vector<int32_t> ids{1}, positions{0}, far{1000}, table{0};
  std::vector<float> logits(kSmallShape.vocab);
  const std::vector<StepSequence> wrong{{0, 1, 1, far, true}};
  EXPECT_THROW(runner->forward({ids, positions, wrong}, logits), std::logic_error);
  EXPECT_TRUE(same_bits(logits_behind(*runner, tokens, 64), expected));
}

}  // namespace
}  // namespace penstock
