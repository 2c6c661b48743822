// Matrices as a file has them, and rows to multiply them with, for tests of products: every integer, scale and minimum that a
// format can hold occurs, and activations have outliers.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ops/half.h"
#include "ops/tensor_type.h"

namespace penstock::testing {

using Bytes = std::vector<uint8_t>;

inline std::string name_of(TensorType type) { return tensor_type_facts(type).name; }

inline const std::byte* data_of(const Bytes& bytes) { return reinterpret_cast<const std::byte*>(bytes.data()); }

// Normal values with an outlier in every 50, 100 times as large.
inline std::vector<float> activations(int32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random) * (random() % 50 == 0 ? 100.0f : 1.0f);
  return values;
}

inline void put_half_at(Bytes& bytes, size_t at, float value) {
  const uint16_t half = float_to_half(value);
  std::memcpy(bytes.data() + at, &half, 2);
}

// Where a block keeps its f16s.
inline std::vector<size_t> halves_of(TensorType type) {
  if (type == TensorType::q6_k) return {208};
  if (type == TensorType::q4_1 || type == TensorType::q5_1 || type == TensorType::q4_k || type == TensorType::q5_k) {
    return {0, 2};
  }
  return {0};
}

// A matrix in which every bit of a block but its f16s is random.
inline Bytes random_file(TensorType type, int32_t rows, int32_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  Bytes file(static_cast<size_t>(rows * row_bytes(type, cols)));
  if (!is_quantized(type)) {
    const size_t width = static_cast<size_t>(tensor_type_facts(type).block_bytes);
    for (size_t at = 0; at < file.size(); at += width) {
      const uint32_t bits = std::bit_cast<uint32_t>(normal(random));
      const uint16_t half = type == TensorType::bf16 ? static_cast<uint16_t>(bits >> 16)
                                                     : float_to_half(std::bit_cast<float>(bits));
      std::memcpy(file.data() + at, type == TensorType::f32 ? static_cast<const void*>(&bits) : &half, width);
    }
    return file;
  }
  for (uint8_t& byte : file) byte = static_cast<uint8_t>(random());
  const auto bytes = static_cast<size_t>(tensor_type_facts(type).block_bytes);
  for (size_t at = 0; at < file.size(); at += bytes) {
    for (size_t half : halves_of(type)) put_half_at(file, at + half, normal(random));
  }
  return file;
}

}  // namespace penstock::testing
