// A model's tensors, checked against the config and prepared for the kernels. Owns their memory; the file can be
// closed.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/config.h"
#include "model/gguf.h"
#include "ops/memory.h"
#include "ops/ops.h"
#include "ops/thread_pool.h"

namespace penstock {

// Matrices are [output features, input features].
struct LayerWeights {
  std::vector<float> attn_norm;  // [dim]
  Matrix q;                      // [q_dim, dim]
  Matrix k;                      // [kv_dim, dim]
  Matrix v;                      // [kv_dim, dim]
  std::vector<float> q_bias;     // [q_dim], empty where the family has none
  std::vector<float> k_bias;     // [kv_dim]
  std::vector<float> v_bias;     // [kv_dim]
  std::vector<float> q_norm;     // [head_dim], empty where the family has none
  std::vector<float> k_norm;     // [head_dim]
  Matrix attn_output;            // [dim, q_dim]
  std::vector<float> ffn_norm;   // [dim]
  Matrix ffn_gate;               // [ffn_dim, dim]
  Matrix ffn_up;                 // [ffn_dim, dim]
  Matrix ffn_down;               // [dim, ffn_dim]
};

struct Weights {
  Matrix embedding;                  // [vocab_rows, dim]
  std::vector<LayerWeights> layers;  // [layers]
  std::vector<float> output_norm;    // [dim]
  Matrix head;                       // [vocab_size, dim]; shares the embedding's data when tied
  PageMemory memory;                 // what the matrices' data points into
  int64_t bytes;                     // of all tensors in the file
  int64_t step_bytes;                // of the tensors that a decode step reads in full: all matrices, a tied one once
  uint64_t identity;                 // hash of all tensor bytes: equal = the same model in the same format
};

// Throws ModelFileError naming the tensor when one is missing, has another shape, or a type its place does not allow.
// progress(bytes_done, bytes_total) may be empty.
Weights load_weights(const GgufFile& file, const Config& config, const Kernels& kernels, ThreadPool& pool,
                     const std::function<void(int64_t, int64_t)>& progress);

}  // namespace penstock
