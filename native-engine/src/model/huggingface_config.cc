#include "model/huggingface_config.h"

#include <algorithm>
#include <cmath>

#include "model/family.h"
#include "model/json.h"
#include "model/rope_scaling.h"

namespace penstock {

namespace {

// Keys that switch on arithmetic the decoder does not have, unless they are null, false, 0 or empty.
struct UnsupportedKey {
  std::string_view key;
  std::string_view feature;
};
constexpr UnsupportedKey kUnsupportedKeys[] = {
    {"attention_bias", "a bias of the attention output"},
    {"mlp_bias", "biases of the feed-forward block"},
    {"quantization_config", "weights quantised in Hugging Face's formats"},
    {"num_local_experts", "mixture of experts"},
    {"num_experts", "mixture of experts"},
    {"n_routed_experts", "mixture of experts"},
    {"attn_logit_softcapping", "soft caps on attention scores"},
    {"final_logit_softcapping", "soft caps on logits"},
    {"clip_qkv", "clamped q, k and v"},
    {"logit_scale", "scaled logits"},
    {"no_rope_layers", "layers without rotary positions"},
    {"attention_chunk_size", "chunked attention"},
    {"auto_map", "code of its own"},
};

class Reader {
 public:
  Reader(const std::string& path, std::span<const std::byte> text) : path_(path), root_(parse_json(path, text)) {}

  HuggingFaceConfig read() {
    if (root_.kind != JsonKind::object) fail(root_, "config.json is not an object");
    const Family& family = read_family();
    refuse_unsupported();

    HuggingFaceConfig result{};
    Config& c = result.config;
    constexpr size_t kNameCharsMax = 200;  // it goes to the wire and into logs
    const Json* name = present(root_, "_name_or_path");
    c.arch = family.name;
    c.model_name = name != nullptr && !name->text.empty() ? printable(base_name(name->text), kNameCharsMax) : c.arch;
    c.layers = required("num_hidden_layers", kLayersMax);
    c.dim = required("hidden_size", kDimMax);
    c.ffn_dim = required("intermediate_size", kDimMax);
    c.heads = required("num_attention_heads", kHeadsMax);
    // Each family has a default of its own here, and files state the value: only the oldest Llama files leave it out.
    const bool kv_given = present(root_, "num_key_value_heads") != nullptr || family.model_type != "llama";
    c.kv_heads = kv_given ? required("num_key_value_heads", kHeadsMax) : c.heads;
    c.head_dim = read_head_dim(family, c);
    c.rope_dims = c.head_dim;
    c.rope_pairs = RopePairs::halves;
    c.qkv_bias = family.qkv_bias == Presence::required;
    c.qk_norm = family.qk_norm;
    c.vocab_rows = required("vocab_size", kVocabMax);
    c.vocab_size = c.vocab_rows;
    c.context_tokens = required("max_position_embeddings", kContextMax);
    const Json* eps = present(root_, "rms_norm_eps");
    c.norm_eps = eps == nullptr ? 1e-6f : static_cast<float>(positive(*eps, "rms_norm_eps"));
    c.window_tokens = read_window(family, c.layers);
    read_rope(c);
    check_config(c, [&](ConfigField field, const std::string& reason) { fail(*field_value(field), reason); });
    result.tied_embedding = flag("tie_word_embeddings", false) || headless_;
    return result;
  }

 private:
  [[noreturn]] void fail(const Json& at, const std::string& reason) const {
    throw ModelFileError(path_, at.offset_bytes, reason);
  }

  // nullptr also for null: both mean the default.
  static const Json* present(const Json& object, std::string_view key) {
    const Json* value = object.find(key);
    return value == nullptr || value->kind == JsonKind::null ? nullptr : value;
  }

  static std::string_view base_name(std::string_view path) {
    while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
    const size_t slash = path.rfind('/');
    return slash == std::string_view::npos || path.size() == 1 ? path : path.substr(slash + 1);
  }

