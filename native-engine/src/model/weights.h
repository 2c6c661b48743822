// A model's tensors, checked against the config and prepared for the kernels. Owns their memory; the files can be
// closed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "model/config.h"
#include "model/source.h"
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
  int64_t bytes;                     // of all tensors, as they are kept
  int64_t step_bytes;                // of the tensors that a decode step reads in full: all matrices, a tied one once
  uint64_t identity;                 // hash of all tensor bytes, of the config and of what they were quantised to:
                                     // equal = the same model in the same format
};

// Quantising while loading: matrices in F32, F16 or BF16 whose rows are whole blocks become `to`. What stays as it is:
// matrices with other rows, those that the file has quantised already, and all norms and biases. To Q4_0, embedding and
// head become Q8_0: they decide which token is chosen, and most of a large model is elsewhere.
using QuantizeTo = std::optional<TensorType>;  // absent = nothing; otherwise can_quantize_to() holds

// What a matrix of this role, type and width is kept as.
TensorType stored_type(TensorRole role, TensorType type, int32_t cols, QuantizeTo quantize);

// How matrices lie in memory for whoever multiplies with them.
struct WeightLayout {
  int64_t (*packed_bytes)(TensorType type, int32_t rows, int32_t cols);
  // Where row `row` of a matrix begins; a multiple of row_step.
  int64_t (*rows_offset)(TensorType type, int32_t row, int32_t cols);
  // file [rows, cols] as in the GGUF file -> packed, for all rows or some of them that begin at a multiple of row_step.
  void (*pack)(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed);
  int32_t row_step;
};

WeightLayout layout_of(const Kernels& kernels);

// Throws ModelFileError naming the tensor when one is missing, has another shape or a type its place does not allow, or
// when there is one that this family does not have. progress(bytes_done, bytes_total), in bytes of the files, is called
// from this thread; it may be empty.
Weights load_weights(const ModelSource& source, const WeightLayout& layout, ThreadPool& pool, QuantizeTo quantize,
                     const std::function<void(int64_t, int64_t)>& progress);

}  // namespace penstock
