// Types and intrinsics that need no block: 16-bit floats against exact arithmetic, bits, packed integers, atomics.
#include <cstdint>
#include <random>

#include "device_array.h"

namespace simt_test {
namespace {

// The neighbour of a magnitude among the 16-bit numbers that is nearest to an exact value, ties to the even one.
template <class T>
uint16_t nearest(double value) {
  uint32_t best = 0;
  double distance = INFINITY;
  const uint16_t infinity = T(INFINITY).__x;
  for (uint32_t bits = 0; bits <= infinity; ++bits) {
    // Infinity stands where the next number would be.
    const T previous = T::from_bits(static_cast<uint16_t>(bits - 1)), before = T::from_bits(static_cast<uint16_t>(bits - 2));
    const double each = bits == infinity ? 2 * double{float(previous)} - double{float(before)}
                                         : double{float(T::from_bits(static_cast<uint16_t>(bits)))};
    const double away = std::fabs(each - std::fabs(value));
    if (away < distance || (away == distance && bits % 2 == 0)) best = bits, distance = away;
  }
  return static_cast<uint16_t>(best | (std::signbit(value) ? 0x8000u : 0u));
}

template <class T>
void expect_rounding() {
  std::mt19937 random(3);
  std::vector<double> values{0.0, -0.0, 65504.0, 65519.9, 65520.0, 1e-8, 2.9802322387695312e-8, 2.98023224e-8,
                             6.103515625e-5, 6.1e-5, 1.00048828125, 1.0009765625, 3.4e38, 1e-40};
  for (int i = 0; i < 60; ++i)
    values.push_back(std::ldexp(static_cast<double>(random()) / 4e9, static_cast<int>(random() % 44) - 26));
  for (const double value : values) {
    for (const double each : {value, -value}) {
      EXPECT_EQ(T(each).__x, nearest<T>(each)) << each;
      const float single = static_cast<float>(each);
      EXPECT_EQ(T(single).__x, nearest<T>(double{single})) << single;
    }
  }
}

TEST(Arithmetic, HalvesAreRoundedToTheNearest) { expect_rounding<__half>(); }
TEST(Arithmetic, Bfloat16AreRoundedToTheNearest) { expect_rounding<__nv_bfloat16>(); }

template <class T>
void expect_there_and_back() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const T value = T::from_bits(static_cast<uint16_t>(bits));
    const float wide = float(value);
    if (std::isnan(wide)) {
      EXPECT_EQ(T(wide).__x, 0x7FFF);
      EXPECT_TRUE(__hisnan(value));
    } else {
      EXPECT_EQ(T(wide).__x, bits);
    }
  }
}

TEST(Arithmetic, EveryHalfIsExactInF32) {
  expect_there_and_back<__half>();
  EXPECT_EQ(float(__ushort_as_half(0x0001)), std::ldexp(1.0f, -24));
  EXPECT_EQ(float(__ushort_as_half(0x7C00)), INFINITY);
}
TEST(Arithmetic, EveryBfloat16IsExactInF32) { expect_there_and_back<__nv_bfloat16>(); }

TEST(Arithmetic, AFusedMultiplyAddOfHalvesRoundsOnce) {
  const __half a(1.0f + 1.0f / 1024), c(-1.0f - 1.0f / 512);
  EXPECT_EQ(float(a * a + c), 0.0f);
  EXPECT_EQ(float(__hfma(a, a, c)), std::ldexp(1.0f, -20));
  const __half2 pair = __hfma2(__half2half2(a), __floats2half2_rn(2, 3), __float2half2_rn(1));
  EXPECT_EQ(__low2float(pair), 3.0f + 2.0f / 1024);
  EXPECT_EQ(float(__high2half(pair)), 4.0f + 4.0f / 1024);  // 4 + 3/1024 lies between two halves: to the even one
  EXPECT_EQ(float(__low2bfloat16(__floats2bfloat162_rn(1.5f, 2.0f))), 1.5f);
}

