// Every model family against logits that Hugging Face transformers computes in double precision, from folders and from
// GGUF; rotary scaling by itself; and what is refused because this engine would compute other numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "family_models.h"
#include "model/huggingface_config.h"
#include "model/load.h"
#include "model/rope_scaling.h"
#include "run_sequences.h"

namespace penstock {
namespace {

using namespace penstock::testing;

LoadOptions options_for(const std::string& path) {
  LoadOptions options;
  options.path = path;
  options.threads = 1;
  options.blocks_total = 32;
  options.step_tokens_max = 64;
  options.kv_type = KvType::f32;
  return options;
}

// Logits behind each of the positions, the prompt fed in chunks of at most `chunk`.
std::vector<std::vector<float>> run_case(const FamilyCase& c, const LoadOptions& options, int32_t chunk = 37) {
  const auto runner = load_model(options);
  std::vector<std::vector<float>> logits;
  for (int32_t position : c.positions) {
    TestBlocks pool(runner->info().blocks_total, 5);
    std::vector<TestSequence> one(1);
    one[0].tokens.assign(c.prompt.begin(), c.prompt.begin() + position + 1);
    catch_up(*runner, pool, one, 0, chunk);
    logits.push_back(one[0].logits);
  }
  return logits;
}

float largest_difference(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  float largest = 0;
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    EXPECT_EQ(a[i].size(), b[i].size());
    for (size_t j = 0; j < std::min(a[i].size(), b[i].size()); ++j)
      largest = std::max(largest, std::abs(a[i][j] - b[i][j]));
  }
  return largest;
}

// Logits lie within +-4. Rounding of f32 reaches 2e-5; a wrong pairing, frequency, bias, norm or window gives 0.1 and
// more (see TheGoldensNoticeEveryFeature).
constexpr float kTolerance = 1e-4f;

FamilyCase case_named(const std::string& name) {
  for (FamilyCase& c : family_cases()) {
    if (c.name == name) return c;
  }
  ADD_FAILURE() << "no case " << name;
  return {};
}

class Family : public ::testing::TestWithParam<std::string> {};

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const FamilyCase& c : family_cases()) names.push_back(c.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Every, Family, ::testing::ValuesIn(case_names()), [](const auto& name) { return name.param; });

TEST_P(Family, FolderGivesTheGoldenLogits) {
  const FamilyCase c = case_named(GetParam());
  const TempFolder folder;
  write_family_folder(folder, c);
  LoadOptions options = options_for(folder.path());
  const auto automatic = run_case(c, options);
  EXPECT_LT(largest_difference(automatic, c.logits), kTolerance);
  options.kernels = KernelChoice::reference;
  EXPECT_LT(largest_difference(run_case(c, options), c.logits), kTolerance);
}

TEST_P(Family, TheLayoutOfNewerConfigsMeansTheSame) {
  const FamilyCase c = case_named(GetParam());
  const TempFolder folder;
  write_family_folder(folder, c);
  const auto older = run_case(c, options_for(folder.path()));
  folder.write("config.json", c.config_v5);
  EXPECT_EQ(run_case(c, options_for(folder.path())), older);
}

// Every weight of these models is exact in F16 and BF16. Kernels may add up a format in an order of its own; how a
// model is cut into files may not change a bit.
TEST_P(Family, FloatFormatsAndShardsGiveTheSameLogits) {
  const FamilyCase c = case_named(GetParam());
  const TempFolder folder;
  write_family_folder(folder, c);
  const auto f32 = run_case(c, options_for(folder.path()));
  for (const char* dtype : {"F16", "BF16"}) {
    write_family_folder(folder, c, dtype);
    EXPECT_LT(largest_difference(run_case(c, options_for(folder.path())), f32), 2e-5f) << dtype;
  }
  std::filesystem::remove(folder.path() + "/model.safetensors");
  std::vector<NamedTensor> parts[3];
  std::string map;
  const auto tensors = family_tensors(c);
  for (size_t i = 0; i < tensors.size(); ++i) {
    parts[i % 3].push_back(tensors[i]);
    map.append(i > 0 ? ", \"" : "\"").append(tensors[i].name).append("\": \"part-").append(std::to_string(i % 3));
    map.append(".safetensors\"");
  }
  for (size_t i = 0; i < 3; ++i) {
    folder.write("part-" + std::to_string(i) + ".safetensors", family_safetensors(parts[i], "F32"));
  }
  folder.write("model.safetensors.index.json", "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {" + map + "}}");
  EXPECT_EQ(run_case(c, options_for(folder.path())), f32);
}