  const Family& read_family() {
    const Json* type = present(root_, "model_type");
    if (type == nullptr) fail(root_, "\"model_type\" is missing");
    const Family* family = type->kind == JsonKind::string ? family_of_model_type(type->text) : nullptr;
    if (family == nullptr) {
      fail(*type, "the model type is " + quoted(type->text) + "; supported are " + model_type_names());
    }
    const Json* classes = present(root_, "architectures");
    if (classes == nullptr) return *family;
    if (classes->kind != JsonKind::array || classes->items.size() != 1)
      fail(*classes, "\"architectures\" is not a list of one");
    const std::string& name = classes->items[0].text;
    headless_ = name == family->embedding_class;
    if (name != family->causal_class && !headless_) {
      fail(classes->items[0], "the architecture is " + quoted(name) + "; supported for this model type is " +
                                  std::string(family->causal_class));
    }
    return *family;
  }

  void refuse_unsupported() const {
    for (const auto& [key, feature] : kUnsupportedKeys) {
      const Json* value = present(root_, key);
      if (value == nullptr) continue;
      const bool off = (value->kind == JsonKind::boolean && !value->boolean) ||
                       (value->kind == JsonKind::number && value->number == 0) ||
                       ((value->kind == JsonKind::array || value->kind == JsonKind::object) && value->items.empty());
      if (!off) {
        fail(*value,
             "the model uses " + std::string(feature) + " (" + quoted(key) + "), which this engine does not compute");
      }
    }
    if (!flag("is_causal", true)) {
      fail(*root_.find("is_causal"),
           "the model attends to later tokens (\"is_causal\"), which this engine does not compute");
    }
    for (const char* key : {"hidden_act", "hidden_activation"}) {
      const Json* activation = present(root_, key);
      if (activation != nullptr && activation->text != "silu" && activation->text != "swish") {
        fail(*activation, "the activation is " + quoted(activation->text) + "; supported is silu");
      }
    }
  }

  int32_t required(const char* key, int64_t max) const {
    const Json* value = present(root_, key);
    if (value == nullptr) fail(root_, quoted(key) + " is missing");
    return whole(*value, key, 1, max);
  }

  int32_t whole(const Json& value, const char* key, int64_t min, int64_t max) const {
    if (!value.integer || *value.integer < min || *value.integer > max) {
      fail(value, quoted(key) + " is not a whole number within " + std::to_string(min) + " to " + std::to_string(max));
    }
    return static_cast<int32_t>(*value.integer);
  }

  double positive(const Json& value, const char* key) const {
    if (value.kind != JsonKind::number || !(value.number > 0) || value.number > 1e12) {
      fail(value, quoted(key) + " is not a positive number");
    }
    return value.number;
  }

  bool flag(const char* key, bool otherwise) const {
    const Json* value = present(root_, key);
    if (value == nullptr) return otherwise;
    if (value->kind != JsonKind::boolean) fail(*value, quoted(key) + " is neither true nor false");
    return value->boolean;
  }

  int32_t read_head_dim(const Family& family, const Config& c) const {
    // Qwen3's default does not follow from the other dimensions, and its files state the value.
    if (present(root_, "head_dim") != nullptr || family.model_type == "qwen3") return required("head_dim", kHeadDimMax);
    if (c.dim % c.heads != 0) {
      fail(*root_.find("num_attention_heads"), "hidden_size is not a multiple of num_attention_heads");
    }
    if (c.dim / c.heads > kHeadDimMax) fail(*root_.find("num_attention_heads"), "heads have too many dimensions");
    return c.dim / c.heads;
  }

