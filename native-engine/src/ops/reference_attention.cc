// Attention over the paged cache in plain loops: the oracle of the SIMD kernels. What is stored is defined to the bit,
// the rest by tolerance.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/half.h"
#include "ops/kv_quant.h"
#include "ops/reference.h"

namespace penstock::reference {

namespace {

float load_half(const std::byte* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  return half_to_float(half);
}

// Where a value lies in a tile, counted in values; see kv/cache.h.
int64_t k_index(int32_t token, int32_t dim) { return int64_t{dim} * kBlockTokens + token; }

int64_t v_index(int32_t head_dim, int32_t token, int32_t dim) {
  const int32_t column = dim / kVColumnDims * kVColumnDims;
  return int64_t{column} * kBlockTokens + token * std::min(kVColumnDims, head_dim - column) + (dim - column);
}

int64_t scale_index(int32_t token, int32_t dim) { return int64_t{dim / kKvQuantBlock} * kBlockTokens + token; }

int64_t scales_bytes(int32_t head_dim) { return int64_t{2} * kBlockTokens * (head_dim / kKvQuantBlock); }

// The value at `index` of a tile, which belongs to (token, dim).
float load_kv(KvType type, int32_t head_dim, const std::byte* tile, int64_t index, int32_t token, int32_t dim) {
  if (type == KvType::f16) return load_half(tile + 2 * index);
  if (type == KvType::f32) {
    float value;
    std::memcpy(&value, tile + 4 * index, sizeof value);
    return value;
  }
  const auto q = static_cast<int8_t>(tile[scales_bytes(head_dim) + index]);
  return static_cast<float>(q) * load_half(tile + 2 * scale_index(token, dim));
}

// x [kKvQuantBlock] -> q [kKvQuantBlock]; returns the scale in f16.
uint16_t quantize_block(const float* x, int8_t* q) {
  uint32_t largest = 0;
  for (int32_t i = 0; i < kKvQuantBlock; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu);
  const uint16_t scale = kv_scale(largest);
  const float d = half_to_float(scale);
  for (int32_t i = 0; i < kKvQuantBlock; ++i) {
    q[i] = d > 0 ? static_cast<int8_t>(std::nearbyint(std::clamp(x[i] / d, -127.0f, 127.0f))) : int8_t{0};
  }
  return scale;
}

// x [head_dim] of one token; index_of(dim) is its place in the tile.
template <typename Index>
void store_token(KvType type, int32_t head_dim, int32_t token, const float* x, std::byte* tile, const Index& index_of) {
  int8_t q[kKvQuantBlock];
  for (int32_t dim = 0; dim < head_dim; ++dim) {
    const int64_t index = index_of(dim);
    if (type == KvType::f16) {
      const uint16_t half = float_to_half(x[dim]);
      std::memcpy(tile + 2 * index, &half, sizeof half);
    } else if (type == KvType::f32) {
      std::memcpy(tile + 4 * index, x + dim, sizeof(float));
    } else {
      if (dim % kKvQuantBlock == 0) {
        const uint16_t scale = quantize_block(x + dim, q);
        std::memcpy(tile + 2 * scale_index(token, dim), &scale, sizeof scale);
      }
      tile[scales_bytes(head_dim) + index] = static_cast<std::byte>(q[dim % kKvQuantBlock]);
    }
  }
}

// state [softmax_floats(head_dim)] of one head over the positions [begin, end).
void attend_range(const AttentionArgs& args, const float* q, int32_t begin, int32_t end, float* state) {
  const int32_t dim = args.head_dim;
  float scores[kSegmentTokens];
  float largest = -std::numeric_limits<float>::infinity();
  bool ordered = true;
  const auto k_tile = [&](int32_t position) {
    return args.k_base + args.block_table[position / kBlockTokens] * args.block_stride_bytes;
  };
  for (int32_t position = begin; position < end; ++position) {
    const int32_t token = position % kBlockTokens;
    float score = 0;
    for (int32_t i = 0; i < dim; ++i) {
      score += q[i] * load_kv(args.kv_type, dim, k_tile(position), k_index(token, i), token, i);
    }
    scores[position - begin] = score;
    largest = std::max(largest, score);
    ordered = ordered && !std::isnan(score);
  }
  if (!ordered) largest = std::numeric_limits<float>::quiet_NaN();
  state[0] = largest;
  state[1] = 0;
  std::fill_n(state + kSoftmaxHeader, dim, 0.0f);
  for (int32_t position = begin; position < end; ++position) {
    const int32_t token = position % kBlockTokens;
    const float weight = std::exp(scores[position - begin] - largest);
    state[1] += weight;
    for (int32_t i = 0; i < dim; ++i) {
      state[kSoftmaxHeader + i] += weight * load_kv(args.kv_type, dim, k_tile(position) + args.v_offset_bytes,
                                                    v_index(dim, token, i), token, i);
    }
  }
}

}  // namespace

void store_kv(KvType type, int32_t head_dim, int32_t token, const float* k, const float* v, std::byte* k_tile,
              std::byte* v_tile) {
  store_token(type, head_dim, token, k, k_tile, [&](int32_t dim) { return k_index(token, dim); });
  store_token(type, head_dim, token, v, v_tile, [&](int32_t dim) { return v_index(head_dim, token, dim); });
}

int64_t attend_scratch_bytes(int32_t head_dim) { return softmax_floats(head_dim) * int64_t{sizeof(float)}; }

void attend(const AttentionArgs& args, std::byte* scratch, float* states) {
  auto* partial = reinterpret_cast<float*>(scratch);
  for (int32_t row = 0; row < args.rows; ++row) {
    const int32_t position = args.position + row;
    for (int32_t head = 0; head < args.group; ++head, states += softmax_floats(args.head_dim)) {
      const float* q = args.q + int64_t{row} * args.q_stride + int64_t{head} * args.head_dim;
      for (int32_t segment = args.segment_begin; segment < args.segment_end; ++segment) {
        const int32_t begin = std::max(segment * kSegmentTokens, first_visible(position, args.window_tokens));
        const int32_t end = std::min((segment + 1) * kSegmentTokens, position + 1);
        attend_range(args, q, begin, end, segment == args.segment_begin ? states : partial);
        if (segment != args.segment_begin) merge_softmax(partial, args.head_dim, states);
      }
    }
  }
}

// A range without a visible position has sum 0, which no other has: its largest term alone is e^0.
void merge_softmax(const float* from, int32_t head_dim, float* into) {
  if (from[1] == 0) return;
  if (into[1] == 0) {
    std::copy_n(from, softmax_floats(head_dim), into);
    return;
  }
  const float largest = std::max(into[0], from[0]);
  const float keep = std::exp(into[0] - largest);
  const float take = std::exp(from[0] - largest);
  into[0] = largest;
  for (int32_t i = 1; i < softmax_floats(head_dim); ++i) into[i] = into[i] * keep + from[i] * take;
}

void finish_softmax(const float* state, int32_t head_dim, float* out) {
  const float scale = 1.0f / state[1];
  for (int32_t i = 0; i < head_dim; ++i) out[i] = state[kSoftmaxHeader + i] * scale;
}

}  // namespace penstock::reference
