#include "model/config.h"

#include <cmath>
#include <cstring>

namespace penstock {

namespace {

// Bounds of each dimension: above any published model of this architecture, and low enough that no product of two of
// them overflows 63 bits or a loop over them takes forever.
constexpr int64_t kLayersMax = 1024;
constexpr int64_t kDimMax = 1 << 20;
constexpr int64_t kHeadsMax = 4096;
constexpr int64_t kHeadDimMax = 1024;
constexpr int64_t kVocabMax = 1 << 24;
constexpr int64_t kContextMax = 1 << 28;

// Vectors of 8 run through a head's dimensions without a remainder.
constexpr int32_t kHeadDimMultiple = 8;

// Offset of a key's value, for messages about what it says; 0 when the key is absent.
uint64_t offset_of(const GgufFile& file, const std::string& key) {
  const GgufValue* value = file.value(key);
  return value == nullptr ? 0 : value->offset_bytes;
}

int32_t required(const GgufFile& file, const std::string& key, int64_t max) {
  const auto value = file.integer(key, 1, max);
  if (!value) throw ModelFileError(file.path(), 0, "metadata \"" + key + "\" is missing");
  return static_cast<int32_t>(*value);
}

int32_t optional(const GgufFile& file, const std::string& key, int64_t max, int32_t otherwise) {
  return static_cast<int32_t>(file.integer(key, 1, max).value_or(otherwise));
}

float positive(const GgufFile& file, const std::string& key, std::optional<double> otherwise) {
  const auto value = file.value(key) != nullptr ? file.number(key) : otherwise;
  if (!value) throw ModelFileError(file.path(), 0, "metadata \"" + key + "\" is missing");
  if (!std::isfinite(*value) || *value <= 0 || *value > 1e12) {
    throw ModelFileError(file.path(), offset_of(file, key), "metadata \"" + key + "\" is not a positive number");
  }
  return static_cast<float>(*value);
}

// The name goes to the wire and into logs: printable ASCII, of bounded length.
std::string display_name(std::string_view name) {
  constexpr size_t kNameBytesMax = 200;
  std::string shown(name.substr(0, kNameBytesMax));
  for (char& c : shown) c = c >= 32 && c < 127 ? c : '?';
  return shown;
}

float linear_factor(const GgufFile& file, const std::string& prefix) {
  const std::string key = prefix + "rope.scaling.type";
  const auto type = file.string(key);
  if (!type || *type == "none") return 1.0f;
  if (*type == "linear") return positive(file, prefix + "rope.scaling.factor", std::nullopt);
  throw ModelFileError(file.path(), offset_of(file, key), "rope.scaling.type must be none or linear for this engine");
}

// theta^(-2i / rope_dims), divided by the linear factor and by the file's own factor for that pair, where it has them.
std::vector<double> rope_frequencies(const GgufFile& file, const std::string& prefix, int32_t rope_dims) {
  const double theta = positive(file, prefix + "rope.freq_base", 10000.0);
  const double linear = linear_factor(file, prefix);
  const GgufTensor* factors = file.tensor("rope_freqs.weight");
  const auto fail = [&](const char* reason) {
    throw ModelFileError(file.path(), factors->info_offset_bytes,
                         std::string("tensor \"rope_freqs.weight\" ") + reason);
  };
  if (factors != nullptr) {
    if (factors->type != TensorType::f32) fail("is not F32");
    if (factors->extent[0] != rope_dims / 2 || factors->extent[1] != 1) fail("has not one factor for each pair");
  }
  std::vector<double> frequencies;
  for (int32_t i = 0; i < rope_dims / 2; ++i) {
    float factor = 1;
    if (factors != nullptr) std::memcpy(&factor, factors->data.data() + 4 * i, sizeof factor);
    if (!(factor > 0)) fail("holds a factor that is not positive");
    frequencies.push_back(std::pow(theta, -2.0 * i / rope_dims) / double{factor} / linear);
  }
  return frequencies;
}

}  // namespace

Config read_config(const GgufFile& file) {
  const auto fail = [&](const std::string& key, const std::string& reason) {
    throw ModelFileError(file.path(), offset_of(file, key), reason);
  };
  const auto arch = file.string("general.architecture");
  if (!arch) fail("general.architecture", "metadata \"general.architecture\" is missing");
  if (*arch != "llama") {
    fail("general.architecture", "the architecture is \"" + display_name(*arch) + "\"; supported is llama");
  }
  const std::string prefix = "llama.";

  Config config{};
  config.arch = "llama";
  config.model_name = display_name(file.string("general.name").value_or(*arch));
  config.layers = required(file, prefix + "block_count", kLayersMax);
  config.dim = required(file, prefix + "embedding_length", kDimMax);
  config.ffn_dim = required(file, prefix + "feed_forward_length", kDimMax);
  config.heads = required(file, prefix + "attention.head_count", kHeadsMax);
  config.kv_heads = optional(file, prefix + "attention.head_count_kv", kHeadsMax, config.heads);
  config.context_tokens = required(file, prefix + "context_length", kContextMax);
  config.norm_eps = positive(file, prefix + "attention.layer_norm_rms_epsilon", std::nullopt);

  if (config.heads % config.kv_heads != 0) {
    fail(prefix + "attention.head_count_kv", "attention.head_count " + std::to_string(config.heads) +
                                                 " is not a multiple of attention.head_count_kv " +
                                                 std::to_string(config.kv_heads));
  }
  if (file.value(prefix + "attention.key_length") == nullptr && config.dim % config.heads != 0) {
    fail(prefix + "attention.head_count", "embedding_length is not a multiple of attention.head_count");
  }
  config.head_dim = optional(file, prefix + "attention.key_length", kHeadDimMax, config.dim / config.heads);
  if (config.head_dim % kHeadDimMultiple != 0 || config.head_dim > kHeadDimMax) {
    fail(prefix + "attention.key_length", "heads of " + std::to_string(config.head_dim) +
                                              " dimensions; a multiple of 8 up to " + std::to_string(kHeadDimMax) +
                                              " is supported");
  }
  if (optional(file, prefix + "attention.value_length", kHeadDimMax, config.head_dim) != config.head_dim) {
    fail(prefix + "attention.value_length", "attention.value_length differs from the key length");
  }
  config.rope_dims = optional(file, prefix + "rope.dimension_count", kHeadDimMax, config.head_dim);
  if (config.rope_dims > config.head_dim || config.rope_dims % 2 != 0) {
    fail(prefix + "rope.dimension_count", "rope.dimension_count must be even and at most the head's dimensions");
  }
  config.rope_pairs = RopePairs::interleaved;
  config.rope_frequencies = rope_frequencies(file, prefix, config.rope_dims);
  if (int64_t{config.heads} * config.head_dim > kDimMax) {
    fail(prefix + "attention.head_count", "attention heads are wider together than any supported model");
  }

  const GgufTensor* embedding = file.tensor("token_embd.weight");
  if (embedding == nullptr)
    fail("general.architecture", "tensor \"token_embd.weight\" is missing: a file without weights");
  if (embedding->extent[1] > kVocabMax) {
    throw ModelFileError(file.path(), embedding->info_offset_bytes, "the vocabulary has more than 2^24 entries");
  }
  config.vocab_rows = static_cast<int32_t>(embedding->extent[1]);
  const auto tokens = file.array_count("tokenizer.ggml.tokens");
  if (tokens && (*tokens == 0 || *tokens > static_cast<uint64_t>(config.vocab_rows))) {
    fail("tokenizer.ggml.tokens", "the tokenizer has " + std::to_string(*tokens) + " tokens, the embedding " +
                                      std::to_string(config.vocab_rows) + " rows");
  }
  config.vocab_size = tokens ? static_cast<int32_t>(*tokens) : config.vocab_rows;
  return config;
}

}  // namespace penstock
