// A model file with the shape of a real one and weights of noise, for machines that cannot download any: its speed is the real
// one's, its text is not. Owns the shapes and the noise.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "ops/tensor_type.h"

namespace penstock::bench {

struct SyntheticShape {
  const char* name;
  int32_t layers;
  int32_t dim;
  int32_t ffn_dim;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t vocab_size;
};

// "8b" and "1b", the shapes of Llama 3.1 8B and Llama 3.2 1B, or "tiny". Throws std::invalid_argument for another.
const SyntheticShape& synthetic_shape(std::string_view name);

// Matrices in `type`, which is f16, q8_0, q4_0 or q4_k; norms are 1. Bytes of the file. Throws std::runtime_error when it cannot be
// written, std::invalid_argument for another type.
int64_t write_synthetic_model(const std::string& path, const SyntheticShape& shape, TensorType type);

// Whether the file is what write_synthetic_model() writes for them, whole: by its head and its length, the noise is not read. False for
// what cannot be read.
bool is_synthetic_model(const std::string& path, const SyntheticShape& shape, TensorType type);

}  // namespace penstock::bench