// What converters write for a family's rotary scaling and window.
void write_gguf_extras(const FamilyCase& c, GgufWriter& out, const std::string& arch) {
  if (const Json* scaling = c.settings.find("rope_scaling")) {
    const Json* type = scaling->find("rope_type") != nullptr ? scaling->find("rope_type") : scaling->find("type");
    const auto number = [&](const char* key, double otherwise) {
      const Json* value = scaling->find(key);
      return value == nullptr ? otherwise : value->number;
    };
    const double factor = number("factor", 1), original = number("original_max_position_embeddings", 0);
    if (type->text == "llama3") {
      RopeParameters plain;
      plain.theta = c.settings.find("rope_theta")->number;
      RopeParameters scaled = plain;
      scaled.scaling = RopeScaling::llama3;
      scaled.factor = factor;
      scaled.original_context_tokens = original;
      const auto dims = static_cast<int32_t>(c.head_dim());
      const auto before = rope_frequencies(plain, dims), after = rope_frequencies(scaled, dims);
      std::vector<float> divisors;
      for (size_t i = 0; i < before.size(); ++i) divisors.push_back(static_cast<float>(before[i] / after[i]));
      out.tensor_f32("rope_freqs.weight", {divisors.size()}, divisors);
    } else {
      out.string(arch + ".rope.scaling.type", type->text)
          .f32(arch + ".rope.scaling.factor", static_cast<float>(factor));
    }
    if (type->text == "yarn") {
      out.u32(arch + ".rope.scaling.original_context_length", static_cast<uint32_t>(original));
    }
  }
  if (c.text("model_type") == "mistral" && c.integer("sliding_window") > 0) {
    out.u32(arch + ".attention.sliding_window", static_cast<uint32_t>(c.integer("sliding_window")));
  }
  if (c.name == "qwen2_window") out.u32("qwen2.attention.sliding_window", 40);
}

TEST_P(Family, GgufOfTheSameWeightsGivesTheSameLogits) {
  const FamilyCase c = case_named(GetParam());
  // GGUF has no key for bounds of yarn that are not whole pairs.
  if (c.name == "llama_yarn") return;
  const TempFolder folder;
  write_family_folder(folder, c);
  const auto from_folder = run_case(c, options_for(folder.path()));
  const TempFile file(
      family_gguf(c, [&](GgufWriter& out, const std::string& arch) { write_gguf_extras(c, out, arch); }));
  const auto from_gguf = run_case(c, options_for(file.path()));
  EXPECT_LT(largest_difference(from_gguf, c.logits), kTolerance);
  // `llama` files hold the rows of q and k in another order, so the sums of their products run in another order too.
  if (c.text("model_type").starts_with("qwen")) {
    EXPECT_EQ(from_gguf, from_folder);
  } else {
    EXPECT_LT(largest_difference(from_gguf, from_folder), 2e-5f);
  }
}