TEST(Arithmetic, PackedIntegersAndBits) {
  EXPECT_EQ(__dp4a(static_cast<int>(0x80FF027Fu), static_cast<int>(0x8001FE01u), 10), 16384 - 1 - 4 + 127 + 10);
  EXPECT_EQ(__dp4a(0x80FF027Fu, 0x8001FE01u, 10u), 16384u + 255u + 508u + 127u + 10u);
  EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x7250u), 0x77225500u);
  EXPECT_EQ(__byte_perm(0x00FF8001u, 0u, 0xA9D8u), 0xFFFF0000u);
  EXPECT_EQ(__vsubss4(0x7F800010u, 0x807F0001u), 0x7F80000Fu);
  EXPECT_EQ(__vsub4(0x00010203u, 0x01010101u), 0xFF000102u);
  EXPECT_EQ(__vcmpeq4(0x01020304u, 0x01FF03FFu), 0xFF00FF00u);
  EXPECT_EQ(__brev(0x00000001u), 0x80000000u);
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ(__ffs(0x10), 5);
  EXPECT_EQ(__clz(0), 32);
  EXPECT_EQ(__funnelshift_r(0x00000001u, 0x00000002u, 1), 0u);
  EXPECT_EQ(__funnelshift_l(0x80000000u, 0x00000001u, 1), 3u);
  EXPECT_EQ(__umulhi(0xFFFFFFFFu, 2), 1u);
  EXPECT_EQ(__umul64hi(~0ull, 4), 3u);
  EXPECT_EQ(__float2int_rn(2.5f), 2);
  EXPECT_EQ(__float2int_rz(-2.9f), -2);
  EXPECT_EQ(__float2int_rn(NAN), 0);
  EXPECT_EQ(__float2int_rn(1e20f), 2147483647);
  EXPECT_EQ(__saturatef(NAN), 0.0f);
  EXPECT_EQ(max(1, 2) + min(3u, 2u), 4u);
}

__global__ void atomics(int* ints, unsigned* words, unsigned long long* longs, float* floats, double* doubles, __half2* halves) {
  const int i = static_cast<int>(threadIdx.x);
  atomicAdd(&ints[0], i);
  atomicSub(&ints[1], 1);
  atomicMax(&ints[2], i - 5);
  atomicMin(&ints[3], i - 5);
  atomicExch(&ints[4], 7);
  while (atomicCAS(&ints[5], i, i + 1) != i) {
    if (i >= 0) break;  // in the forward order every thread finds its number
  }
  atomicOr(&words[0], 1u << i % 32);
  atomicAnd(&words[1], ~(1u << i % 32));
  atomicXor(&words[2], 1u << i % 7);
  atomicInc(&words[3], 9);
  atomicDec(&words[4], 9);
  atomicAdd(&longs[0], 1ull << 33);
  atomicMax(&longs[1], static_cast<unsigned long long>(i) << 40);
  atomicAdd(&floats[0], 0.5f);
  atomicAdd(&doubles[0], 0.25);
  atomicAdd(&halves[0], __floats2half2_rn(1.0f, -1.0f));
}

TEST(Arithmetic, AtomicsOfEveryType) {
  const DeviceArray<int> ints(std::vector<int>(6, 0));
  const DeviceArray<unsigned> words(std::vector<unsigned>{0, ~0u, 0, 0, 0});
  const DeviceArray<unsigned long long> longs(std::vector<unsigned long long>(2, 0));
  const DeviceArray<float> floats(std::vector<float>(1, 0));
  const DeviceArray<double> doubles(std::vector<double>(1, 0));
  const DeviceArray<__half2> halves(std::vector<__half2>(1, __floats2half2_rn(0, 0)));
  ASSERT_EQ(run(atomics, {1, 96}, ints.data(), words.data(), longs.data(), floats.data(), doubles.data(), halves.data()),
            cudaSuccess);
  EXPECT_EQ(ints.read(), (std::vector<int>{4560, -96, 90, -5, 7, 96}));
  EXPECT_EQ(words.read(), (std::vector<unsigned>{~0u, 0, 0x60, 6, 4}));
  EXPECT_EQ(longs.read(), (std::vector<unsigned long long>{96ull << 33, 95ull << 40}));
  EXPECT_EQ(floats.read()[0], 48.0f);
  EXPECT_EQ(doubles.read()[0], 24.0);
  EXPECT_EQ(__low2float(halves.read()[0]), 96.0f);
  EXPECT_EQ(__high2float(halves.read()[0]), -96.0f);
}

}  // namespace
}  // namespace simt_test
