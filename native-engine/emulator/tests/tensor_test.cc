// mma, ldmatrix and cp.async against scalar code written from the PTX ISA's tables, and their misuse.
#include <random>

#include "device_array.h"

namespace simt_test {
namespace {

// --- Products --------------------------------------------------------------------------------------------------------
// Fragments gathered element by element from a [16][K], b [K][8] in memory.
template <class T>
__global__ void product16(const T* a, const T* b, const float* c, float* d) {
  const uint32_t g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t fa[4], fb[2];
  float fc[4];
  const auto pair = [](T low, T high) { return uint32_t{low.__x} | uint32_t{high.__x} << 16; };
  for (uint32_t r = 0; r < 4; ++r) {
    const uint32_t row = g + 8 * (r & 1), k = 2 * t + 8 * (r / 2);
    fa[r] = pair(a[row * 16 + k], a[row * 16 + k + 1]);
  }
  for (uint32_t r = 0; r < 2; ++r) {
    const uint32_t k = 2 * t + 8 * r;
    fb[r] = pair(b[k * 8 + g], b[(k + 1) * 8 + g]);
  }
  for (uint32_t e = 0; e < 4; ++e) fc[e] = c[(g + 8 * (e / 2)) * 8 + 2 * t + e % 2];
  if constexpr (std::is_same_v<T, __half>) {
    simt::mma_f16(fc, fa, fb);
  } else {
    simt::mma_bf16(fc, fa, fb);
  }
  for (uint32_t e = 0; e < 4; ++e) d[(g + 8 * (e / 2)) * 8 + 2 * t + e % 2] = fc[e];
}

template <class T>
void expect_product16() {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-4.0f, 4.0f);
  std::vector<T> a(16 * 16), b(16 * 8);
  std::vector<float> c(16 * 8);
  for (T& v : a) v = T(uniform(random));
  for (T& v : b) v = T(uniform(random));
  for (float& v : c) v = uniform(random);
  a[37] = T(3000.0f);
  b[5] = T(1e-7f);  // subnormal as a half
  const auto result = simt::for_each_order([&] {
    const DeviceArray<T> da(a), db(b);
    const DeviceArray<float> dc(c), dd(16 * 8);
    EXPECT_EQ(run(product16<T>, {1, 32}, da.data(), db.data(), dc.data(), dd.data()), cudaSuccess);
    const std::vector<float> d = dd.read();
    for (size_t m = 0; m < 16; ++m) {
      for (size_t n = 0; n < 8; ++n) {
        double sum = c[m * 8 + n];
        for (size_t k = 0; k < 16; ++k) sum += double{float(a[m * 16 + k])} * double{float(b[k * 8 + n])};
        EXPECT_NEAR(d[m * 8 + n], sum, 1e-5 * (1 + std::fabs(sum))) << m << " " << n;
      }
    }
    return d;
  });
  EXPECT_TRUE(result) << result.message;
}

TEST(Tensor, ProductsOfHalvesAreThoseOfScalarCode) { expect_product16<__half>(); }
TEST(Tensor, ProductsOfBfloat16AreThoseOfScalarCode) { expect_product16<__nv_bfloat16>(); }

TEST(Tensor, AProductWithNotANumberStaysInItsRowAndColumn) {
  std::vector<__half> a(16 * 16, __half(1.0f)), b(16 * 8, __half(1.0f));
  a[3 * 16 + 2] = __ushort_as_half(0x7E00);
  b[4 * 8 + 6] = __ushort_as_half(0x7C00);
  const DeviceArray<__half> da(a), db(b);
  const DeviceArray<float> dc(std::vector<float>(128, 0.0f)), dd(128);
  ASSERT_EQ(run(product16<__half>, {1, 32}, da.data(), db.data(), dc.data(), dd.data()), cudaSuccess);
  const std::vector<float> d = dd.read();
  for (size_t i = 0; i < 128; ++i) {
    if (i / 8 == 3) {
      EXPECT_TRUE(std::isnan(d[i]));
    } else {
      EXPECT_EQ(d[i], i % 8 == 6 ? INFINITY : 16.0f);
    }
  }
}

template <uint32_t kK>
__global__ void product8(const int8_t* a, const int8_t* b, int* d) {
  const uint32_t g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto four = [](const int8_t* from, uint32_t stride) {
    uint32_t bits = 0;
    for (uint32_t i = 0; i < 4; ++i) bits |= uint32_t{static_cast<uint8_t>(from[i * stride])} << 8 * i;
    return bits;
  };
  int32_t c[4];
  for (uint32_t e = 0; e < 4; ++e) c[e] = d[(g + 8 * (e / 2)) * 8 + 2 * t + e % 2];
  if constexpr (kK == 32) {
    uint32_t fa[4], fb[2];
    for (uint32_t r = 0; r < 4; ++r) fa[r] = four(&a[(g + 8 * (r & 1)) * kK + 4 * t + 16 * (r / 2)], 1);
    for (uint32_t r = 0; r < 2; ++r) fb[r] = four(&b[(4 * t + 16 * r) * 8 + g], 8);
    simt::mma_s8_k32(c, fa, fb);
  } else {
    uint32_t fa[2];
    for (uint32_t r = 0; r < 2; ++r) fa[r] = four(&a[(g + 8 * r) * kK + 4 * t], 1);
    simt::mma_s8_k16(c, fa, four(&b[4 * t * 8 + g], 8));
  }
  for (uint32_t e = 0; e < 4; ++e) d[(g + 8 * (e / 2)) * 8 + 2 * t + e % 2] = c[e];
}

template <uint32_t kK>
void expect_product8() {
  std::mt19937 random(11);
  std::vector<int8_t> a(16 * kK), b(kK * 8);
  for (int8_t& v : a) v = static_cast<int8_t>(random());
  for (int8_t& v : b) v = static_cast<int8_t>(random());
  a[0] = a[1] = b[0] = b[8] = -128;
  std::vector<int> expected(128);
  for (size_t i = 0; i < 128; ++i) {
    expected[i] = static_cast<int>(i) - 50;
    for (size_t k = 0; k < kK; ++k) expected[i] += a[i / 8 * kK + k] * b[k * 8 + i % 8];
  }
  const auto result = simt::for_each_order([&] {
    std::vector<int> c(128);
    for (size_t i = 0; i < 128; ++i) c[i] = static_cast<int>(i) - 50;
    const DeviceArray<int8_t> da(a), db(b);
    const DeviceArray<int> d(c);
    EXPECT_EQ(run(product8<kK>, {1, 32}, da.data(), db.data(), d.data()), cudaSuccess);
    EXPECT_EQ(d.read(), expected);
    return d.read();
  });
  EXPECT_TRUE(result) << result.message;
}

TEST(Tensor, IntegerProductsOf32AreExact) { expect_product8<32>(); }
TEST(Tensor, IntegerProductsOf16AreExact) { expect_product8<16>(); }

// --- ldmatrix --------------------------------------------------------------------------------------------------------
template <int kCount, bool kTranspose>
__global__ void load_matrices(uint16_t* out) {
  SIMT_SHARED(uint16_t, rows, [32][24]);  // rows 48 bytes apart
  for (uint16_t i = 0; i < 8; ++i) rows[threadIdx.x][i] = static_cast<uint16_t>(threadIdx.x * 8 + i);
  __syncwarp();
  uint32_t r[4] = {0, 0, 0, 0};
  simt::ldmatrix(r, kCount, rows[threadIdx.x], kTranspose);
  for (uint32_t j = 0; j < kCount; ++j) {
    out[(threadIdx.x * 4 + j) * 2] = static_cast<uint16_t>(r[j]);
    out[(threadIdx.x * 4 + j) * 2 + 1] = static_cast<uint16_t>(r[j] >> 16);
  }
}

template <int kCount, bool kTranspose>
void expect_load() {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<uint16_t> out(std::vector<uint16_t>(256, 0));
    EXPECT_EQ(run(load_matrices<kCount, kTranspose>, {1, 32}, out.data()), cudaSuccess);
    const std::vector<uint16_t> got = out.read();
    for (size_t lane = 0; lane < 32; ++lane) {
      for (size_t j = 0; j < kCount; ++j) {
        for (size_t part = 0; part < 2; ++part) {
          const size_t row = kTranspose ? 2 * (lane % 4) + part : lane / 4;
          const size_t column = kTranspose ? lane / 4 : 2 * (lane % 4) + part;
          EXPECT_EQ(got[(lane * 4 + j) * 2 + part], (8 * j + row) * 8 + column);
        }
      }
    }
    return got;
  });
  EXPECT_TRUE(result) << result.message;
}

