// Paged attention and KV stores with AVX2. Heads of a group go four at a time: each K and V vector is loaded and
// widened once for all of them.
#if defined(__x86_64__)
#include <algorithm>
#include <limits>

#include "ops/cpu/kernels_avx2.h"
#include "ops/cpu/simd_avx2.h"

namespace penstock::avx2 {

namespace {

static_assert(kBlockTokens == 16, "a K row of a tile is two vectors");

struct KvF16 {
  static constexpr int32_t kBytes = 2;
  static __m256 load8(const std::byte* at) { return load8_half(at); }
};

struct KvF32 {
  static constexpr int32_t kBytes = 4;
  static __m256 load8(const std::byte* at) { return load8_float(at); }
};

// K tile of the block that holds context position `position`.
const std::byte* k_tile(const AttentionArgs& args, int32_t position) {
  return args.k_base + args.block_table[position / kBlockTokens] * args.block_stride_bytes;
}

// q [H, head_dim] -> scores [H, kSegmentTokens]; whole blocks, so up to 15 scores behind the end are meaningless.
template <typename Kv, int H>
void score(const AttentionArgs& args, const float* q, float (&scores)[H][kSegmentTokens]) {
  for (int32_t position = args.begin; position < args.end; position += kBlockTokens) {
    const std::byte* tile = k_tile(args, position);
    __m256 sums[H][2];
    for (int h = 0; h < H; ++h) sums[h][0] = sums[h][1] = _mm256_setzero_ps();
    for (int32_t i = 0; i < args.head_dim; ++i) {
      const __m256 k0 = Kv::load8(tile + i * kBlockTokens * Kv::kBytes);
      const __m256 k1 = Kv::load8(tile + (i * kBlockTokens + 8) * Kv::kBytes);
      for (int h = 0; h < H; ++h) {
        const __m256 value = _mm256_broadcast_ss(q + h * args.head_dim + i);
        sums[h][0] = _mm256_fmadd_ps(k0, value, sums[h][0]);
        sums[h][1] = _mm256_fmadd_ps(k1, value, sums[h][1]);
      }
    }
    for (int h = 0; h < H; ++h) {
      _mm256_storeu_ps(&scores[h][position - args.begin], sums[h][0]);
      _mm256_storeu_ps(&scores[h][position - args.begin + 8], sums[h][1]);
    }
  }
}

// scores [count rounded up to 8] -> exp(score - max) in place, 0 behind count; writes max and sum.
void softmax(float* scores, int32_t count, float* partial) {
  const int32_t padded = (count + 7) / 8 * 8;
  std::fill(scores + count, scores + padded, -std::numeric_limits<float>::infinity());
  __m256 largest = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
  for (int32_t i = 0; i < padded; i += 8) largest = _mm256_max_ps(largest, _mm256_loadu_ps(scores + i));
  const float max = max8(largest);
  __m256 sum = _mm256_setzero_ps();
  for (int32_t i = 0; i < padded; i += 8) {
    const __m256 weight = exp8(_mm256_sub_ps(_mm256_loadu_ps(scores + i), _mm256_set1_ps(max)));
    _mm256_storeu_ps(scores + i, weight);
    sum = _mm256_add_ps(sum, weight);
  }
  partial[0] = max;
  partial[1] = sum8(sum);
}

// Adds weights times V for the dimensions [first, first + 8 * Width) to out [H, softmax_floats(head_dim)].
template <typename Kv, int H, int Width>
void weigh(const AttentionArgs& args, const float (&weights)[H][kSegmentTokens], int32_t first, float* out) {
  __m256 sums[H][Width];
  for (int h = 0; h < H; ++h) {
    for (int w = 0; w < Width; ++w) sums[h][w] = _mm256_setzero_ps();
  }
  const int32_t row = args.head_dim * Kv::kBytes;
  for (int32_t position = args.begin; position < args.end; position += kBlockTokens) {
    const std::byte* v = k_tile(args, position) + args.v_offset_bytes + first * Kv::kBytes;
    const int32_t tokens = std::min(kBlockTokens, args.end - position);
    for (int32_t t = 0; t < tokens; ++t, v += row) {
      __m256 values[Width];
      for (int w = 0; w < Width; ++w) values[w] = Kv::load8(v + 8 * w * Kv::kBytes);
      for (int h = 0; h < H; ++h) {
        const __m256 weight = _mm256_broadcast_ss(&weights[h][position - args.begin + t]);
        for (int w = 0; w < Width; ++w) sums[h][w] = _mm256_fmadd_ps(values[w], weight, sums[h][w]);
      }
    }
  }
  for (int h = 0; h < H; ++h) {
    float* at = out + h * softmax_floats(args.head_dim) + kSoftmaxHeader + first;
    for (int w = 0; w < Width; ++w) _mm256_storeu_ps(at + 8 * w, sums[h][w]);
  }
}

template <typename Kv, int H>
void attend_heads(const AttentionArgs& args, int32_t head, float* partial) {
  float scores[H][kSegmentTokens];
  score<Kv, H>(args, args.q + head * args.head_dim, scores);
  float* out = partial + head * softmax_floats(args.head_dim);
  for (int h = 0; h < H; ++h) softmax(scores[h], args.end - args.begin, out + h * softmax_floats(args.head_dim));
  int32_t first = 0;
  for (; first + 16 <= args.head_dim; first += 16) weigh<Kv, H, 2>(args, scores, first, out);
  if (first < args.head_dim) weigh<Kv, H, 1>(args, scores, first, out);
}

template <typename Kv>
void attend_group(const AttentionArgs& args, float* partial) {
  for (int32_t head = 0; head < args.group; head += 4) {
    switch (std::min(args.group - head, 4)) {
      case 1:
        attend_heads<Kv, 1>(args, head, partial);
        break;
      case 2:
        attend_heads<Kv, 2>(args, head, partial);
        break;
      case 3:
        attend_heads<Kv, 3>(args, head, partial);
        break;
      default:
        attend_heads<Kv, 4>(args, head, partial);
        break;
    }
  }
}

}  // namespace

void store_kv(KvType type, int32_t head_dim, int32_t token, const float* k, const float* v, std::byte* k_tile_out,
              std::byte* v_tile_out) {
  for (int32_t i = 0; i < head_dim; i += 8) {
    const __m256 key = _mm256_loadu_ps(k + i);
    const __m256 value = _mm256_loadu_ps(v + i);
    if (type == KvType::f16) {
      uint16_t halves[8];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(halves), _mm256_cvtps_ph(key, _MM_FROUND_TO_NEAREST_INT));
      for (int32_t j = 0; j < 8; ++j) std::memcpy(k_tile_out + ((i + j) * kBlockTokens + token) * 2, halves + j, 2);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(v_tile_out + (token * head_dim + i) * 2),
                       _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
    } else {
      for (int32_t j = 0; j < 8; ++j) std::memcpy(k_tile_out + ((i + j) * kBlockTokens + token) * 4, k + i + j, 4);
      _mm256_storeu_ps(reinterpret_cast<float*>(v_tile_out + (token * head_dim + i) * 4), value);
    }
  }
}

void attend(const AttentionArgs& args, float* partial) {
  if (args.kv_type == KvType::f16) {
    attend_group<KvF16>(args, partial);
  } else {
    attend_group<KvF32>(args, partial);
  }
}

}  // namespace penstock::avx2
#endif