  // One window for all layers, or none: windows that differ between layers are refused.
  int32_t read_window(const Family& family, int32_t layers) const {
    constexpr int32_t kWindowDefault = 4096;  // of the families that have one
    if (family.window == WindowRule::none) return refuse_layer_types(), 0;
    const Json* given = root_.find("sliding_window");
    int32_t window = given == nullptr                ? kWindowDefault
                     : given->kind == JsonKind::null ? 0
                                                     : whole(*given, "sliding_window", 0, kContextMax);
    if (family.window == WindowRule::always) return refuse_layer_types(), window;
    if (!flag("use_sliding_window", false)) window = 0;
    if (window == 0) return 0;
    int32_t full_layers = 0;  // those before the first one with a window
    const Json* where = present(root_, "layer_types");
    if (where != nullptr) {
      if (where->kind != JsonKind::array || where->items.size() != static_cast<size_t>(layers)) {
        fail(*where, "\"layer_types\" has not one entry for each layer");
      }
      for (const Json& type : where->items) {
        if (type.text != "full_attention" && type.text != "sliding_attention") {
          fail(type, "layers of the type " + quoted(type.text) + ", which this engine does not compute");
        }
        full_layers += type.text == "full_attention" ? 1 : 0;
      }
    } else {
      constexpr int32_t kMaxWindowLayersDefault = 28;
      where = present(root_, "max_window_layers");
      full_layers = where == nullptr ? kMaxWindowLayersDefault : whole(*where, "max_window_layers", 0, kLayersMax);
      if (where == nullptr) where = given == nullptr ? &root_ : given;
    }
    if (full_layers >= layers) return 0;
    if (full_layers > 0) {
      fail(*where, "the model uses windows that differ between layers, which this engine does not compute");
    }
    return window;
  }

  void refuse_layer_types() const {
    const Json* types = present(root_, "layer_types");
    if (types == nullptr) return;
    for (const Json& type : types->items) {
      if (type.text != "full_attention" && type.text != "sliding_attention") {
        fail(type, "layers of the type " + quoted(type.text) + ", which this engine does not compute");
      }
      if (type.text != types->items[0].text) {
        fail(*types, "the model uses windows that differ between layers, which this engine does not compute");
      }
    }
  }

  // Version 5 of the library writes one object `rope_parameters`, theta included; version 4 `rope_theta` beside
  // `rope_scaling`, whose type was once called `type`.
  void read_rope(Config& c) const {
    const Json* scaling = present(root_, "rope_parameters");
    if (scaling == nullptr) scaling = present(root_, "rope_scaling");
    static const Json kNothing;
    const Json& from = scaling == nullptr ? kNothing : *scaling;
    if (scaling != nullptr && from.kind != JsonKind::object) fail(from, "the rotary parameters are not an object");
    const auto number = [&](const char* key, std::optional<double> otherwise) {
      const Json* value = present(from, key);
      if (value != nullptr) return positive(*value, key);
      if (!otherwise) fail(from, quoted(key) + " is missing from the rotary parameters");
      return *otherwise;
    };
    RopeParameters rope;
    const Json* theta = present(from, "rope_theta");
    if (theta == nullptr) theta = present(root_, "rope_theta");
    if (theta != nullptr) rope.theta = positive(*theta, "rope_theta");
    for (const Json* object : {&from, &root_}) {
      const Json* partial = present(*object, "partial_rotary_factor");
      if (partial != nullptr && partial->number != 1) {
        fail(*partial, "the model rotates a part of each head (\"partial_rotary_factor\"), which its family does not");
      }
    }
    const Json* type = present(from, "rope_type");
    if (type == nullptr) type = present(from, "type");
    const std::string kind = type == nullptr ? "default" : type->text;
    if (kind == "linear") {
      rope.scaling = RopeScaling::linear;
    } else if (kind == "llama3") {
      rope.scaling = RopeScaling::llama3;
      rope.low_freq_factor = number("low_freq_factor", std::nullopt);
      rope.high_freq_factor = number("high_freq_factor", std::nullopt);
      if (rope.high_freq_factor <= rope.low_freq_factor) fail(from, "high_freq_factor is not above low_freq_factor");
    } else if (kind == "yarn") {
      rope.scaling = RopeScaling::yarn;
    } else if (kind != "default") {
      fail(*type, "rotary scaling of the type " + quoted(kind) + "; supported are default, linear, llama3 and yarn");
    } else if (type == nullptr && present(from, "factor") != nullptr) {
      fail(from, "the rotary parameters have a factor but no type");
    }
    if (rope.scaling != RopeScaling::none) rope.factor = number("factor", std::nullopt);
    if (rope.scaling == RopeScaling::llama3 || rope.scaling == RopeScaling::yarn) {
      rope.original_context_tokens = number("original_max_position_embeddings", c.context_tokens);
    }
    if (rope.scaling == RopeScaling::yarn) read_yarn(from, rope, c, number);
    if (c.rope_dims % 2 == 0) c.rope_frequencies = rope_frequencies(rope, c.rope_dims);
  }

