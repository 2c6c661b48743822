// The rounding of Q8_0 and Q4_0 blocks, in plain loops that compilers vectorise.
#include "ops/quantize_weights.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/half.h"

namespace penstock {

namespace {

void store_half(float value, std::byte* at) {
  const uint16_t half = float_to_half(value);
  std::memcpy(at, &half, sizeof half);
}

bool is_half_finite(float value) { return (float_to_half(value) & 0x7C00u) != 0x7C00u; }

// The reference multiplies by this. A denormal scale has no finite reciprocal; its f16 is 0 and so is every value.
float reciprocal(float d) {
  const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// A block that every reader decodes to NaN.
void store_nan(std::byte* block, int32_t block_bytes) {
  store_half(std::numeric_limits<float>::quiet_NaN(), block);
  std::memset(block + 2, 0, static_cast<size_t>(block_bytes - 2));
}

void quantize_q8_0(const float* x, std::byte* block) {
  constexpr int32_t kBytes = tensor_type_facts(TensorType::q8_0).block_bytes;
  // Magnitudes are compared as integers: their order is that of the floats, with infinity and NaN above all.
  uint32_t largest = 0;
  for (int32_t i = 0; i < kQuantBlock; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float d = std::bit_cast<float>(largest) / 127.0f;
  if (!is_half_finite(d)) return store_nan(block, kBytes);
  store_half(d, block);
  const float inverse = reciprocal(d);
  for (int32_t i = 0; i < kQuantBlock; ++i) {
    // Half away from zero, as roundf: in double the addition is exact, and it needs no call into the C library.
    const double ratio = x[i] * inverse;
    const auto q = static_cast<int32_t>(ratio + std::copysign(0.5, ratio));
    block[2 + i] = static_cast<std::byte>(q);
  }
}

void quantize_q4_0(const float* x, std::byte* block) {
  constexpr int32_t kBytes = tensor_type_facts(TensorType::q4_0).block_bytes;
  uint32_t largest = 0;
  float signed_largest = 0.0f;  // the first of the largest magnitude
  for (int32_t i = 0; i < kQuantBlock; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu;
    if (magnitude > largest) {
      largest = magnitude;
      signed_largest = x[i];
    }
  }
  const float d = signed_largest / -8.0f;
  if (!is_half_finite(d)) return store_nan(block, kBytes);
  store_half(d, block);
  const float inverse = reciprocal(d);
  uint32_t q[kQuantBlock];
  for (int32_t i = 0; i < kQuantBlock; ++i) {
    const auto level = static_cast<int32_t>(x[i] * inverse + 8.5f);  // at least 0: x / d >= -8
    q[i] = static_cast<uint32_t>(level < 15 ? level : 15);
  }
  for (int32_t i = 0; i < kQuantBlock / 2; ++i) {
    block[2 + i] = static_cast<std::byte>(q[i] | q[i + kQuantBlock / 2] << 4);
  }
}

}  // namespace

void quantize_weight_row(TensorType type, const float* x, int32_t cols, std::byte* blocks) {
  const int32_t block_bytes = tensor_type_facts(type).block_bytes;
  for (int32_t at = 0; at < cols; at += kQuantBlock, blocks += block_bytes) {
    if (type == TensorType::q8_0) {
      quantize_q8_0(x + at, blocks);
    } else {
      quantize_q4_0(x + at, blocks);
    }
  }
}

void quantize_weight_rows(TensorType type, const Matrix& from, int32_t row_begin, int32_t row_end, std::byte* out) {
  std::vector<float> values(static_cast<size_t>(from.cols));
  const int64_t bytes = row_bytes(type, from.cols);
  for (int32_t row = row_begin; row < row_end; ++row, out += bytes) {
    reference_kernels().matrix_row(from, row, values.data());
    quantize_weight_row(type, values.data(), from.cols, out);
  }
}

}  // namespace penstock
