// Multiply-adds from registers, for measure_mac_rate. Owns the two loops; they compute nothing that anybody wants.
#include <immintrin.h>

#include "ops/arithmetic.h"

namespace penstock {

namespace {

// Independent sums: more than the product of latency and units of any processor with AVX2, so that those are the limit.
constexpr int kSums = 12;
constexpr int64_t kRounds = 40'000;

// Makes the compiler believe that the register changes: it can neither hoist the work nor leave it out.
template <typename Register>
inline void touch(Register& value) {
  asm volatile("" : "+x"(value));
}

uint64_t burst_f32() {
  __m256 a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(1e-3f);
  __m256 sums[kSums];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for (int64_t round = 0; round < kRounds; ++round) {
    touch(a);
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = _mm256_fmadd_ps(a, b, sums[i]);
  }
  for (__m256& sum : sums) touch(sum);
  return static_cast<uint64_t>(kRounds) * kSums * 8;
}

// As the products of quantised weights go: pairs to 16 bits, those to 32, and added up.
uint64_t burst_int8() {
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[kSums];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      touch(a);
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  }
  for (__m256i& sum : sums) touch(sum);
  return static_cast<uint64_t>(kRounds) * kSums * 32;
}

}  // namespace

uint64_t mac_burst_avx2(MacType type) {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  return type == MacType::int8 ? burst_int8() : burst_f32();
}

}  // namespace penstock