TEST(Tensor, LdmatrixGivesEveryLaneItsElements) {
  expect_load<1, false>();
  expect_load<2, false>();
  expect_load<4, false>();
  expect_load<1, true>();
  expect_load<2, true>();
  expect_load<4, true>();
}

// --- cp.async --------------------------------------------------------------------------------------------------------
// Four groups of one row each; reads the rows that a wait for all but `pending` groups has brought.
__global__ void copy_groups(const uint4* x, uint4* y, int pending, bool last_valid) {
  SIMT_SHARED(uint4, rows, [4][32]);
  for (int group = 0; group < 4; ++group) {
    simt::cp_async(&rows[group][threadIdx.x], x + group * 32 + static_cast<int>(threadIdx.x), 16, group < 3 || last_valid);
    simt::cp_async_commit();
  }
  simt::cp_async_wait(pending);
  __syncthreads();
  for (int group = 0; group < 4; ++group)
    y[group * 32 + static_cast<int>(threadIdx.x)] = rows[group][(threadIdx.x + 1) % 32];
}

TEST(Tensor, AsynchronousCopiesAreThereAfterTheWaitForTheirGroupAndNotBefore) {
  std::vector<uint4> x(128);
  for (unsigned i = 0; i < 128; ++i) x[i] = make_uint4(i, i + 1, i + 2, i + 3);
  for (int pending = 0; pending <= 4; ++pending) {
    const auto result = simt::for_each_order([&] {
      const DeviceArray<uint4> in(x), out(128);
      EXPECT_EQ(run(copy_groups, {1, 32}, in.data(), out.data(), pending, pending != 0), cudaSuccess);
      const std::vector<uint4> y = out.read();
      for (unsigned i = 0; i < 128; ++i) {
        const unsigned group = i / 32, expected = group * 32 + (i % 32 + 1) % 32;
        if (static_cast<int>(group) < 4 - pending) {
          EXPECT_EQ(y[i].x, group == 3 ? 0u : expected);  // zeros where it was not valid
          EXPECT_EQ(y[i].w, group == 3 ? 0u : expected + 3);
        } else {
          EXPECT_EQ(y[i].x, 0xFFFFFFFFu);
        }
      }
      return y;
    });
    EXPECT_TRUE(result) << result.message;
  }
}

