// The small models behind fixtures/families.json, from their names: tools/family_goldens.py makes the same weights.
// Written as Hugging Face folders of any float format and, converted as public converters do it, as GGUF.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gguf_writer.h"
#include "hf_writer.h"
#include "model/json.h"
#include "ops/half.h"
#include "test_files.h"

namespace penstock::testing {

struct FamilyCase {
  std::string name;
  std::string config;     // config.json as version 4 of transformers writes it
  std::string config_v5;  // as version 5 does
  std::vector<int32_t> prompt;
  std::vector<int32_t> positions;
  std::vector<std::vector<float>> logits;  // [positions][vocab] behind each of them
  Json settings;                           // of `config`

  int64_t integer(const char* key, int64_t otherwise = 0) const {
    const Json* value = settings.find(key);
    return value == nullptr || !value->integer ? otherwise : *value->integer;
  }
  std::string text(const char* key) const { return settings.find(key)->text; }
  bool tied() const { return settings.find("tie_word_embeddings")->boolean; }
  int64_t head_dim() const { return integer("head_dim", integer("hidden_size") / integer("num_attention_heads")); }
};

inline std::span<const std::byte> text_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

inline std::vector<FamilyCase> family_cases() {
  const auto bytes = read_file(fixture("families.json"));
  const Json root = parse_json("families.json", std::as_bytes(std::span(bytes)));
  const auto integers = [](const Json& list) {
    std::vector<int32_t> values;
    for (const Json& item : list.items) values.push_back(static_cast<int32_t>(*item.integer));
    return values;
  };
  std::vector<FamilyCase> cases;
  for (const Json& item : root.find("cases")->items) {
    FamilyCase next;
    next.name = item.find("name")->text;
    next.config = item.find("config")->text;
    next.config_v5 = item.find("config_v5")->text;
    next.prompt = integers(*item.find("prompt"));
    next.positions = integers(*item.find("positions"));
    for (const Json& row : item.find("logits")->items) {
      next.logits.emplace_back();
      for (const Json& value : row.items) next.logits.back().push_back(static_cast<float>(value.number));
    }
    next.settings = parse_json("config.json", text_bytes(next.config));
    cases.push_back(std::move(next));
  }
  return cases;
}

struct NamedTensor {
  std::string name;  // Hugging Face's
  std::vector<uint64_t> shape;
  std::vector<float> values;
};

inline NamedTensor family_tensor(const std::string& name, const std::vector<uint64_t>& shape) {
  uint64_t seed = 0xCBF29CE484222325u;  // FNV-1a of the name
  for (char c : name) seed = (seed ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  uint64_t count = 1;
  for (uint64_t extent : shape) count *= extent;
  std::vector<float> values;
  for (uint64_t i = 1; i <= count; ++i) {
    uint64_t x = seed + i * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    const float unit = static_cast<float>((x ^ (x >> 31)) >> 56) / 128.0f - 1.0f;
    values.push_back(name.ends_with("norm.weight") ? 1.0f + std::floor(unit * 16) / 64
                     : name.ends_with(".bias")     ? unit / 2
                                                   : unit / 4);
  }
  return {name, shape, values};
}

inline std::vector<NamedTensor> family_tensors(const FamilyCase& c) {
  const auto u = [](int64_t value) { return static_cast<uint64_t>(value); };
  const uint64_t dim = u(c.integer("hidden_size")), ffn = u(c.integer("intermediate_size")), head = u(c.head_dim());
  const uint64_t q = u(c.integer("num_attention_heads")) * head, kv = u(c.integer("num_key_value_heads")) * head;
  const uint64_t vocab = u(c.integer("vocab_size"));
  std::vector<NamedTensor> tensors{family_tensor("model.embed_tokens.weight", {vocab, dim}),
                                   family_tensor("model.norm.weight", {dim})};
  if (!c.tied()) tensors.push_back(family_tensor("lm_head.weight", {vocab, dim}));
  for (int64_t i = 0; i < c.integer("num_hidden_layers"); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const auto add = [&](const char* name, const std::vector<uint64_t>& shape) {
      tensors.push_back(family_tensor(prefix + name, shape));
    };
    add("input_layernorm.weight", {dim});
    add("self_attn.q_proj.weight", {q, dim});
    add("self_attn.k_proj.weight", {kv, dim});
    add("self_attn.v_proj.weight", {kv, dim});
    if (c.text("model_type") == "qwen2") {
      add("self_attn.q_proj.bias", {q});
      add("self_attn.k_proj.bias", {kv});
      add("self_attn.v_proj.bias", {kv});
    }
    if (c.text("model_type") == "qwen3") {
      add("self_attn.q_norm.weight", {head});
      add("self_attn.k_norm.weight", {head});
    }
    add("self_attn.o_proj.weight", {dim, q});
    add("post_attention_layernorm.weight", {dim});
    add("mlp.gate_proj.weight", {ffn, dim});
    add("mlp.up_proj.weight", {ffn, dim});
    add("mlp.down_proj.weight", {dim, ffn});
  }
  return tensors;
}

// "F32", "F16" or "BF16". BF16 cuts off: the weights here need no more bits.
inline std::vector<uint8_t> encode_floats(const std::string& dtype, const std::vector<float>& values) {
  std::vector<uint8_t> out(values.size() * (dtype == "F32" ? 4 : 2));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    const uint16_t half = dtype == "F16" ? float_to_half(values[i]) : static_cast<uint16_t>(bits >> 16);
    if (dtype == "F32") {
      std::memcpy(out.data() + 4 * i, &bits, 4);
    } else {
      std::memcpy(out.data() + 2 * i, &half, 2);
    }
  }
  return out;
}

inline std::vector<uint8_t> family_safetensors(const std::vector<NamedTensor>& tensors, const std::string& dtype) {
  SafetensorsWriter out;
  for (const NamedTensor& t : tensors) out.tensor(t.name, dtype, t.shape, encode_floats(dtype, t.values));
  return out.build();
}

inline void write_family_folder(const TempFolder& folder, const FamilyCase& c, const std::string& dtype = "F32") {
  folder.write("config.json", c.config);
  folder.write("model.safetensors", family_safetensors(family_tensors(c), dtype));
}

// Rows of each head reordered so that the halves become neighbours, as converters do for `llama`.
inline std::vector<float> interleave_heads(const NamedTensor& t, uint64_t head_dim) {
  const size_t cols = t.shape.size() == 1 ? 1 : t.shape[1];
  std::vector<float> out(t.values.size());
  for (size_t row = 0; row < t.shape[0]; ++row) {
    const size_t in_head = row % head_dim, first = row - in_head;
    const size_t to = first + (in_head < head_dim / 2 ? 2 * in_head : 2 * (in_head - head_dim / 2) + 1);
    std::copy_n(t.values.begin() + static_cast<int64_t>(row * cols), cols,
                out.begin() + static_cast<int64_t>(to * cols));
  }
  return out;
}

// `change` may add metadata. Rotary scaling is written by the caller, except llama3, which is a tensor.
inline std::vector<uint8_t> family_gguf(const FamilyCase& c,
                                        const std::function<void(GgufWriter&, std::string)>& change) {
  const std::string type = c.text("model_type");
  const std::string arch = type == "mistral" ? "llama" : type;
  const auto u = [&](const char* key) { return static_cast<uint32_t>(c.integer(key)); };
  GgufWriter out;
  out.string("general.architecture", arch).string("general.name", c.name);
  out.u32(arch + ".context_length", u("max_position_embeddings")).u32(arch + ".embedding_length", u("hidden_size"));
  out.u32(arch + ".block_count", u("num_hidden_layers")).u32(arch + ".feed_forward_length", u("intermediate_size"));
  out.u32(arch + ".attention.head_count", u("num_attention_heads"));
  out.u32(arch + ".attention.head_count_kv", u("num_key_value_heads"));
  out.u32(arch + ".attention.key_length", static_cast<uint32_t>(c.head_dim()));
  out.u32(arch + ".attention.value_length", static_cast<uint32_t>(c.head_dim()));
  out.f32(arch + ".rope.freq_base", static_cast<float>(c.settings.find("rope_theta")->number));
  out.f32(arch + ".attention.layer_norm_rms_epsilon", static_cast<float>(c.settings.find("rms_norm_eps")->number));
  change(out, arch);
  static const std::map<std::string, std::string> kNames{
      {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  for (const NamedTensor& t : family_tensors(c)) {
    std::vector<float> values = t.values;
    std::string name = t.name;
    if (name.starts_with("model.layers.")) {
      const size_t number = std::string("model.layers.").size();
      const size_t dot = name.find('.', number), end = name.rfind('.');
      const std::string part = name.substr(dot + 1, end - dot - 1);
      if (arch == "llama" && (part == "self_attn.q_proj" || part == "self_attn.k_proj")) {
        values = interleave_heads(t, static_cast<uint64_t>(c.head_dim()));
      }
      name = "blk." + name.substr(number, dot - number) + "." + kNames.at(part) + name.substr(end);
    } else {
      name = name == "model.norm.weight" ? "output_norm.weight"
             : name == "lm_head.weight"  ? "output.weight"
                                         : "token_embd.weight";
    }
    out.tensor_f32(name, {t.shape.rbegin(), t.shape.rend()}, values);
  }
  return out.build();
}

}  // namespace penstock::testing
