// The dimensions of a model, named once. Every shape comment in this folder and in ops/ uses these names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/gguf.h"
#include "ops/ops.h"

namespace penstock {

struct Config {
  std::string arch;        // "llama"
  std::string model_name;  // general.name, or the architecture's name
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
  int32_t context_tokens;  // trained context
  float norm_eps;
  std::vector<double> rope_frequencies;  // [rope_dims / 2] radians per position, every kind of scaling applied

  int32_t group() const { return heads / kv_heads; }
  int32_t q_dim() const { return heads * head_dim; }
  int32_t kv_dim() const { return kv_heads * head_dim; }
};

// Reads and checks the metadata of a `llama` model. Throws ModelFileError for another architecture, for a missing key,
// and for dimensions that do not fit each other.
Config read_config(const GgufFile& file);

}  // namespace penstock
