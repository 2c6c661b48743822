#include "model/gguf_config.h"

#include <cmath>
#include <cstring>

#include "model/family.h"
#include "model/rope_scaling.h"

namespace penstock {

namespace {

// Keys (behind the prefix) whose presence means arithmetic that the decoder does not have.
struct UnsupportedKey {
  std::string_view key;
  std::string_view feature;
};
constexpr UnsupportedKey kUnsupportedKeys[] = {
    {"expert_count", "mixture of experts"},
    {"attn_logit_softcapping", "soft caps on attention scores"},
    {"final_logit_softcapping", "soft caps on logits"},
    {"attention.clamp_kqv", "clamped q, k and v"},
    {"attention.scale", "an attention scale of its own"},
    {"attention.temperature_scale", "attention temperature"},
    {"attention.temperature_length", "attention temperature"},
    {"attention.sliding_window_pattern", "windows that differ between layers"},
    {"attention.key_length_mla", "latent attention"},
    {"logit_scale", "scaled logits"},
    {"embedding_scale", "scaled embeddings"},
    {"residual_scale", "scaled residuals"},
    {"rope.dimension_sections", "rotary sections"},
    {"rope.scaling.yarn_log_multiplier", "yarn with a logarithmic multiplier"},
    {"rope.scaling.yarn_ext_factor", "yarn with an extrapolation factor"},
    {"rope.scaling.yarn_attn_factor", "yarn with a second attention factor"},
};

class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  Config read() {
    const auto arch = file_.string("general.architecture");
    if (!arch) fail("general.architecture", "metadata \"general.architecture\" is missing");
    const Family* family = family_of_gguf(*arch);
    if (family == nullptr) {
      fail("general.architecture",
           "the architecture is \"" + printable(*arch) + "\"; supported are " + gguf_family_names());
    }
    prefix_ = std::string(family->gguf_name) + ".";
    refuse_unsupported();

    Config c{};
    constexpr size_t kNameCharsMax = 200;  // it goes to the wire and into logs
    c.arch = family->name;
    c.model_name = printable(file_.string("general.name").value_or(*arch), kNameCharsMax);
    c.layers = required("block_count", kLayersMax);
    c.dim = required("embedding_length", kDimMax);
    c.ffn_dim = required("feed_forward_length", kDimMax);
    c.heads = required("attention.head_count", kHeadsMax);
    c.kv_heads = optional("attention.head_count_kv", kHeadsMax, c.heads);
    c.context_tokens = required("context_length", kContextMax);
    c.norm_eps = static_cast<float>(positive("attention.layer_norm_rms_epsilon", std::nullopt));
    if (file_.value(prefix_ + "attention.key_length") == nullptr && c.dim % c.heads != 0) {
      fail(prefix_ + "attention.head_count", "embedding_length is not a multiple of attention.head_count");
    }
    c.head_dim = optional("attention.key_length", kHeadDimMax, c.dim / c.heads);
    if (optional("attention.value_length", kHeadDimMax, c.head_dim) != c.head_dim) {
      fail(prefix_ + "attention.value_length", "attention.value_length differs from the key length");
    }
    c.rope_dims = optional("rope.dimension_count", kHeadDimMax, c.head_dim);
    c.rope_pairs = family->gguf_pairs;
    c.qkv_bias = family->qkv_bias == Presence::required ||
                 (family->qkv_bias == Presence::optional && file_.tensor("blk.0.attn_q.bias") != nullptr);
    c.qk_norm = family->qk_norm;
    const auto window = file_.integer(prefix_ + "attention.sliding_window", 0, kContextMax);
    c.window_tokens = static_cast<int32_t>(window.value_or(0));
    read_rope(c);
    check_config(c, [&](ConfigField field, const std::string& reason) { fail(prefix_ + key_of(field), reason); });
    read_vocabulary(c);
    return c;
  }