// A thread's 4, 8 and 16 bytes beside each other.
__global__ void copy_pieces(const uint32_t* x, uint32_t* y) {
  SIMT_SHARED(uint4, rows, [2][32]);
  auto* to = reinterpret_cast<std::byte*>(&rows[0][threadIdx.x]);
  const uint32_t* from = x + 8 * threadIdx.x;
  simt::cp_async(to, from, 8, true);
  simt::cp_async(to + 8, from + 2, 4, true);
  simt::cp_async(to + 12, from, 4, false);
  simt::cp_async(&rows[1][threadIdx.x], from + 4, 16, true);
  simt::cp_async_commit();
  simt::cp_async_wait(0);
  const auto* words = reinterpret_cast<const uint32_t*>(&rows[0][threadIdx.x]);
  for (int i = 0; i < 4; ++i) y[8 * threadIdx.x + static_cast<unsigned>(i)] = words[i];
  const auto* behind = reinterpret_cast<const uint32_t*>(&rows[1][threadIdx.x]);
  for (int i = 0; i < 4; ++i) y[8 * threadIdx.x + static_cast<unsigned>(i) + 4] = behind[i];
}

TEST(Tensor, AsynchronousCopiesOfFourAndEightBytesTouchNoMore) {
  std::vector<uint32_t> x(256);
  for (unsigned i = 0; i < 256; ++i) x[i] = 1000 + i;
  const auto result = simt::for_each_order([&] {
    const DeviceArray<uint32_t> in(x), out(256);
    EXPECT_EQ(run(copy_pieces, {1, 32}, in.data(), out.data()), cudaSuccess);
    const std::vector<uint32_t> y = out.read();
    for (unsigned i = 0; i < 256; ++i) EXPECT_EQ(y[i], i % 8 == 3 ? 0u : 1000 + i);
    return y;
  });
  EXPECT_TRUE(result) << result.message;
}

