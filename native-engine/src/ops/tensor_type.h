// The weight formats this engine computes with: their ids in a GGUF file, block sizes and row sizes.
#pragma once

#include <cstdint>
#include <optional>

namespace penstock {

// Values are GGUF's type ids.
enum class TensorType : uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 8 };

// Values that share one scale in every quantised format here.
inline constexpr int32_t kQuantBlock = 32;

struct TensorTypeFacts {
  const char* name;
  int32_t block_values;  // values per block; a row is a whole number of blocks
  int32_t block_bytes;
};

inline constexpr TensorTypeFacts tensor_type_facts(TensorType type) {
  switch (type) {
    case TensorType::f32:
      return {"F32", 1, 4};
    case TensorType::f16:
      return {"F16", 1, 2};
    case TensorType::q4_0:
      return {"Q4_0", kQuantBlock, 18};  // f16 d; 16 bytes of nibbles
    case TensorType::q4_1:
      return {"Q4_1", kQuantBlock, 20};  // f16 d, f16 m; 16 bytes of nibbles
    case TensorType::q8_0:
      return {"Q8_0", kQuantBlock, 34};  // f16 d; 32 int8
  }
  return {"", 1, 0};
}

inline constexpr bool is_quantized(TensorType type) { return tensor_type_facts(type).block_values > 1; }

inline constexpr std::optional<TensorType> tensor_type_of(uint32_t id) {
  switch (id) {
    case 0:
      return TensorType::f32;
    case 1:
      return TensorType::f16;
    case 2:
      return TensorType::q4_0;
    case 3:
      return TensorType::q4_1;
    case 8:
      return TensorType::q8_0;
    default:
      return std::nullopt;
  }
}

// Bytes of one row of `cols` values. PRECOND: cols % block_values == 0.
inline constexpr int64_t row_bytes(TensorType type, int64_t cols) {
  const TensorTypeFacts facts = tensor_type_facts(type);
  return cols / facts.block_values * facts.block_bytes;
}

}  // namespace penstock