  template <typename Number>
  void read_yarn(const Json& from, RopeParameters& rope, Config& c, const Number& number) const {
    rope.beta_fast = number("beta_fast", rope.beta_fast);
    rope.beta_slow = number("beta_slow", rope.beta_slow);
    if (const Json* truncate = present(from, "truncate")) {
      if (truncate->kind != JsonKind::boolean) fail(*truncate, "\"truncate\" is neither true nor false");
      rope.whole_pairs = truncate->boolean;
    }
    const auto weight = [&](const char* key) {
      const Json* value = present(from, key);
      if (value != nullptr && value->kind != JsonKind::number) fail(*value, quoted(key) + " is not a number");
      return value == nullptr ? 0.0 : value->number;
    };
    const double mscale = weight("mscale"), mscale_all = weight("mscale_all_dim");
    const double natural = mscale != 0 && mscale_all != 0
                               ? yarn_magnitude(rope.factor, mscale) / yarn_magnitude(rope.factor, mscale_all)
                               : yarn_magnitude(rope.factor);
    c.rope_magnitude = static_cast<float>(number("attention_factor", natural));
    // Files of Qwen2.5 leave max_position_embeddings at the length before stretching.
    const double stretched = std::floor(rope.original_context_tokens * rope.factor);
    c.context_tokens = static_cast<int32_t>(
        std::clamp(stretched, double{static_cast<double>(c.context_tokens)}, static_cast<double>(kContextMax)));
  }

  const Json* field_value(ConfigField field) const {
    const char* key = "";
    switch (field) {
      case ConfigField::heads:
        key = "num_attention_heads";
        break;
      case ConfigField::kv_heads:
        key = "num_key_value_heads";
        break;
      case ConfigField::head_dim:
      case ConfigField::rope_dims:
        key = "head_dim";
        break;
      case ConfigField::rope:
        key = root_.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
        break;
      case ConfigField::norm_eps:
        key = "rms_norm_eps";
        break;
    }
    const Json* value = root_.find(key);
    return value == nullptr ? &root_ : value;
  }

  const std::string& path_;
  Json root_;
  bool headless_ = false;
};

}  // namespace

HuggingFaceConfig read_huggingface_config(const std::string& path, std::span<const std::byte> text) {
  return Reader(path, text).read();
}

}  // namespace penstock

#if defined(PENSTOCK_FUZZ_ENTRY)
// libFuzzer: a config that holds what config.h promises, or a ModelFileError.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto read = penstock::read_huggingface_config("fuzz", std::as_bytes(std::span(data, size)));
    const penstock::Config& c = read.config;
    if (c.heads % c.kv_heads != 0 || c.head_dim % 8 != 0 || c.context_tokens < 1 || c.window_tokens < 0 ||
        c.rope_frequencies.size() * 2 != static_cast<size_t>(c.rope_dims)) {
      __builtin_trap();
    }
  } catch (const penstock::ModelFileError&) {
  }
  return 0;
}
#endif
