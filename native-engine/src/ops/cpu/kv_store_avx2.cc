// Writing one token's K and V into the tiles of the cache. The layout is kv/cache.h; the bytes equal the reference's.
#if defined(__x86_64__)
#include <algorithm>

#include "ops/cpu/kernels_avx2.h"
#include "ops/cpu/simd_avx2.h"
#include "ops/kv_quant.h"

namespace penstock::avx2 {

namespace {

// Where the eight values of dimensions [dim, dim + 8) of a token begin in a V tile, counted in values.
int64_t v_at(int32_t head_dim, int32_t token, int32_t dim) {
  const int32_t column = dim / kVColumnDims * kVColumnDims;
  return int64_t{column} * kBlockTokens + token * std::min(kVColumnDims, head_dim - column) + (dim - column);
}

// x [kKvQuantBlock] -> q [kKvQuantBlock]; returns the scale in f16.
uint16_t quantize_block(const float* x, int8_t* q) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < kKvQuantBlock; i += 8) {
    largest = _mm256_max_epu32(largest, _mm256_and_si256(magnitude, _mm256_castps_si256(_mm256_loadu_ps(x + i))));
  }
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  const uint16_t scale = kv_scale(*std::max_element(lanes, lanes + 8));
  const float d = half_to_float(scale);
  if (!(d > 0)) {
    std::memset(q, 0, kKvQuantBlock);
    return scale;
  }
  const __m256 divisor = _mm256_set1_ps(d);
  for (int i = 0; i < kKvQuantBlock; i += 8) {
    const __m256 ratio = _mm256_div_ps(_mm256_loadu_ps(x + i), divisor);
    const __m256 bounded = _mm256_min_ps(_mm256_set1_ps(127), _mm256_max_ps(_mm256_set1_ps(-127), ratio));
    const __m256i whole = _mm256_cvtps_epi32(bounded);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), _mm_packs_epi16(words, words));
  }
  return scale;
}

void store_q8(int32_t head_dim, int32_t token, const float* k, const float* v, std::byte* k_tile, std::byte* v_tile) {
  const int64_t values = int64_t{2} * kBlockTokens * (head_dim / kKvQuantBlock);
  for (int32_t dim = 0; dim < head_dim; dim += kKvQuantBlock) {
    const int64_t scale_at = int64_t{2} * (dim / kKvQuantBlock * kBlockTokens + token);
    int8_t q[kKvQuantBlock];
    const uint16_t k_scale = quantize_block(k + dim, q);
    std::memcpy(k_tile + scale_at, &k_scale, sizeof k_scale);
    std::byte* out = k_tile + values + int64_t{dim} * kBlockTokens + token;
    for (int32_t i = 0; i < kKvQuantBlock; ++i) out[i * kBlockTokens] = static_cast<std::byte>(q[i]);
    const uint16_t v_scale = quantize_block(v + dim, q);
    std::memcpy(v_tile + scale_at, &v_scale, sizeof v_scale);
    for (int32_t i = 0; i < kKvQuantBlock; i += kVColumnDims) {
      std::memcpy(v_tile + values + v_at(head_dim, token, dim + i), q + i, kVColumnDims);
    }
  }
}

}  // namespace

void store_kv(KvType type, int32_t head_dim, int32_t token, const float* k, const float* v, std::byte* k_tile,
              std::byte* v_tile) {
  if (type == KvType::q8_0) return store_q8(head_dim, token, k, v, k_tile, v_tile);
  for (int32_t i = 0; i < head_dim; i += 8) {
    const __m256 key = _mm256_loadu_ps(k + i);
    const __m256 value = _mm256_loadu_ps(v + i);
    const int64_t k_at = int64_t{i} * kBlockTokens + token;
    if (type == KvType::f16) {
      uint16_t halves[8];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(halves), _mm256_cvtps_ph(key, _MM_FROUND_TO_NEAREST_INT));
      for (int32_t j = 0; j < 8; ++j) std::memcpy(k_tile + (k_at + j * kBlockTokens) * 2, halves + j, 2);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(v_tile + v_at(head_dim, token, i) * 2),
                       _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
    } else {
      for (int32_t j = 0; j < 8; ++j) std::memcpy(k_tile + (k_at + j * kBlockTokens) * 4, k + i + j, 4);
      _mm256_storeu_ps(reinterpret_cast<float*>(v_tile + v_at(head_dim, token, i) * 4), value);
    }
  }
}

}  // namespace penstock::avx2
#endif