TEST_P(Family, ChunksOfAnySizeGiveTheSameBits) {
  const FamilyCase c = case_named(GetParam());
  const TempFolder folder;
  write_family_folder(folder, c);
  const auto whole = run_case(c, options_for(folder.path()), 64);
  EXPECT_EQ(run_case(c, options_for(folder.path()), 1), whole);
  EXPECT_EQ(run_case(c, options_for(folder.path()), 17), whole);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

// A golden that a wrong engine meets would be worth nothing: taking each feature away must be seen.
TEST(Families, TheGoldensNoticeEveryFeature) {
  const auto difference = [](const std::string& name, const std::string& from, const std::string& to) {
    const FamilyCase c = case_named(name);
    const TempFolder folder;
    write_family_folder(folder, c);
    folder.write("config.json", replaced(c.config, from, to));
    return largest_difference(run_case(c, options_for(folder.path())), c.logits);
  };
  EXPECT_GT(difference("llama_linear", "\"linear\"", "\"default\""), 0.1f);
  EXPECT_GT(difference("llama3", "\"llama3\"", "\"default\""), 0.1f);
  EXPECT_GT(difference("llama3", "\"high_freq_factor\": 4.0", "\"high_freq_factor\": 2.0"), 0.01f);
  EXPECT_GT(difference("llama_yarn", "\"attention_factor\": 1.25", "\"attention_factor\": 1.0"), 0.05f);
  EXPECT_GT(difference("llama_yarn", "\"truncate\": false", "\"truncate\": true"), 0.01f);
  EXPECT_GT(difference("llama_yarn", "\"beta_fast\": 16.0", "\"beta_fast\": 32.0"), 0.01f);
  EXPECT_GT(difference("qwen2_yarn", "\"yarn\"", "\"linear\""), 0.05f);
  EXPECT_GT(difference("mistral_window", "\"sliding_window\": 19", "\"sliding_window\": 20"), 0.01f);
  EXPECT_GT(difference("mistral_window", "\"sliding_window\": 19", "\"sliding_window\": null"), 0.1f);
  EXPECT_GT(difference("qwen2_window", "\"sliding_window\": 40", "\"sliding_window\": 41"), 0.001f);
  EXPECT_GT(difference("llama", "1e-05", "1e-02"), 0.001f);
  EXPECT_GT(difference("mistral", "1000000.0", "10000.0"), 0.1f);
}

TEST(Families, LoadTimeQuantisationStaysCloseAndIsNamedInTheFingerprint) {
  const FamilyCase c = case_named("llama");
  const TempFolder folder;
  write_family_folder(folder, c);
  LoadOptions options = options_for(folder.path());
  const auto plain = load_model(options)->info();
  options.quantize = TensorType::q8_0;
  const auto q8 = load_model(options)->info();
  const float q8_difference = largest_difference(run_case(c, options), c.logits);
  options.quantize = TensorType::q4_0;
  const auto q4 = load_model(options)->info();
  const float q4_difference = largest_difference(run_case(c, options), c.logits);
  EXPECT_GT(q8_difference, 1e-4f);
  EXPECT_LT(q8_difference, 0.25f);
  EXPECT_GT(q4_difference, q8_difference);
  EXPECT_LT(q4_difference, 3.0f);
  EXPECT_NE(q8.kv_fingerprint, plain.kv_fingerprint);
  EXPECT_NE(q4.kv_fingerprint, plain.kv_fingerprint);
  EXPECT_NE(q4.kv_fingerprint, q8.kv_fingerprint);
  // 9 matrices of whole blocks: every value takes 34 / 32 of a byte instead of 4.
  EXPECT_EQ(plain.weight_bytes * 34, q8.weight_bytes * 128);
  EXPECT_LT(q4.weight_bytes, q8.weight_bytes);
  options.quantize = TensorType::q4_k;
  EXPECT_THROW(load_model(options), std::invalid_argument);
}

TEST(Families, FingerprintsCoverTheConfig) {
  const FamilyCase c = case_named("llama3");
  const TempFolder folder;
  write_family_folder(folder, c);
  const auto before = load_model(options_for(folder.path()))->info();
  EXPECT_EQ(before.arch, "llama");
  folder.write("config.json", replaced(c.config, "\"high_freq_factor\": 4.0", "\"high_freq_factor\": 3.0"));
  EXPECT_NE(load_model(options_for(folder.path()))->info().kv_fingerprint, before.kv_fingerprint);
}

TEST(Families, IdsThatTheTokenizerLacksGetNoLogits) {
  const FamilyCase c = case_named("llama");
  const TempFolder folder;
  write_family_folder(folder, c);
  const auto size_with = [&](const std::string& tokenizer) {
    folder.write("tokenizer.json", tokenizer);
    return load_model(options_for(folder.path()))->info().vocab_size;
  };
  EXPECT_EQ(size_with(R"({"added_tokens": [{"id": 90, "content": "x"}], "model": {"vocab": {"a": 3, "b": 70}}})"), 91);
  EXPECT_EQ(size_with(R"({"model": {"vocab": [["a", -1.5], ["b", -2]], "type": "Unigram"}})"), 2);
  EXPECT_THROW(size_with(R"({"model": {"vocab": {"a": 96}}})"), ModelFileError);
  EXPECT_THROW(size_with(R"({"model": {"vocab": {}}})"), ModelFileError);
  EXPECT_THROW(size_with(R"({"model": {"vocab": {"a": -1}}})"), ModelFileError);
}

TEST(Families, PaddingTokensOfAGgufVocabularyGetNoLogits) {
  const FamilyCase c = case_named("qwen2");
  const auto size_with = [&](std::vector<int32_t> types) {
    const TempFile file(family_gguf(c, [&](GgufWriter& out, const std::string&) {
      out.strings("tokenizer.ggml.tokens", std::vector<std::string>(96, "t"));
      ByteWriter list;
      list.raw<uint32_t>(5).raw<uint64_t>(types.size());
      for (int32_t type : types) list.raw(type);
      out.entry("tokenizer.ggml.token_type", 9, list.bytes());
    }));
    return load_model(options_for(file.path()))->info().vocab_size;
  };
  std::vector<int32_t> types(96, 1);
  EXPECT_EQ(size_with(types), 96);
  std::fill(types.begin() + 80, types.end(), 5);
  EXPECT_EQ(size_with(types), 80);
  std::fill(types.begin(), types.end(), 5);
  EXPECT_EQ(size_with(types), 1);
  types.pop_back();
  EXPECT_THROW(size_with(types), ModelFileError);
}

std::string refusal_of_folder(const TempFolder& folder) {
  try {
    load_model(options_for(folder.path()));
  } catch (const ModelFileError& error) {
    EXPECT_EQ(std::string(error.what()).rfind(folder.path(), 0), 0u) << error.what();
    return error.reason();
  }
  return "accepted";
}

std::string refusal_of_config(const std::string& name, const std::string& from, const std::string& to) {
  const FamilyCase c = case_named(name);
  const TempFolder folder;
  write_family_folder(folder, c);
  folder.write("config.json", replaced(c.config, from, to));
  return refusal_of_folder(folder);
}

TEST(Families, ConfigsOfOtherModelsAreRefusedByTheirFeature) {
  const auto expect = [](const std::string& added, const std::string& part, const std::string& name = "llama") {
    const std::string reason = refusal_of_config(name, "\"hidden_size\"", added + ", \"hidden_size\"");
    EXPECT_NE(reason.find(part), std::string::npos) << added << ": " << reason;
  };
  expect("\"attention_bias\": true", "a bias of the attention output");
  expect("\"mlp_bias\": true", "biases of the feed-forward block");
  expect("\"quantization_config\": {\"quant_method\": \"gptq\"}", "Hugging Face's formats");
  expect("\"num_local_experts\": 8", "mixture of experts");
  expect("\"final_logit_softcapping\": 30.0", "soft caps on logits");
  expect("\"is_causal\": false", "later tokens");
  expect("\"partial_rotary_factor\": 0.5", "rotates a part of each head");
  expect("\"auto_map\": {\"AutoModel\": \"x\"}", "code of its own");
  expect("\"layer_types\": [\"full_attention\", \"sliding_attention\", \"full_attention\"]", "differ between layers");
  expect("\"layer_types\": [\"linear_attention\"]", "linear_attention");
  expect("\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 2.0}", "\"dynamic\"");
  expect("\"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 2.0}", "\"longrope\"");
  expect("\"rope_scaling\": {\"factor\": 2.0}", "a factor but no type");
  expect("\"rope_scaling\": {\"type\": \"linear\"}", "\"factor\" is missing");
  expect("\"rope_scaling\": {\"type\": \"linear\", \"factor\": -1}", "\"factor\" is not a positive number");
  expect("\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 1}",
         "high_freq_factor is not above");
  expect("\"rope_scaling\": [1]", "not an object");
  expect("\"head_dim\": 12", "multiple of 8");
  expect("\"hidden_size\": 64", "twice");
  for (const char* extra : {"\"num_experts\": 0", "\"attention_bias\": false", "\"rope_scaling\": null"}) {
    expect(extra, "accepted");
  }
  EXPECT_NE(refusal_of_config("llama", "\"silu\"", "\"gelu\"").find("the activation is \"gelu\""), std::string::npos);
  EXPECT_NE(refusal_of_config("llama", "\"model_type\": \"llama\"", "\"model_type\": \"mixtral\"")
                .find("the model type is \"mixtral\"; supported are llama, mistral, qwen2 or qwen3"),
            std::string::npos);
  EXPECT_NE(
      refusal_of_config("llama", "LlamaForCausalLM", "LlamaForSequenceClassification").find("the architecture is"),
      std::string::npos);
  EXPECT_NE(
      refusal_of_config("qwen2_window", "\"max_window_layers\": 0", "\"max_window_layers\": 1").find("differ between"),
      std::string::npos);
  EXPECT_EQ(refusal_of_config("qwen2_window", "\"max_window_layers\": 0", "\"max_window_layers\": 3"), "accepted");
  EXPECT_NE(refusal_of_config("qwen3", "\"head_dim\"", "\"head_dims\"").find("\"head_dim\" is missing"),
            std::string::npos);
}

TEST(Families, YarnStretchesTheContextThatAConfigStates) {
  const FamilyCase c = case_named("qwen2_yarn");
  const auto context = [&](const std::string& from, const std::string& to) {
    const std::string text = replaced(c.config, from, to);
    return read_huggingface_config("config.json", text_bytes(text)).config.context_tokens;
  };
  EXPECT_EQ(context("\"max_position_embeddings\": 160", "\"max_position_embeddings\": 40"), 160);
  EXPECT_EQ(context("\"max_position_embeddings\": 160", "\"max_position_embeddings\": 200"), 200);
}

TEST(Families, TensorsThatTheFamilyDoesNotHaveAreRefusedByTheirFeature) {
  const auto refusal = [](const std::string& name, const std::string& tensor) {
    const FamilyCase c = case_named(name);
    const TempFolder folder;
    write_family_folder(folder, c);
    auto tensors = family_tensors(c);
    tensors.push_back(family_tensor(tensor, {8}));
    folder.write("model.safetensors", family_safetensors(tensors, "F32"));
    return refusal_of_folder(folder);
  };
  EXPECT_NE(refusal("llama", "model.layers.0.self_attn.o_proj.bias").find("bias of the attention output"),
            std::string::npos);
  EXPECT_NE(refusal("llama", "model.layers.0.self_attn.sinks").find("attention sinks"), std::string::npos);
  EXPECT_NE(refusal("llama", "model.layers.0.mlp.experts.0.up_proj.weight").find("mixture of experts"),
            std::string::npos);
  EXPECT_NE(refusal("llama", "model.layers.0.self_attn.q_norm.weight").find("norms of q and k"), std::string::npos);
  EXPECT_NE(refusal("llama", "model.layers.3.input_layernorm.weight").find("3 layers"), std::string::npos);
  EXPECT_NE(refusal("mistral", "model.layers.0.self_attn.q_proj.bias").find("biases"), std::string::npos);
  EXPECT_EQ(refusal("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"), "accepted");
  EXPECT_EQ(refusal("qwen3", "lm_head.weight"), "accepted") << "tied: the head is the embedding";
}

TEST(Families, GgufKeysOfOtherModelsAreRefusedByTheirFeature) {
  const FamilyCase c = case_named("qwen2");
  const auto refusal = [&](const std::function<void(GgufWriter&)>& change) -> std::string {
    const TempFile file(family_gguf(c, [&](GgufWriter& out, const std::string&) { change(out); }));
    try {
      load_model(options_for(file.path()));
    } catch (const ModelFileError& error) {
      return error.reason();
    }
    return "accepted";
  };
  const auto has = [](const std::string& reason, const char* part) { return reason.find(part) != std::string::npos; };
  EXPECT_TRUE(has(refusal([](GgufWriter& out) { out.u32("qwen2.expert_count", 8); }), "mixture of experts"));
  EXPECT_TRUE(has(refusal([](GgufWriter& out) { out.f32("qwen2.final_logit_softcapping", 30); }), "soft caps"));
  EXPECT_TRUE(has(refusal([](GgufWriter& out) { out.f32("qwen2.rope.scaling.yarn_log_multiplier", 0.1f); }), "yarn"));
  EXPECT_TRUE(has(refusal([](GgufWriter& out) { out.entry("qwen2.attention.causal", 7, {0}); }), "later tokens"));
  EXPECT_TRUE(has(refusal([](GgufWriter& out) { out.string("qwen2.rope.scaling.type", "longrope"); }), "\"longrope\""));
  EXPECT_TRUE(has(refusal([](GgufWriter& out) { out.string("qwen2.rope.scaling.type", "yarn"); }), "is missing"));
  EXPECT_TRUE(
      has(refusal([](GgufWriter& out) { out.tensor_f32("blk.0.attn_output.bias", {64}, std::vector<float>(64)); }),
          "bias of the attention output"));
  EXPECT_TRUE(has(refusal([](GgufWriter& out) {
                    out.tensor_f32("blk.0.ffn_gate_inp.weight", {64, 8}, std::vector<float>(512));
                  }),
                  "mixture of experts"));
  EXPECT_EQ(refusal([](GgufWriter& out) { out.u32("qwen2.expert_count", 0).entry("qwen2.attention.causal", 7, {1}); }),
            "accepted");
}

}  // namespace
}  // namespace penstock
