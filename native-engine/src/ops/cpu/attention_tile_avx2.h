// Attention of a few query heads over one segment of the context, in registers. Owns the order of operations that gives
// a row its bits; which queries go together, and whether K and V are read from the cache or from an f32 copy of it,
// changes none of it:
//   score      one fma per dimension, in order, from zero
//   softmax    the maximum; then the sum of eight lanes, position p in lane p % 8, in order, folded by sum8
//   weighted V one fma per visible position, in order, from zero
// Every stored type is widened exactly: q * d has 19 significant bits. Included only by *_avx2.cc files.
#pragma once

#include <algorithm>
#include <limits>

#include "ops/cpu/simd_avx2.h"
#include "ops/ops.h"

namespace penstock::avx2 {

static_assert(kBlockTokens == 16, "a K row of a tile is two vectors");
static_assert(kVColumnDims == 16, "a V column of a tile is two vectors");

// Query heads that go together: 6 x 2 vectors of sums, two of K or V and a broadcast fill the sixteen registers.
inline constexpr int kQueriesMax = 6;
inline constexpr int32_t kSegmentBlocks = kSegmentTokens / kBlockTokens;
inline constexpr int32_t kCacheLineBytes = 64;

// How eight values of a tile become f32. scales [kBlockTokens] belong to the 32 dimensions at hand, where a type has
// any; `values` is where the tile's values begin.
struct KvF16 {
  static constexpr KvType kType = KvType::f16;
  static constexpr int32_t kBytes = 2;
  static constexpr bool kScaled = false;
  static __m256 load8(const std::byte* at) { return load8_half(at); }
};

struct KvF32 {
  static constexpr KvType kType = KvType::f32;
  static constexpr int32_t kBytes = 4;
  static constexpr bool kScaled = false;
  static __m256 load8(const std::byte* at) { return load8_float(at); }
};

struct KvQ8 {
  static constexpr KvType kType = KvType::q8_0;
  static constexpr int32_t kBytes = 1;
  static constexpr bool kScaled = true;
  static __m256 load8(const std::byte* at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
  }
};

// Offset of a tile's values, behind the scales.
template <typename Kv>
int64_t values_offset(int32_t head_dim) {
  return Kv::kScaled ? int64_t{2} * kBlockTokens * (head_dim / kKvQuantBlock) : 0;
}

// scales [kBlockTokens] of the block of dimensions that holds `dim`.
template <typename Kv>
void load_scales(const std::byte* tile, int32_t dim, float* scales) {
  if constexpr (Kv::kScaled) {
    const std::byte* at = tile + int64_t{2} * kBlockTokens * (dim / kKvQuantBlock);
    _mm256_store_ps(scales, load8_half(at));
    _mm256_store_ps(scales + 8, load8_half(at + 16));
  }
}

// e^x for x <= 0, to about 3 ulp: 2^n times a polynomial in the rest (minimax with p(0) = 1, so e^0 is exactly 1).
// Below -87 the result is exactly 0 (masked scores are -inf); NaN is NaN.
inline __m256 exp_below_one(__m256 x) {
  const __m256 underflow = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ);
  // max returns its second operand when one is NaN.
  const __m256 bounded = _mm256_max_ps(_mm256_set1_ps(-87.0f), x);
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits; 127 more is the exponent's bias.
  const __m256 log2e = _mm256_set1_ps(1.44269504f);
  const __m256 shift = _mm256_set1_ps(12582912.0f + 127.0f);
  const __m256 shifted = _mm256_fmadd_ps(bounded, log2e, shift);
  const __m256 r = _mm256_fmsub_ps(bounded, log2e, _mm256_sub_ps(shifted, shift));
  __m256 p = _mm256_set1_ps(0.0013264729641377926f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.009671513922512531f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.05550733581185341f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.24022242426872253f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.6931470036506653f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
  return _mm256_andnot_ps(underflow, _mm256_mul_ps(p, power));
}

// One segment as the kernels read it.
struct Segment {
  int32_t head_dim;
  const std::byte* k[kSegmentBlocks];       // K tiles, in order of position; only those in use are set
  const std::byte* v[kSegmentBlocks];       // V tiles
  const std::byte* next_k[kSegmentBlocks];  // the K tile that is read next in this one's place, or k itself
  bool far;                                 // K and V may have to come from memory
};

// A few query heads and which positions of the segment, counted from its start, each of them sees: [begin, end).
template <int M>
struct Queries {
  const float* q[M];  // [head_dim]
  int32_t begin[M];
  int32_t end[M];
};

// Prefetches go out one line at a time among the products: in a burst they would fill the miss buffers and the loads
// that the products wait for would queue behind them. Into the second level, since a segment does not fit the first.
inline void prefetch_line(const std::byte* at) { _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1); }

