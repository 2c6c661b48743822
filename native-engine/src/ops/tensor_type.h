// The weight formats this engine computes with: their ids in a GGUF file, block sizes and row sizes.
#pragma once

#include <cstdint>
#include <optional>

namespace penstock {

// Values are GGUF's type ids.
enum class TensorType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
};

// Values that share one scale of the activations, and of the simple weight formats.
inline constexpr int32_t kQuantBlock = 32;
// Values of a super-block: the K formats keep two levels of scales.
inline constexpr int32_t kSuperBlock = 256;

struct TensorTypeFacts {
  const char* name;      // "" = not a format of this engine
  int32_t block_values;  // values per block; a row is a whole number of blocks
  int32_t block_bytes;
};

inline constexpr TensorTypeFacts tensor_type_facts(TensorType type) {
  switch (type) {
    case TensorType::f32:
      return {"F32", 1, 4};
    case TensorType::f16:
      return {"F16", 1, 2};
    case TensorType::bf16:
      return {"BF16", 1, 2};
    case TensorType::q4_0:
      return {"Q4_0", kQuantBlock, 18};  // f16 d; 16 bytes of nibbles
    case TensorType::q4_1:
      return {"Q4_1", kQuantBlock, 20};  // f16 d, f16 m; 16 bytes of nibbles
    case TensorType::q5_0:
      return {"Q5_0", kQuantBlock, 22};  // f16 d; 4 bytes of fifth bits; 16 bytes of nibbles
    case TensorType::q5_1:
      return {"Q5_1", kQuantBlock, 24};  // f16 d, f16 m; 4 bytes of fifth bits; 16 bytes of nibbles
    case TensorType::q8_0:
      return {"Q8_0", kQuantBlock, 34};  // f16 d; 32 int8
    case TensorType::q4_k:
      return {"Q4_K", kSuperBlock, 144};  // f16 d, dmin; 12 bytes of 6-bit scales; 128 bytes of nibbles
    case TensorType::q5_k:
      return {"Q5_K", kSuperBlock, 176};  // as Q4_K with 32 bytes of fifth bits before the nibbles
    case TensorType::q6_k:
      return {"Q6_K", kSuperBlock, 210};  // 128 bytes of low nibbles; 64 bytes of high bits; 16 int8 scales; f16 d
  }
  return {"", 1, 0};
}

inline constexpr bool is_quantized(TensorType type) { return tensor_type_facts(type).block_values > 1; }

inline constexpr std::optional<TensorType> tensor_type_of(uint32_t id) {
  const auto type = static_cast<TensorType>(id);
  return tensor_type_facts(type).block_bytes > 0 ? std::optional(type) : std::nullopt;
}

// Bytes of one row of `cols` values. PRECOND: cols % block_values == 0.
inline constexpr int64_t row_bytes(TensorType type, int64_t cols) {
  const TensorTypeFacts facts = tensor_type_facts(type);
  return cols / facts.block_values * facts.block_bytes;
}

}  // namespace penstock
