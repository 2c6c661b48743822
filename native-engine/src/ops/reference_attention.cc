// Attention over the paged cache in plain loops: the oracle of the SIMD kernels, by tolerance.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/half.h"
#include "ops/reference.h"

namespace penstock::reference {

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

float load_kv(KvType type, const std::byte* tile, int32_t index) {
  return type == KvType::f16 ? load_half(tile + 2 * index) : load_float(tile + 4 * index);
}

void store_kv_value(KvType type, std::byte* tile, int32_t index, float value) {
  if (type == KvType::f16) {
    const uint16_t half = float_to_half(value);
    std::memcpy(tile + 2 * index, &half, sizeof half);
  } else {
    std::memcpy(tile + 4 * index, &value, sizeof value);
  }
}

}  // namespace

void store_kv(KvType type, int32_t head_dim, int32_t token, const float* k, const float* v, std::byte* k_tile,
              std::byte* v_tile) {
  for (int32_t i = 0; i < head_dim; ++i) {
    store_kv_value(type, k_tile, i * kBlockTokens + token, k[i]);
    store_kv_value(type, v_tile, token * head_dim + i, v[i]);
  }
}

void attend(const AttentionArgs& args, float* partial) {
  const int32_t dim = args.head_dim;
  for (int32_t head = 0; head < args.group; ++head, partial += softmax_floats(dim)) {
    const float* q = args.q + head * dim;
    float scores[kSegmentTokens];
    float largest = -std::numeric_limits<float>::infinity();
    bool ordered = true;
    for (int32_t position = args.begin; position < args.end; ++position) {
      const std::byte* k_tile = args.k_base + args.block_table[position / kBlockTokens] * args.block_stride_bytes;
      float score = 0;
      for (int32_t i = 0; i < dim; ++i) {
        score += q[i] * load_kv(args.kv_type, k_tile, i * kBlockTokens + position % kBlockTokens);
      }
      scores[position - args.begin] = score;
      largest = std::max(largest, score);
      ordered = ordered && !std::isnan(score);
    }
    if (!ordered) largest = std::numeric_limits<float>::quiet_NaN();
    float sum = 0;
    std::fill_n(partial + kSoftmaxHeader, dim, 0.0f);
    for (int32_t position = args.begin; position < args.end; ++position) {
      const std::byte* k_tile = args.k_base + args.block_table[position / kBlockTokens] * args.block_stride_bytes;
      const float weight = std::exp(scores[position - args.begin] - largest);
      sum += weight;
      for (int32_t i = 0; i < dim; ++i) {
        partial[kSoftmaxHeader + i] +=
            weight * load_kv(args.kv_type, k_tile + args.v_offset_bytes, position % kBlockTokens * dim + i);
      }
    }
    partial[0] = largest;
    partial[1] = sum;
  }
}

void merge_softmax(const float* from, int32_t head_dim, float* into) {
  const float largest = std::max(into[0], from[0]);
  // An empty range has maximum -inf and must not produce (-inf) - (-inf).
  const float keep = into[0] == largest ? 1.0f : std::exp(into[0] - largest);
  const float take = from[0] == largest ? 1.0f : std::exp(from[0] - largest);
  into[0] = largest;
  into[1] = into[1] * keep + from[1] * take;
  for (int32_t i = kSoftmaxHeader; i < softmax_floats(head_dim); ++i) into[i] = into[i] * keep + from[i] * take;
}

void finish_softmax(const float* state, int32_t head_dim, float* out) {
  const float scale = 1.0f / state[1];
  for (int32_t i = 0; i < head_dim; ++i) out[i] = state[kSoftmaxHeader + i] * scale;
}

}  // namespace penstock::reference