// sums [M][N] += factor(m) * vector(n), one fma each. factor() and vector() load; the fewer of them are held, so that
// with the sums they fit in sixteen registers.
template <int M, int N, typename Factor, typename Vector>
inline void add_products(const Factor& factor, const Vector& vector, __m256 (&sums)[M][N]) {
  if constexpr (M < N) {
    __m256 factors[M];
    for (int m = 0; m < M; ++m) factors[m] = factor(m);
    for (int n = 0; n < N; ++n) {
      const __m256 value = vector(n);
      for (int m = 0; m < M; ++m) sums[m][n] = _mm256_fmadd_ps(value, factors[m], sums[m][n]);
    }
  } else {
    __m256 vectors[N];
    for (int n = 0; n < N; ++n) vectors[n] = vector(n);
    for (int m = 0; m < M; ++m) {
      const __m256 value = factor(m);
      for (int n = 0; n < N; ++n) sums[m][n] = _mm256_fmadd_ps(vectors[n], value, sums[m][n]);
    }
  }
}

// scores [M, kSegmentTokens] of `Tiles` neighbouring tiles from tile `first`: all of their positions. Brings the next
// tiles of K nearer, and V of these ones.
template <typename Kv, int M, int Tiles>
inline void score_tiles(const Segment& segment, const float* const (&queries)[M], int32_t first, int32_t tile_end,
                        float (&scores)[M][kSegmentTokens]) {
  // Dimensions of a K tile that share a cache line.
  constexpr int32_t kLineDims = kCacheLineBytes / (kBlockTokens * Kv::kBytes);
  constexpr int32_t kRow = kBlockTokens * Kv::kBytes;
  const float* q[M];
  for (int m = 0; m < M; ++m) q[m] = queries[m];
  __m256 sums[M][2 * Tiles];
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < 2 * Tiles; ++j) sums[m][j] = _mm256_setzero_ps();
  }
  alignas(32) float scales[Tiles][kBlockTokens];
  const std::byte* k[Tiles];
  const std::byte* ahead[2 * Tiles];
  for (int t = 0; t < Tiles; ++t) {
    k[t] = segment.k[first + t] + values_offset<Kv>(segment.head_dim);
    ahead[t] = segment.k[std::min(first + Tiles + t, tile_end - 1)] + values_offset<Kv>(segment.head_dim);
    ahead[Tiles + t] = segment.far ? segment.v[first + t] + values_offset<Kv>(segment.head_dim) : ahead[t];
  }
  const int32_t step = Kv::kScaled ? kKvQuantBlock : segment.head_dim;
  for (int32_t block = 0; block < segment.head_dim; block += step) {
    for (int t = 0; t < Tiles; ++t) load_scales<Kv>(segment.k[first + t], block, scales[t]);
    for (int32_t line = block; line < block + step; line += kLineDims) {
      for (const std::byte* tile : ahead) prefetch_line(tile + line * kRow);
      for (int32_t i = line; i < line + kLineDims; ++i) {
        add_products<M, 2 * Tiles>(
            [&](int m) { return _mm256_broadcast_ss(q[m] + i); },
            [&](int j) {
              const __m256 key = Kv::load8(k[j / 2] + i * kRow + j % 2 * 8 * Kv::kBytes);
              if constexpr (!Kv::kScaled) return key;
              return _mm256_mul_ps(key, _mm256_load_ps(scales[j / 2] + j % 2 * 8));
            },
            sums);
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < 2 * Tiles; ++j) _mm256_store_ps(&scores[m][first * kBlockTokens + 8 * j], sums[m][j]);
  }
}

// scores [begin, end) -> exp(score - max) in place; the rest of their vectors is overwritten. Writes max and sum.
inline void softmax(float* scores, int32_t begin, int32_t end, float* state) {
  const float infinity = std::numeric_limits<float>::infinity();
  if (begin >= end) {
    state[0] = -infinity;
    state[1] = 0;
    return;
  }
  const int32_t first = begin / 8 * 8;
  const int32_t padded = (end + 7) / 8 * 8;
  std::fill(scores + first, scores + begin, -infinity);
  std::fill(scores + end, scores + padded, -infinity);
  __m256 largest = _mm256_set1_ps(-infinity);
  for (int32_t i = first; i < padded; i += 8) largest = _mm256_max_ps(largest, _mm256_load_ps(scores + i));
  const float max = max8(largest);
  __m256 sum = _mm256_setzero_ps();
  for (int32_t i = first; i < padded; i += 8) {
    const __m256 weight = exp_below_one(_mm256_sub_ps(_mm256_load_ps(scores + i), _mm256_set1_ps(max)));
    _mm256_store_ps(scores + i, weight);
    sum = _mm256_add_ps(sum, weight);
  }
  state[0] = max;
  state[1] = sum8(sum);
}

// Positions that any of the queries sees, [begin, end), and those that all see, [all_begin, all_end).
struct Span {
  int32_t begin = kSegmentTokens;
  int32_t end = 0;
  int32_t all_begin = 0;
  int32_t all_end = kSegmentTokens;
};