 private:
  // Points at the key's value; at the start of the file when the key is absent.
  [[noreturn]] void fail(const std::string& key, const std::string& reason) const {
    const GgufValue* value = file_.value(key);
    throw ModelFileError(file_.path(), value == nullptr ? 0 : value->offset_bytes, reason);
  }

  static const char* key_of(ConfigField field) {
    switch (field) {
      case ConfigField::heads:
        return "attention.head_count";
      case ConfigField::kv_heads:
        return "attention.head_count_kv";
      case ConfigField::head_dim:
        return "attention.key_length";
      case ConfigField::rope_dims:
        return "rope.dimension_count";
      case ConfigField::rope:
        return "rope.freq_base";
      case ConfigField::norm_eps:
        return "attention.layer_norm_rms_epsilon";
    }
    return "";
  }

  int32_t required(const std::string& key, int64_t max) const {
    const auto value = file_.integer(prefix_ + key, 1, max);
    if (!value) throw ModelFileError(file_.path(), 0, "metadata \"" + prefix_ + key + "\" is missing");
    return static_cast<int32_t>(*value);
  }

  int32_t optional(const std::string& key, int64_t max, int32_t otherwise) const {
    return static_cast<int32_t>(file_.integer(prefix_ + key, 1, max).value_or(otherwise));
  }

  double positive(const std::string& key, std::optional<double> otherwise) const {
    const auto value = file_.value(prefix_ + key) != nullptr ? file_.number(prefix_ + key) : otherwise;
    if (!value) throw ModelFileError(file_.path(), 0, "metadata \"" + prefix_ + key + "\" is missing");
    if (!std::isfinite(*value) || *value <= 0 || *value > 1e12) {
      fail(prefix_ + key, "metadata \"" + prefix_ + key + "\" is not a positive number");
    }
    return *value;
  }

  void refuse_unsupported() const {
    for (const auto& [key, feature] : kUnsupportedKeys) {
      const std::string full = prefix_ + std::string(key);
      const GgufValue* value = file_.value(full);
      if (value == nullptr) continue;
      // Writers that state a default (no experts, a scale of 0 = none) mean nothing by it.
      const bool is_number = value->type != GgufType::array && value->type != GgufType::string;
      if (is_number && value->type != GgufType::boolean && file_.number(full) == 0.0) continue;
      fail(full, "the model uses " + std::string(feature) + " (\"" + full + "\"), which this engine does not compute");
    }
    const std::string causal = prefix_ + "attention.causal";
    if (const GgufValue* value = file_.value(causal);
        value != nullptr && value->type == GgufType::boolean && value->bytes[0] == std::byte{0}) {
      fail(causal, "the model attends to later tokens (\"" + causal + "\"), which this engine does not compute");
    }
  }

  void read_rope(Config& c) const {
    RopeParameters rope;
    rope.theta = positive("rope.freq_base", 10000.0);
    const std::string key = prefix_ + "rope.scaling.type";
    // A factor without a type is linear; `rope.scale_linear` is its older name.
    const char* factor_key = file_.value(prefix_ + "rope.scaling.factor") != nullptr ? "rope.scaling.factor"
                             : file_.value(prefix_ + "rope.scale_linear") != nullptr ? "rope.scale_linear"
                                                                                     : nullptr;
    const auto type = file_.string(key).value_or(factor_key == nullptr ? "none" : "linear");
    if (type != "none") {
      if (type == "linear") {
        rope.scaling = RopeScaling::linear;
      } else if (type == "yarn") {
        rope.scaling = RopeScaling::yarn;
      } else {
        fail(key, "rotary scaling of the type \"" + printable(type) +
                      "\"; supported are none, linear, yarn, and llama3 as the tensor rope_freqs.weight");
      }
      rope.factor = positive(factor_key == nullptr ? "rope.scaling.factor" : factor_key, std::nullopt);
    }
    if (rope.scaling == RopeScaling::yarn) {
      rope.original_context_tokens = optional("rope.scaling.original_context_length", kContextMax, c.context_tokens);
      rope.beta_fast = positive("rope.scaling.yarn_beta_fast", rope.beta_fast);
      rope.beta_slow = positive("rope.scaling.yarn_beta_slow", rope.beta_slow);
      c.rope_magnitude = static_cast<float>(yarn_magnitude(rope.factor) * positive("rope.scaling.attn_factor", 1.0));
    }
    if (c.rope_dims % 2 == 0) c.rope_frequencies = rope_frequencies(rope, c.rope_dims);
    divide_by_tensor(c);
  }

