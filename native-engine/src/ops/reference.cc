// The operations of ops.h in plain loops, attention apart: the oracle that the SIMD kernels are tested against, and
// what runs where there are none. Weights stay in the file's layout, so a fault in a packed layout cannot hide in both.
// Matrix products and quantisation are defined to the bit (one fused multiply-add per term, in order of the columns);
// the rest by tolerance.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/half.h"
#include "ops/ops.h"
#include "ops/reference.h"
#include "ops/weight_block.h"

namespace penstock {

namespace {

float load_half(const std::byte* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  return half_to_float(half);
}

float load_float(const std::byte* at) {
  float value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// A value of a format without blocks.
float load_value(TensorType type, const std::byte* row, int64_t column) {
  if (type == TensorType::f32) return load_float(row + 4 * column);
  if (type == TensorType::f16) return load_half(row + 2 * column);
  uint16_t upper;  // bf16: the upper half of an f32
  std::memcpy(&upper, row + 2 * column, sizeof upper);
  return std::bit_cast<float>(uint32_t{upper} << 16);
}

int64_t packed_bytes(TensorType type, int32_t rows, int32_t cols) { return rows * row_bytes(type, cols); }

void pack(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed) {
  std::memcpy(packed, file, static_cast<size_t>(packed_bytes(type, rows, cols)));
}

void matrix_row(const Matrix& w, int32_t row, float* out) {
  const std::byte* data = w.data + row * row_bytes(w.type, w.cols);
  if (!is_quantized(w.type)) {
    for (int32_t i = 0; i < w.cols; ++i) out[i] = load_value(w.type, data, i);
    return;
  }
  for (int32_t b = 0; b < w.cols / kQuantBlock; ++b) {
    const WeightBlock block = read_weight_block(w.type, data, b);
    for (int32_t i = 0; i < kQuantBlock; ++i) {
      // d * scale is exact, and the offset is taken from the integer: each value is rounded as its format defines it.
      const float d = block.d * static_cast<float>(block.scale[i / kScaleColumns]);
      const float value = static_cast<float>(block.q[i] - block.zero) * d;
      out[b * kQuantBlock + i] = block.has_min ? value + block.m : value;
    }
  }
}

void rms_norm(const float* x, const float* weight, int32_t n, float eps, float* out) {
  double sum = 0;
  for (int32_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  const float scale = static_cast<float>(1.0 / std::sqrt(sum / n + eps));
  for (int32_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

void quantize(const float* x, int32_t n, int8_t* q, float* d, float* s) {
  for (int32_t b = 0; b < n / kQuantBlock; ++b, x += kQuantBlock, q += kQuantBlock) {
    // Magnitudes are compared as integers: their order is that of the floats, with infinity and NaN above all.
    uint32_t largest = 0;
    for (int32_t i = 0; i < kQuantBlock; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu);
    if (largest >= 0x7F800000u) {
      std::memset(q, 0, kQuantBlock);
      d[b] = s[b] = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    const float scale = std::bit_cast<float>(largest) / 127.0f;
    d[b] = scale;
    int32_t sum = 0;
    for (int32_t i = 0; i < kQuantBlock; ++i) {
      // Division, not multiplication by a reciprocal: tiny scales have no finite reciprocal. Ties go to even.
      const float ratio = scale == 0.0f ? 0.0f : std::nearbyint(x[i] / scale);
      const int32_t value = static_cast<int32_t>(std::clamp(ratio, -127.0f, 127.0f));
      q[i] = static_cast<int8_t>(value);
      sum += value;
    }
    s[b] = scale * static_cast<float>(sum);
  }
}

void rope(RopePairs pairs, float* x, const float* cos_sin, int32_t heads, int32_t head_dim, int32_t rope_dims) {
  const int32_t half = rope_dims / 2;
  const bool interleaved = pairs == RopePairs::interleaved;
  for (int32_t head = 0; head < heads; ++head, x += head_dim) {
    for (int32_t i = 0; i < half; ++i) {
      const float cosine = cos_sin[2 * i];
      const float sine = cos_sin[2 * i + 1];
      float& first = x[interleaved ? 2 * i : i];
      float& second = x[interleaved ? 2 * i + 1 : i + half];
      const float was = first;
      first = first * cosine - second * sine;
      second = was * sine + second * cosine;
    }
  }
}

void swiglu(const float* gate, const float* up, int32_t n, float* out) {
  for (int32_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void add(float* x, const float* y, int32_t n) {
  for (int32_t i = 0; i < n; ++i) x[i] += y[i];
}

float dot_float(const Matrix& w, const std::byte* row, const float* x) {
  float sum = 0;
  for (int32_t k = 0; k < w.cols; ++k) sum = std::fma(load_value(w.type, row, k), x[k], sum);
  return sum;
}

// Per block of 32 columns: the integer sum, exact and below 2^24 in every format, with one fused multiply-add; then the
// offset or minimum with another, through the activations' block sum.
float dot_quantized(const Matrix& w, const std::byte* row, const int8_t* q, const float* d, const float* s) {
  float sum = 0;
  for (int32_t b = 0; b < w.cols / kQuantBlock; ++b) {
    const WeightBlock block = read_weight_block(w.type, row, b);
    int32_t total = 0;
    for (int32_t half = 0; half < 2; ++half) {
      int32_t products = 0;
      for (int32_t i = half * kScaleColumns; i < (half + 1) * kScaleColumns; ++i) {
        products += block.q[i] * q[b * kQuantBlock + i];
      }
      total += products * block.scale[half];
    }
    sum = std::fma(block.d * d[b], static_cast<float>(total), sum);
    if (block.zero != 0) sum = std::fma(block.d * static_cast<float>(-block.zero), s[b], sum);
    if (block.has_min) sum = std::fma(block.m, s[b], sum);
  }
  return sum;
}

void matmul(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
            int32_t out_stride) {
  const int64_t stride = row_bytes(w.type, w.cols);
  const int32_t blocks = w.cols / kQuantBlock;
  for (int32_t row = tile_begin * kTileRows; row < std::min(tile_end * kTileRows, w.rows); ++row) {
    for (int64_t i = 0; i < x.rows; ++i) {
      out[i * out_stride + row] = is_quantized(w.type) ? dot_quantized(w, w.data + row * stride, x.q + i * x.cols,
                                                                       x.d + i * blocks, x.s + i * blocks)
                                                       : dot_float(w, w.data + row * stride, x.f32 + i * x.cols);
    }
  }
}

constexpr Kernels kReference = {
    "reference",
    packed_bytes,
    pack,
    matrix_row,
    rms_norm,
    quantize,
    rope,
    swiglu,
    add,
    matmul,
    reference::store_kv,
    reference::attend_scratch_bytes,
    reference::attend,
    reference::merge_softmax,
    reference::finish_softmax,
};

}  // namespace

const Kernels& reference_kernels() { return kReference; }

}  // namespace penstock
