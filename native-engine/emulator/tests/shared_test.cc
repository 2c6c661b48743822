// Shared memory: what a block finds in it, its ends and its limits.
#include "device_array.h"

namespace simt_test {
namespace {
constexpr size_t kKilo = 1024;

// --- Right kernels ---------------------------------------------------------------------------------------------------
__global__ void transpose(const float* x, float* y) {
  SIMT_SHARED(float, tile, [32][33]);
  for (unsigned row = threadIdx.y; row < 32; row += blockDim.y) tile[row][threadIdx.x] = x[row * 32 + threadIdx.x];
  __syncthreads();
  for (unsigned row = threadIdx.y; row < 32; row += blockDim.y) y[row * 32 + threadIdx.x] = tile[threadIdx.x][row];
}

TEST(Shared, StaticArraysHaveTheirDimensions) {
  std::vector<float> x(1024);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  const auto result = simt::for_each_order([&] {
    const DeviceArray<float> in(x), out(1024);
    EXPECT_EQ(run(transpose, {1, dim3(32, 8)}, in.data(), out.data()), cudaSuccess);
    const std::vector<float> y = out.read();
    for (size_t i = 0; i < 1024; ++i) EXPECT_EQ(y[i], x[i % 32 * 32 + i / 32]);
    return y;
  });
  EXPECT_TRUE(result) << result.message;
}

template <int kCount>
__global__ void templated(int* out) {
  SIMT_SHARED(int, first, [kCount]);
  SIMT_SHARED(double, second, [3]);
  SIMT_SHARED(int, single, );
  int* const dynamic = static_cast<int*>(simt::dynamic_shared());
  first[kCount - 1] = 1;
  second[2] = 2.0;
  single = 3;
  dynamic[5] = 4;
  *out = first[kCount - 1] + static_cast<int>(second[2]) + single + dynamic[5];
  const uintptr_t bits = reinterpret_cast<uintptr_t>(first) | reinterpret_cast<uintptr_t>(second) |
                         reinterpret_cast<uintptr_t>(&single) | reinterpret_cast<uintptr_t>(dynamic);
  if (bits % 16 != 0) *out = -1;
}

TEST(Shared, StaticAndDynamicPiecesLieApartAndAligned) {
  const DeviceArray<int> out(1);
  ASSERT_EQ(run(templated<7>, {2, 1, 24}, out.data()), cudaSuccess);
  EXPECT_EQ(out.read()[0], 10);
  ASSERT_EQ(run(templated<100>, {2, 1, 25}, out.data()), cudaSuccess);
  EXPECT_EQ(out.read()[0], 10);
}

__global__ void read_first(uint32_t* out) {
  SIMT_SHARED(uint32_t, values, [8]);
  uint32_t* const dynamic = static_cast<uint32_t*>(simt::dynamic_shared());
  out[2 * blockIdx.x] = values[threadIdx.x];
  out[2 * blockIdx.x + 1] = dynamic[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = dynamic[threadIdx.x] = 5;
}

TEST(SharedBugs, UninitialisedSharedMemoryIsNotANumberInEveryBlock) {
  const DeviceArray<uint32_t> out(8);
  for (int launch = 0; launch < 2; ++launch) {
    ASSERT_EQ(run(read_first, {4, 8, 32}, out.data()), cudaSuccess);
    EXPECT_EQ(out.read(), std::vector<uint32_t>(8, 0xFFFFFFFFu));
  }
}

// --- Planted bugs ----------------------------------------------------------------------------------------------------
__global__ void index_static(float* out, int index) {
  SIMT_SHARED(float, tile, [4][33]);
  tile[1][index] = 1.0f;
  *out = tile[1][0];
}
__global__ void pointer_beyond_static(float* out, int index) {
  SIMT_SHARED(float, tile, [8]);
  float* const all = tile;
  all[index] = 1.0f;
  *out = all[0];
}
__global__ void dynamic_at(float* out, int index) {
  float* const all = static_cast<float*>(simt::dynamic_shared());
  all[index] = 1.0f;
  *out = all[index];
}
__global__ void static_limit() {
  SIMT_SHARED(float, first, [6 * 1024]);
  SIMT_SHARED(float, second, [6 * 1024 + 1]);
  first[0] = second[0] = 1;
}
__global__ void static_and_dynamic() {
  SIMT_SHARED(float, first, [6 * 1024]);
  first[0] = 1;
}
__global__ void dynamic_only() {}

using SharedDeathTest = testing::Test;

TEST(SharedDeathTest, AnIndexBeyondAnInnerDimensionIsFound) {
  const DeviceArray<float> out(1);
  EXPECT_EQ(run(index_static, {1, 1}, out.data(), 32), cudaSuccess);
  EXPECT_DEATH(run(index_static, {1, 1}, out.data(), 33), "out of bounds");
  EXPECT_DEATH(run(index_static, {1, 1}, out.data(), -1), "out of bounds");
}
TEST(SharedDeathTest, AWriteBesideAStaticArrayIsFound) {
  const DeviceArray<float> out(1);
  EXPECT_EQ(run(pointer_beyond_static, {1, 1}, out.data(), 7), cudaSuccess);
  EXPECT_DEATH(run(pointer_beyond_static, {1, 1}, out.data(), 8), "(has written at offset 32 of shared array tile|poison)");
  EXPECT_DEATH(run(pointer_beyond_static, {1, 1}, out.data(), -1), "(shared memory out of bounds|poison)");
}
TEST(SharedDeathTest, AnAccessBesideTheDynamicPieceIsFound) {
  const DeviceArray<float> out(1);
  EXPECT_EQ(run(dynamic_at, {1, 1, 32}, out.data(), 7), cudaSuccess);
  EXPECT_DEATH(run(dynamic_at, {1, 1, 32}, out.data(), 8),
               "(shared memory out of bounds: offset 32 of shared array \\(dynamic\\); at .*dynamic_at|poison)");
  EXPECT_DEATH(run(dynamic_at, {1, 1, 20}, out.data(), 5), "(at offset 20 of shared array \\(dynamic\\)|poison)");
  EXPECT_DEATH(run(dynamic_at, {1, 1, 32}, out.data(), -2), "(at offset -8 of shared array|poison)");
}
TEST(SharedDeathTest, StaticArraysHaveALimit) {
  EXPECT_DEATH(run(static_limit, {1, 1}), "simt: too much shared memory: with second .*declares 49156 bytes");
}

TEST(SharedDeathTest, TheDevicesLimitIsForStaticAndDynamicTogether) {
  EXPECT_EQ(run(static_and_dynamic, {1, 1, 24 * kKilo}), cudaSuccess);
  EXPECT_DEATH(run(static_and_dynamic, {1, 1, 24 * kKilo + 16}), "simt: too much shared memory: 24576 bytes of shared arrays");
  ASSERT_EQ(cudaFuncSetAttribute(static_and_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 99 * kKilo), cudaSuccess);
  EXPECT_EQ(run(static_and_dynamic, {1, 1, 75 * kKilo}), cudaSuccess);
  EXPECT_DEATH(run(static_and_dynamic, {1, 1, 75 * kKilo + 16}), "simt: too much shared memory");
}

TEST(Shared, MoreThan48KbIsAskedForAndEachDeviceHasItsLimit) {
  for (const auto& [capability, limit] : std::vector<std::pair<int, size_t>>{
           {80, 163 * kKilo}, {86, 99 * kKilo}, {89, 99 * kKilo}, {90, 227 * kKilo}, {100, 227 * kKilo}, {120, 99 * kKilo}}) {
    simt::set_devices({capability});
    int stated = 0;
    EXPECT_EQ(cudaDeviceGetAttribute(&stated, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), cudaSuccess);
    EXPECT_EQ(static_cast<size_t>(stated), limit);
    EXPECT_EQ(cudaFuncSetAttribute(dynamic_only, cudaFuncAttributeMaxDynamicSharedMemorySize, 0), cudaSuccess);
    EXPECT_EQ(run(dynamic_only, {1, 1, 48 * kKilo}), cudaSuccess);
    EXPECT_EQ(run(dynamic_only, {1, 1, 48 * kKilo + 1}), cudaErrorInvalidValue);
    EXPECT_EQ(cudaFuncSetAttribute(dynamic_only, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(limit) + 1),
              cudaErrorInvalidValue);
    EXPECT_EQ(cudaFuncSetAttribute(dynamic_only, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(limit)),
              cudaSuccess);
    EXPECT_EQ(run(dynamic_only, {1, 1, limit}), cudaSuccess);
    EXPECT_EQ(run(dynamic_only, {1, 1, limit + 1}), cudaErrorInvalidValue);
  }
  simt::set_devices({86});
}

}  // namespace
}  // namespace simt_test