  // Llama 3's scaling comes as one divisor for each pair.
  void divide_by_tensor(Config& c) const {
    const GgufTensor* factors = file_.tensor("rope_freqs.weight");
    if (factors == nullptr) return;
    const auto fail_tensor = [&](const char* reason) {
      throw ModelFileError(file_.path(), factors->info_offset_bytes,
                           std::string("tensor \"rope_freqs.weight\" ") + reason);
    };
    if (factors->type != TensorType::f32) fail_tensor("is not F32");
    if (factors->dims != 1 || factors->extent[0] != static_cast<int64_t>(c.rope_frequencies.size())) {
      fail_tensor("has not one factor for each pair");
    }
    for (size_t i = 0; i < c.rope_frequencies.size(); ++i) {
      float factor;
      std::memcpy(&factor, factors->data.data() + 4 * i, sizeof factor);
      if (!(factor > 0) || !std::isfinite(factor)) fail_tensor("holds a factor that is not positive");
      c.rope_frequencies[i] /= double{factor};
    }
  }

  void read_vocabulary(Config& c) const {
    const GgufTensor* embedding = file_.tensor("token_embd.weight");
    if (embedding == nullptr) {
      fail("general.architecture", "tensor \"token_embd.weight\" is missing: a file without weights");
    }
    if (embedding->extent[1] > kVocabMax) {
      throw ModelFileError(file_.path(), embedding->info_offset_bytes, "the vocabulary has more than 2^24 entries");
    }
    c.vocab_rows = static_cast<int32_t>(embedding->extent[1]);
    c.vocab_size = c.vocab_rows;
    const auto tokens = file_.array_count("tokenizer.ggml.tokens");
    if (!tokens) return;
    if (*tokens == 0 || *tokens > static_cast<uint64_t>(c.vocab_rows)) {
      fail("tokenizer.ggml.tokens", "the tokenizer has " + std::to_string(*tokens) + " tokens, the embedding " +
                                        std::to_string(c.vocab_rows) + " rows");
    }
    c.vocab_size = static_cast<int32_t>(*tokens) - padding_tokens(*tokens);
  }

  // Converters fill a vocabulary up to the rows of the embedding with tokens of the type "unused": a model has never
  // learnt not to choose them. Those at the end get no logits; at least one token stays.
  int32_t padding_tokens(uint64_t tokens) const {
    const GgufValue* types = file_.value("tokenizer.ggml.token_type");
    if (types == nullptr || types->type != GgufType::array || types->element_type != GgufType::i32) return 0;
    if (types->count != tokens) {
      fail("tokenizer.ggml.token_type", "tokenizer.ggml.token_type has " + std::to_string(types->count) +
                                            " entries for " + std::to_string(tokens) + " tokens");
    }
    constexpr int32_t kUnused = 5;
    uint64_t unused = 0;
    for (uint64_t id = tokens; id-- > 1; ++unused) {
      int32_t type;
      std::memcpy(&type, types->bytes.data() + 4 * id, sizeof type);
      if (type != kUnused) break;
    }
    return static_cast<int32_t>(unused);
  }

  const GgufFile& file_;
  std::string prefix_;
};

}  // namespace

Config read_gguf_config(const GgufFile& file) { return Reader(file).read(); }

}  // namespace penstock
