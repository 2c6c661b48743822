// The dimensions of a model, named once. Every shape comment in this folder and in ops/ uses these names. Owns what
// must hold between them; reading them is gguf_config.cc's and huggingface_config.cc's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace penstock {

struct Config {
  std::string arch;        // name of the family: "llama"
  std::string model_name;  // as the file calls itself, or the family's name
  int32_t layers;
  int32_t dim;             // width of the residual stream
  int32_t ffn_dim;         // width inside the feed-forward block
  int32_t heads;           // query heads
  int32_t kv_heads;        // key and value heads; heads / kv_heads query heads share one
  int32_t head_dim;        // a multiple of 8
  int32_t rope_dims;       // leading dimensions of a head that rotate; even
  RopePairs rope_pairs;    // as the file stores its q and k rows
  bool qkv_bias;           // q, k and v add a bias (qwen2)
  bool qk_norm;            // every head of q and k is normalised before it rotates (qwen3)
  int32_t window_tokens;   // a position sees itself and the window_tokens - 1 before it; 0 = everything before it
  int32_t vocab_rows;      // rows of the embedding
  int32_t vocab_size;      // ids that the tokenizer knows, <= vocab_rows; logits exist for these only
  int32_t context_tokens;  // trained context, stretched where the file says so
  float norm_eps;
  std::vector<double> rope_frequencies;  // [rope_dims / 2] radians per position, every kind of scaling applied
  float rope_magnitude = 1;              // factor on every cosine and sine (yarn)

  int32_t group() const { return heads / kv_heads; }
  int32_t q_dim() const { return heads * head_dim; }
  int32_t kv_dim() const { return kv_heads * head_dim; }
};

// Bounds of each dimension: above any published model, and low enough that no product of two of them overflows 63 bits
// or a loop over them takes forever.
inline constexpr int64_t kLayersMax = 1024;
inline constexpr int64_t kDimMax = 1 << 20;
inline constexpr int64_t kHeadsMax = 4096;
inline constexpr int64_t kHeadDimMax = 1024;
inline constexpr int64_t kVocabMax = 1 << 24;
inline constexpr int64_t kContextMax = 1 << 28;

// What is wrong between two fields, each within its bounds; the reader of the file turns it into a typed error. `field`
// says which one to point at.
enum class ConfigField : uint8_t { heads, kv_heads, head_dim, rope_dims, rope, norm_eps };
using ConfigFail = std::function<void(ConfigField field, const std::string& reason)>;

// Calls `fail`, which must throw, for the first thing that does not fit.
void check_config(const Config& config, const ConfigFail& fail);

// A hash of everything in a config that changes what a token's keys and values are.
uint64_t config_identity(const Config& config);

}  // namespace penstock
