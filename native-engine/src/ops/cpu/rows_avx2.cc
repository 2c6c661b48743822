// Row-wise operations with AVX2: norm, activation quantiser, rotary embedding, SwiGLU, residual addition.
#if defined(__x86_64__)
#include <cmath>
#include <limits>

#include "ops/cpu/kernels_avx2.h"
#include "ops/cpu/simd_avx2.h"

namespace penstock::avx2 {

void rms_norm(const float* x, const float* weight, int32_t n, float eps, float* out) {
  __m256 squares = _mm256_setzero_ps();
  int32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    squares = _mm256_fmadd_ps(v, v, squares);
  }
  const __m256i tail = lanes_below(n - i);
  if (i < n) {
    const __m256 v = _mm256_maskload_ps(x + i, tail);
    squares = _mm256_fmadd_ps(v, v, squares);
  }
  const float scale = 1.0f / std::sqrt(sum8(squares) / static_cast<float>(n) + eps);
  const __m256 scales = _mm256_set1_ps(scale);
  for (i = 0; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i,
                     _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), scales), _mm256_loadu_ps(weight + i)));
  }
  for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

void quantize(const float* x, int32_t n, int8_t* q, float* d, float* s) {
  const __m256i magnitude_bits = _mm256_set1_epi32(0x7FFFFFFF);
  const __m256 limit = _mm256_set1_ps(127.0f);
  for (int32_t b = 0; b < n / kQuantBlock; ++b, x += kQuantBlock, q += kQuantBlock) {
    __m256 values[4];
    __m256i largest = _mm256_setzero_si256();
    for (int32_t i = 0; i < 4; ++i) {
      values[i] = _mm256_loadu_ps(x + 8 * i);
      // Magnitudes compared as integers keep NaN and infinity above every finite value.
      largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(values[i]), magnitude_bits));
    }
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1));
    if (_mm_cvtsi128_si32(half) >= 0x7F800000) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_setzero_si256());
      d[b] = s[b] = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    const float scale = _mm_cvtss_f32(_mm_castsi128_ps(half)) / 127.0f;
    const __m256 scales = _mm256_set1_ps(scale);
    const __m256 live = _mm256_cmp_ps(scales, _mm256_setzero_ps(), _CMP_NEQ_OQ);
    __m256i integers[4];
    for (int32_t i = 0; i < 4; ++i) {
      const __m256 ratio = _mm256_and_ps(live, _mm256_div_ps(values[i], scales));
      const __m256 bounded = _mm256_max_ps(_mm256_min_ps(ratio, limit), _mm256_sub_ps(_mm256_setzero_ps(), limit));
      integers[i] = _mm256_cvtps_epi32(bounded);  // ties to even
    }
    const __m256i low = _mm256_packs_epi32(integers[0], integers[1]);
    const __m256i high = _mm256_packs_epi32(integers[2], integers[3]);
    // The packs work within 128-bit halves; this brings the 4-byte groups back into order.
    const __m256i bytes =
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
    __m256i sums =
        _mm256_add_epi32(_mm256_add_epi32(integers[0], integers[1]), _mm256_add_epi32(integers[2], integers[3]));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1));
    d[b] = scale;
    s[b] = scale * static_cast<float>(_mm_cvtsi128_si32(sum));
  }
}

namespace {

// Pairs (2i, 2i + 1) of one head.
void turn_interleaved(float* x, const float* cos_sin, int32_t rope_dims) {
  int32_t i = 0;
  for (; i + 8 <= rope_dims; i += 8) {
    const __m256 turn = _mm256_loadu_ps(cos_sin + i);
    const __m256 v = _mm256_loadu_ps(x + i);
    const __m256 swapped = _mm256_permute_ps(v, 0xB1);
    _mm256_storeu_ps(x + i, _mm256_addsub_ps(_mm256_mul_ps(v, _mm256_moveldup_ps(turn)),
                                             _mm256_mul_ps(swapped, _mm256_movehdup_ps(turn))));
  }
  for (; i < rope_dims; i += 2) {
    const float even = x[i];
    const float odd = x[i + 1];
    x[i] = even * cos_sin[i] - odd * cos_sin[i + 1];
    x[i + 1] = odd * cos_sin[i] + even * cos_sin[i + 1];
  }
}

// Pairs (i, i + rope_dims / 2) of one head.
void turn_halves(float* x, const float* cos_sin, int32_t rope_dims) {
  const int32_t half = rope_dims / 2;
  int32_t i = 0;
  for (; i + 8 <= half; i += 8) {
    // low = c0 s0 c1 s1 c4 s4 c5 s5, high = c2 s2 c3 s3 c6 s6 c7 s7, so both shuffles come out in order.
    const __m256 t0 = _mm256_loadu_ps(cos_sin + 2 * i);
    const __m256 t1 = _mm256_loadu_ps(cos_sin + 2 * i + 8);
    const __m256 low = _mm256_permute2f128_ps(t0, t1, 0x20);
    const __m256 high = _mm256_permute2f128_ps(t0, t1, 0x31);
    const __m256 cosine = _mm256_shuffle_ps(low, high, 0x88);
    const __m256 sine = _mm256_shuffle_ps(low, high, 0xDD);
    const __m256 first = _mm256_loadu_ps(x + i);
    const __m256 second = _mm256_loadu_ps(x + half + i);
    _mm256_storeu_ps(x + i, _mm256_sub_ps(_mm256_mul_ps(first, cosine), _mm256_mul_ps(second, sine)));
    _mm256_storeu_ps(x + half + i, _mm256_add_ps(_mm256_mul_ps(second, cosine), _mm256_mul_ps(first, sine)));
  }
  for (; i < half; ++i) {
    const float first = x[i];
    const float second = x[half + i];
    x[i] = first * cos_sin[2 * i] - second * cos_sin[2 * i + 1];
    x[half + i] = second * cos_sin[2 * i] + first * cos_sin[2 * i + 1];
  }
}

}  // namespace

void rope(RopePairs pairs, float* x, const float* cos_sin, int32_t heads, int32_t head_dim, int32_t rope_dims) {
  for (int32_t head = 0; head < heads; ++head, x += head_dim) {
    if (pairs == RopePairs::interleaved) {
      turn_interleaved(x, cos_sin, rope_dims);
    } else {
      turn_halves(x, cos_sin, rope_dims);
    }
  }
}

namespace {

__m256 swiglu8(__m256 gate, __m256 up) {
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 divisor = _mm256_add_ps(one, exp8(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
  return _mm256_mul_ps(_mm256_div_ps(gate, divisor), up);
}

}  // namespace

void swiglu(const float* gate, const float* up, int32_t n, float* out) {
  int32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, swiglu8(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
  }
  if (i < n) {
    const __m256i tail = lanes_below(n - i);
    _mm256_maskstore_ps(out + i, tail, swiglu8(_mm256_maskload_ps(gate + i, tail), _mm256_maskload_ps(up + i, tail)));
  }
}

void add(float* x, const float* y, int32_t n) {
  int32_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
  for (; i < n; ++i) x[i] += y[i];
}

}  // namespace penstock::avx2
#endif
