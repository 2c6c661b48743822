// The model families this engine computes, as data: how each differs from the plain Llama decoder. Owns nothing but the
// table; a family is a row here, never a copy of code.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "ops/ops.h"

namespace penstock {

enum class Presence : uint8_t { absent, optional, required };

// Where a family's sliding window comes from in config.json.
enum class WindowRule : uint8_t {
  none,            // the family ignores `sliding_window`
  always,          // `sliding_window`, where it is not null, holds for every layer
  where_switched,  // only with `use_sliding_window`, from layer `max_window_layers` on
};

struct Family {
  std::string_view name;             // as shown: RunnerInfo::arch
  std::string_view gguf_name;        // general.architecture and prefix of the keys; empty = no GGUF files of its own
  std::string_view model_type;       // of config.json
  std::string_view causal_class;     // the entry of `architectures` in config.json that generates text
  std::string_view embedding_class;  // the one without a head, for embeddings
  RopePairs gguf_pairs;              // Hugging Face files always have halves
  Presence qkv_bias;
  bool qk_norm;
  WindowRule window;
};

// nullptr for a family this engine does not compute.
const Family* family_of_gguf(std::string_view architecture);
const Family* family_of_model_type(std::string_view model_type);

// "llama, qwen2 or qwen3", for messages.
std::string gguf_family_names();
std::string model_type_names();

// What kind of model a tensor of this name belongs to, for the refusal of tensors that no family here has.
std::string_view feature_of_tensor(std::string_view name);

}  // namespace penstock