__global__ void copy_without_barrier(const uint4* x, uint4* y) {
  SIMT_SHARED(uint4, rows, [64]);
  simt::cp_async(&rows[threadIdx.x], x + threadIdx.x, 16, true);
  simt::cp_async_commit();
  simt::cp_async_wait(0);  // of this thread's copies alone
  y[threadIdx.x] = rows[63 - threadIdx.x];
}

TEST(TensorBugs, AWaitIsNoBarrierForOthersCopies) {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<uint4> in(std::vector<uint4>(64, make_uint4(1, 2, 3, 4))), out(64);
    EXPECT_EQ(run(copy_without_barrier, {1, 64}, in.data(), out.data()), cudaSuccess);
    return out.read();
  });
  EXPECT_FALSE(result);
}

// --- Planted bugs ----------------------------------------------------------------------------------------------------
__global__ void copy_at(const std::byte* x, int source, int target, int bytes) {
  SIMT_SHARED(uint4, rows, [4]);
  simt::cp_async(reinterpret_cast<std::byte*>(rows) + target, x + source, bytes, true);
}
__global__ void load_at(int offset) {
  SIMT_SHARED(uint4, rows, [8]);
  rows[threadIdx.x % 8] = uint4{};
  __syncwarp();
  uint32_t r[1];
  simt::ldmatrix(r, 1, reinterpret_cast<std::byte*>(rows) + 16 * (threadIdx.x % 8) + offset, false);
}
__global__ void load_from_global(const uint4* x) {
  uint32_t r[1];
  simt::ldmatrix(r, 1, x + threadIdx.x % 8, false);
}
__global__ void product_of_half_a_warp() {
  if (threadIdx.x >= 16) return;
  float c[4] = {0, 0, 0, 0};
  const uint32_t a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
  simt::mma_f16(c, a, b);
}

using TensorDeathTest = testing::Test;

TEST(TensorDeathTest, AsynchronousCopiesAreAlignedAndWithinBounds) {
  const DeviceArray<std::byte> x(64);
  EXPECT_DEATH(run(copy_at, {1, 1}, x.data(), 8, 0, 16), "simt: misaligned access: cp.async");
  EXPECT_DEATH(run(copy_at, {1, 1}, x.data(), 0, 4, 16), "simt: misaligned access: cp.async");
  EXPECT_DEATH(run(copy_at, {1, 1}, x.data(), 4, 0, 8), "simt: misaligned access: cp.async");
  EXPECT_DEATH(run(copy_at, {1, 1}, x.data(), 0, 2, 4), "simt: misaligned access: cp.async");
  EXPECT_DEATH(run(copy_at, {1, 1}, x.data(), 60, 0, 8), "simt: ");
  EXPECT_DEATH(run(copy_at, {1, 1}, x.data(), 64, 0, 16), "simt: device memory out of bounds: cp.async");
  EXPECT_DEATH(run(copy_at, {1, 1}, x.data(), 0, 64, 16), "simt: shared memory out of bounds: cp.async");
}
TEST(TensorDeathTest, RowsOfLdmatrixAreAlignedAndInSharedMemory) {
  EXPECT_EQ(run(load_at, {1, 32}, 0), cudaSuccess);
  EXPECT_DEATH(run(load_at, {1, 32}, 2), "simt: misaligned access: ldmatrix: the row of lane 0");
  EXPECT_DEATH(run(load_at, {1, 32}, 16), "simt: shared memory out of bounds: ldmatrix: the row of lane 7");
  const DeviceArray<uint4> x(8);
  EXPECT_DEATH(run(load_from_global, {1, 32}, x.data()), "simt: shared memory out of bounds: ldmatrix: the row of lane 0");
}
TEST(TensorDeathTest, AProductTakesAWholeWarp) {
  EXPECT_DEATH(run(product_of_half_a_warp, {1, 32}), "simt: wrong mask: mma takes a whole warp, here lanes 0000ffff");
}

}  // namespace
}  // namespace simt_test
