// Packed weights for AVX2: tiles of 8 rows, interleaved so that one 256-bit register holds the same columns of all 8
// rows. Row sums then live in vector lanes: no horizontal additions, and one load of scales serves 8 rows.
//
// A tile of a matrix [rows, cols], tile after tile, missing rows of the last one zero:
//   F32   [cols][8] f32
//   F16   [cols][8] f16; BF16 the same
//   Q8_0  per block of 32 columns: d [8] f16, then [8 groups][8 rows][4 columns] int8
//   Q4_0  per block: d [8] f16, then [4 groups][8 rows][4 bytes]: low nibbles are columns 4g.., high ones 16 + 4g..
//   Q4_1  per block: d [8] f16, m [8] f16, then as Q4_0
//   Q5_0, Q5_1, Q4_K, Q5_K, Q6_K: see pack_k_avx2.cc
#if defined(__x86_64__)
#include <algorithm>
#include <bit>
#include <cstring>

#include "ops/cpu/kernels_avx2.h"
#include "ops/half.h"

namespace penstock::avx2 {

namespace {

// Bytes before the values of one file block: its f16 scale, and minimum where there is one.
int32_t header_bytes(TensorType type) { return type == TensorType::q4_1 ? 4 : 2; }

float half_at(const std::byte* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  return half_to_float(half);
}

// The upper half of an f32.
float bf16_at(const std::byte* at) {
  uint16_t upper;
  std::memcpy(&upper, at, sizeof upper);
  return std::bit_cast<float>(uint32_t{upper} << 16);
}

}  // namespace

int64_t packed_bytes(TensorType type, int32_t rows, int32_t cols) {
  const int64_t padded = (int64_t{rows} + kTileRows - 1) / kTileRows * kTileRows;
  return padded * row_bytes(type, cols);
}

void pack(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed) {
  if (is_packed_k(type)) return pack_k(type, rows, cols, file, packed);
  const TensorTypeFacts facts = tensor_type_facts(type);
  const int64_t stride = row_bytes(type, cols);
  const int32_t blocks = cols / facts.block_values;
  // Both kinds of tile are an interleave of equal pieces: whole values, or a header of f16s and then 4-byte groups.
  const int32_t header = is_quantized(type) ? header_bytes(type) : 0;
  const int32_t piece = is_quantized(type) ? 4 : facts.block_bytes;
  const int32_t pieces = (facts.block_bytes - header) / piece;
  for (int32_t first = 0; first < rows; first += kTileRows) {
    const int32_t present = std::min(kTileRows, rows - first);
    if (present < kTileRows) std::memset(packed, 0, static_cast<size_t>(stride * kTileRows));
    for (int32_t b = 0; b < blocks; ++b) {
      for (int32_t r = 0; r < present; ++r) {
        const std::byte* block = file + (first + r) * stride + int64_t{b} * facts.block_bytes;
        for (int32_t h = 0; h < header / 2; ++h) std::memcpy(packed + 16 * h + 2 * r, block + 2 * h, 2);
        std::byte* values = packed + kTileRows * header + r * piece;
        if (piece == 4) {
          for (int32_t g = 0; g < pieces; ++g) std::memcpy(values + 32 * g, block + header + 4 * g, 4);
        } else {
          std::memcpy(values, block, 2);
        }
      }
      packed += kTileRows * facts.block_bytes;
    }
  }
}

void matrix_row(const Matrix& w, int32_t row, float* out) {
  if (is_packed_k(w.type)) return matrix_row_k(w, row, out);
  const int64_t stride = row_bytes(w.type, w.cols);
  const std::byte* tile = w.data + row / kTileRows * stride * kTileRows;
  const int32_t r = row % kTileRows;
  if (w.type == TensorType::f32) {
    for (int32_t i = 0; i < w.cols; ++i) std::memcpy(out + i, tile + (int64_t{i} * kTileRows + r) * 4, 4);
    return;
  }
  if (w.type == TensorType::bf16) {
    for (int32_t i = 0; i < w.cols; ++i) out[i] = bf16_at(tile + (int64_t{i} * kTileRows + r) * 2);
    return;
  }
  if (w.type == TensorType::f16) {
    for (int32_t i = 0; i < w.cols; ++i) out[i] = half_at(tile + (int64_t{i} * kTileRows + r) * 2);
    return;
  }
  const int32_t header = header_bytes(w.type);
  for (int32_t b = 0; b < w.cols / kQuantBlock; ++b, tile += kTileRows * tensor_type_facts(w.type).block_bytes) {
    const float d = half_at(tile + 2 * r);
    // Adding -0 changes nothing, not even the sign of a zero.
    const float m = w.type == TensorType::q4_1 ? half_at(tile + 16 + 2 * r) : -0.0f;
    const std::byte* values = tile + kTileRows * header + 4 * r;
    float* block = out + b * kQuantBlock;
    if (w.type == TensorType::q8_0) {
      for (int32_t i = 0; i < kQuantBlock; ++i) {
        block[i] = static_cast<float>(static_cast<int8_t>(values[i / 4 * 32 + i % 4])) * d;
      }
      continue;
    }
    for (int32_t i = 0; i < kQuantBlock / 2; ++i) {
      const int32_t pair = static_cast<int32_t>(values[i / 4 * 32 + i % 4]);
      const int32_t offset = w.type == TensorType::q4_0 ? -8 : 0;
      block[i] = static_cast<float>((pair & 15) + offset) * d + m;
      block[i + kQuantBlock / 2] = static_cast<float>((pair >> 4) + offset) * d + m;
    }
  }
}

}  // namespace penstock::avx2
#endif