// Weighted V of the dimensions [dim, dim + 8 * Width) -> states [M, softmax_floats(head_dim)].
template <typename Kv, int M, int Width>
inline void weigh(const Segment& segment, const Queries<M>& queries, const Span& span,
                  const float (&weights)[M][kSegmentTokens], int32_t dim, float* states) {
  __m256 sums[M][Width];
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < Width; ++j) sums[m][j] = _mm256_setzero_ps();
  }
  constexpr int32_t kRow = (Width == 1 ? 8 : kVColumnDims) * Kv::kBytes;  // of one token in a column
  constexpr int32_t kColumn = kBlockTokens * kVColumnDims * Kv::kBytes;   // from column to column
  const int64_t offset = values_offset<Kv>(segment.head_dim) + int64_t{dim / kVColumnDims} * kColumn;
  alignas(32) float scales[kBlockTokens];
  for (int32_t position = span.begin; position < span.end;) {
    const int32_t tile = position / kBlockTokens;
    const int32_t tile_begin = tile * kBlockTokens;
    const int32_t stop = std::min(span.end, tile_begin + kBlockTokens);
    load_scales<Kv>(segment.v[tile], dim, scales);
    const std::byte* v = segment.v[tile] + offset;
    const auto load = [&](int j) {
      const int32_t token = position - tile_begin;
      const __m256 value = Kv::load8(v + token * kRow + j / 2 * kColumn + j % 2 * 8 * Kv::kBytes);
      if constexpr (!Kv::kScaled) return value;
      return _mm256_mul_ps(value, _mm256_broadcast_ss(scales + token));
    };
    if (position >= span.all_begin && stop <= span.all_end) {
      // V is near since the scores; memory is free for what comes next.
      const std::byte* next = segment.next_k[tile] + offset;
      for (; position < stop; ++position) {
        prefetch_line(next + (position - tile_begin) * (kRow * std::max(1, Width / 2)));
        add_products<M, Width>([&](int m) { return _mm256_broadcast_ss(&weights[m][position]); }, load, sums);
      }
    } else {
      // A position that a query does not see is left out, not weighed by 0: it may hold an infinity or NaN.
      for (; position < stop; ++position) {
        __m256 values[Width];
        for (int j = 0; j < Width; ++j) values[j] = load(j);
        for (int m = 0; m < M; ++m) {
          if (position < queries.begin[m] || position >= queries.end[m]) continue;
          const __m256 weight = _mm256_broadcast_ss(&weights[m][position]);
          for (int j = 0; j < Width; ++j) sums[m][j] = _mm256_fmadd_ps(values[j], weight, sums[m][j]);
        }
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    float* out = states + m * softmax_floats(segment.head_dim) + kSoftmaxHeader + dim;
    for (int j = 0; j < Width; ++j) _mm256_storeu_ps(out + 8 * j, sums[m][j]);
  }
}

// states [M, softmax_floats(head_dim)]: the partial softmax of every query over what it sees of the segment.
template <typename Kv, int M>
void attend_queries(const Segment& segment, const Queries<M>& queries, float* states) {
  // With few queries, more vectors side by side keep both multipliers busy.
  constexpr int kTiles = M <= 3 ? 2 : 1;
  alignas(32) float scores[M][kSegmentTokens];
  Span span;
  for (int m = 0; m < M; ++m) {
    span.all_begin = std::max(span.all_begin, queries.begin[m]);
    span.all_end = std::min(span.all_end, queries.end[m]);
    if (queries.begin[m] >= queries.end[m]) continue;
    span.begin = std::min(span.begin, queries.begin[m]);
    span.end = std::max(span.end, queries.end[m]);
  }
  const int32_t tile_end = (span.end + kBlockTokens - 1) / kBlockTokens;
  int32_t tile = span.begin / kBlockTokens;
  for (; tile + kTiles <= tile_end; tile += kTiles) {
    score_tiles<Kv, M, kTiles>(segment, queries.q, tile, tile_end, scores);
  }
  for (; tile < tile_end; ++tile) score_tiles<Kv, M, 1>(segment, queries.q, tile, tile_end, scores);
  for (int m = 0; m < M; ++m) {
    softmax(scores[m], queries.begin[m], queries.end[m], states + m * softmax_floats(segment.head_dim));
  }
  int32_t dim = 0;
  if constexpr (M <= 3) {
    for (; dim + 32 <= segment.head_dim; dim += 32) weigh<Kv, M, 4>(segment, queries, span, scores, dim, states);
  }
  for (; dim + 16 <= segment.head_dim; dim += 16) weigh<Kv, M, 2>(segment, queries, span, scores, dim, states);
  if (dim < segment.head_dim) weigh<Kv, M, 1>(segment, queries, span, scores, dim, states);
}

}  // namespace penstock::avx2
