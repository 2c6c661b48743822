#include "model/family.h"

#include <string>
#include <vector>

namespace penstock {

namespace {

// Converters to GGUF permute the rows of q and k for `llama` (Mistral and SmolLM2 included) so that neighbours turn
// together, and leave those of Qwen. A `llama` file may carry biases: some conversions of other models do.
constexpr Family kFamilies[] = {
    {"llama", "llama", "llama", "LlamaForCausalLM", "LlamaModel", RopePairs::interleaved, Presence::optional, false,
     WindowRule::none},
    {"mistral", "", "mistral", "MistralForCausalLM", "MistralModel", RopePairs::interleaved, Presence::absent, false,
     WindowRule::always},
    {"qwen2", "qwen2", "qwen2", "Qwen2ForCausalLM", "Qwen2Model", RopePairs::halves, Presence::required, false,
     WindowRule::where_switched},
    {"qwen3", "qwen3", "qwen3", "Qwen3ForCausalLM", "Qwen3Model", RopePairs::halves, Presence::absent, true,
     WindowRule::where_switched},
};

struct Feature {
  std::string_view part;  // of a tensor's name
  std::string_view name;
};

// The first match counts, so the more telling parts come first.
constexpr Feature kFeatures[] = {
    {"exps", "mixture of experts"},
    {"experts", "mixture of experts"},
    {"ffn_gate_inp", "mixture of experts"},
    {"block_sparse_moe", "mixture of experts"},
    {"shexp", "mixture of experts"},
    {"mlp.gate.", "mixture of experts"},
    {"sinks", "attention sinks"},
    {"attn_output.bias", "bias of the attention output"},
    {"o_proj.bias", "bias of the attention output"},
    {"ffn_", "another feed-forward block"},
    {"mlp.", "another feed-forward block"},
    {"qweight", "weights of GPTQ or AWQ"},
    {"qzeros", "weights of GPTQ or AWQ"},
    {"weight_scale", "weights with separate scales"},
    {"lora", "adapters"},
    {"attn_qkv", "fused q, k and v"},
    {"qkv_proj", "fused q, k and v"},
    {"q_norm", "norms of q and k"},
    {"k_norm", "norms of q and k"},
    {"post_", "norms behind the blocks"},
    {".bias", "biases"},
    {"ssm", "state space layers"},
    {"nextn", "multi-token prediction"},
    {"visual", "images"},
    {"vision", "images"},
    {"mm.", "images"},
    {"score.", "classification"},
    {"cls", "classification"},
};

std::string join(const std::vector<std::string_view>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += names[i];
  }
  return text;
}

}  // namespace

const Family* family_of_gguf(std::string_view architecture) {
  for (const Family& family : kFamilies) {
    if (!family.gguf_name.empty() && family.gguf_name == architecture) return &family;
  }
  return nullptr;
}

const Family* family_of_model_type(std::string_view model_type) {
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return &family;
  }
  return nullptr;
}

std::string gguf_family_names() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) {
    if (!family.gguf_name.empty()) names.push_back(family.gguf_name);
  }
  return join(names);
}

std::string model_type_names() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.model_type);
  return join(names);
}

std::string_view feature_of_tensor(std::string_view name) {
  for (const Feature& feature : kFeatures) {
    if (name.find(feature.part) != std::string_view::npos) return feature.name;
  }
  return "an unknown tensor";
}

}  // namespace penstock
