// Device memory: who may touch it, its ends, copies, and other processes.
#include <sys/wait.h>
#include <unistd.h>

#include <numeric>

#include "device_array.h"

namespace simt_test {
namespace {
__global__ void read_at(const float* x, long at, float* out) { *out = x[at]; }
struct Pointers {
  int32_t count;
  float* first;
  float* second;
};
__global__ void read_struct(Pointers pointers) { pointers.first[0] = static_cast<float>(pointers.count); }
__global__ void write_at(float* x, long at) { x[at] = 2.0f; }
__global__ void load_four(const float* x, float4* out) { *out = *reinterpret_cast<const float4*>(x); }
__global__ void store_four(float* x) { *reinterpret_cast<float4*>(x) = make_float4(1, 2, 3, 4); }
__global__ void add_one(int* x, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] += 1;
}

TEST(Memory, CopiesGoThereAndBackWithinAnAllocation) {
  std::vector<int> values(1000);
  std::iota(values.begin(), values.end(), 0);
  const DeviceArray<int> x(values), y(1000);
  EXPECT_EQ(x.read(), values);
  EXPECT_EQ(cudaMemcpy(y + 10, x + 20, 50 * sizeof(int), cudaMemcpyDeviceToDevice), cudaSuccess);
  EXPECT_EQ(y.read()[10], 20);
  EXPECT_EQ(y.read()[60], -1);  // 0xFF, as new memory is
  EXPECT_EQ(cudaMemset(y + 10, 1, 4), cudaSuccess);
  EXPECT_EQ(y.read()[10], 0x01010101);
  EXPECT_EQ(cudaMemcpy2DAsync(y.data(), 8, x.data(), 40, 8, 3, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(y.read()[5], 21);
}

TEST(Memory, PointersAreAlignedTo256Bytes) {
  for (const size_t bytes : {1u, 255u, 256u, 4096u, 5000u}) {
    void* pointer = nullptr;
    ASSERT_EQ(cudaMalloc(&pointer, bytes), cudaSuccess);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pointer) % 256, 0u);
    EXPECT_EQ(cudaFree(pointer), cudaSuccess);
  }
}

TEST(Memory, CopiesThatLeaveTheirAllocationOrGoTheOtherWayAreRefused) {
  std::vector<int> host(64);
  const DeviceArray<int> x(16);
  EXPECT_EQ(cudaMemcpy(x.data(), host.data(), 65, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), x + 1, 64, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(x - 1, host.data(), 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), x.data(), 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(x.data(), nullptr, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(x + 15, 0, 5), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(host.data(), 0, 4), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(Memory, WhatWasNotAllocatedCannotBeFreed) {
  int host = 0;
  const DeviceArray<int> x(16);
  EXPECT_EQ(cudaFree(&host), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(x + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(x.data()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
  void* pointer = nullptr;
  ASSERT_EQ(cudaMalloc(&pointer, 8), cudaSuccess);
  EXPECT_EQ(cudaFree(pointer), cudaSuccess);
  EXPECT_EQ(cudaFree(pointer), cudaErrorInvalidValue);
}

TEST(Memory, PinnedMemoryIsForTheHostAndForKernels) {
  int* pinned = nullptr;
  ASSERT_EQ(cudaHostAlloc(&pinned, 64 * sizeof(int), cudaHostAllocDefault), cudaSuccess);
  std::iota(pinned, pinned + 64, 0);
  EXPECT_EQ(run(add_one, {2, 32}, pinned, 64), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(pinned[63], 64);
  cudaPointerAttributes attributes{};
  EXPECT_EQ(cudaPointerGetAttributes(&attributes, pinned + 1), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  const DeviceArray<int> x(1);
  EXPECT_EQ(cudaPointerGetAttributes(&attributes, x.data()), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  EXPECT_EQ(cudaPointerGetAttributes(&attributes, &attributes), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST(Memory, ADeviceHasAnEnd) {
  simt::set_device_memory(1 << 20);
  size_t free_before = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_before, &total), cudaSuccess);
  EXPECT_EQ(total, size_t{1} << 20);
  void* first = nullptr;
  void* second = nullptr;
  ASSERT_EQ(cudaMalloc(&first, free_before - 1000), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 1001), cudaErrorMemoryAllocation);
  EXPECT_EQ(second, nullptr);
  EXPECT_EQ(cudaMallocAsync(&second, 1001, nullptr), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMallocAsync(&second, 1000, nullptr), cudaSuccess);
  EXPECT_EQ(cudaFreeAsync(second, nullptr), cudaSuccess);
  EXPECT_EQ(cudaFree(first), cudaSuccess);
  size_t free_after = 0;
  EXPECT_EQ(cudaMemGetInfo(&free_after, &total), cudaSuccess);
  EXPECT_EQ(free_after, free_before);
  simt::set_device_memory(0);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
}

// --- Planted bugs ----------------------------------------------------------------------------------------------------
using MemoryDeathTest = testing::Test;

TEST(MemoryDeathTest, TheHostCannotReadOrWriteDeviceMemory) {
  const DeviceArray<int> x(16);
  EXPECT_DEATH(printf("%d", *const_cast<volatile int*>(x + 3)),
               "simt: host access to device memory: .*offset 12 of allocation [0-9]+, which has 64 bytes");
  EXPECT_DEATH(*const_cast<volatile int*>(x.data()) = 1, "simt: host access to device memory");
  EXPECT_EQ(run(add_one, {1, 32}, x.data(), 16), cudaSuccess);
  EXPECT_DEATH(*const_cast<volatile int*>(x.data()) = 1, "simt: host access to device memory");
}
TEST(MemoryDeathTest, AKernelThatLeavesAnAllocationIsStopped) {
  const DeviceArray<float> x(64), big(4096), out(1);
  EXPECT_DEATH(run(read_at, {1, 1}, x.data(), 64, out.data()),
               "(device memory out of bounds: .*offset 256 of allocation .*64|256 bytes; at .*read_at|poison)");
  EXPECT_DEATH(run(write_at, {1, 1}, x.data(), 64), "(device memory out of bounds|poison)");
  EXPECT_DEATH(run(read_at, {1, 1}, big.data(), 4096, out.data()), "(device memory out of bounds|poison)");
  EXPECT_DEATH(run(read_at, {1, 1}, big.data(), -500, out.data()), "(device memory out of bounds|poison)");
}
TEST(MemoryDeathTest, AWriteIntoTheLastBytesBehindAnAllocationIsFoundWhenTheKernelEnds) {
  const DeviceArray<float> x(7);
  EXPECT_EQ(run(write_at, {1, 1}, x.data(), 6), cudaSuccess);
  EXPECT_DEATH(run(write_at, {1, 1}, x.data(), 7),
               "(simt: device memory out of bounds: kernel .*write_at has written at offset 28 of allocation [0-9]+, which has 28|"
               "poison)");
  EXPECT_DEATH(run(write_at, {1, 1}, x.data(), -3), "(at offset -12 of allocation|poison)");
}
TEST(MemoryDeathTest, FreedMemoryIsGone) {
  float* x = nullptr;
  ASSERT_EQ(cudaMalloc(&x, 64), cudaSuccess);
  ASSERT_EQ(cudaFree(x), cudaSuccess);
  const DeviceArray<float> out(1);
  EXPECT_DEATH(run(read_at, {1, 1}, x, 0, out.data()), "(simt: use after free: .*was freed and had 64 bytes|poison)");
}
TEST(MemoryDeathTest, AKernelIsNotGivenMemoryOfTheHost) {
  float host = 0;
  const DeviceArray<float> out(1);
  EXPECT_DEATH(run(read_at, {1, 1}, &host, 0, out.data()), "simt: host pointer in a kernel: argument 0 of kernel .*read_at is");
}
TEST(MemoryDeathTest, NorInAStruct) {
#if !__has_builtin(__builtin_clear_padding)
  GTEST_SKIP() << "this compiler does not tell members from what lies between them";
#endif
  std::vector<float> host(100);
  const DeviceArray<float> x(4);
  EXPECT_EQ(run(read_struct, {1, 1}, Pointers{5, x.data(), nullptr}), cudaSuccess);
  EXPECT_DEATH(run(read_struct, {1, 1}, Pointers{5, x.data(), host.data()}),
               "simt: host pointer in a kernel: byte 16 of argument 0 of kernel .*read_struct has");
}
TEST(MemoryDeathTest, AKernelThatFollowsNullIsStopped) {
  const DeviceArray<float> out(1);
  EXPECT_DEATH(run(read_at, {1, 1}, nullptr, 0, out.data()), "(simt: bad address|null pointer)");
}
TEST(MemoryDeathTest, VectorsAreLoadedAndStoredAtTheirAlignment) {
  const DeviceArray<float> x(16);
  const DeviceArray<float4> out(1);
  EXPECT_EQ(run(load_four, {1, 1}, x + 4, out.data()), cudaSuccess);
  EXPECT_DEATH(run(load_four, {1, 1}, x + 1, out.data()), "misaligned");
  EXPECT_DEATH(run(store_four, {1, 1}, x + 2), "misaligned");
}

// --- Other processes -------------------------------------------------------------------------------------------------
TEST(Ipc, AnotherProcessReadsAndWritesAnExportedAllocation) {
  std::vector<int> values(3000);
  std::iota(values.begin(), values.end(), 0);
  const DeviceArray<int> x(values);
  cudaIpcMemHandle_t handle{};
  ASSERT_EQ(cudaIpcGetMemHandle(&handle, x.data()), cudaSuccess);
  EXPECT_EQ(x.read(), values);  // the pages have moved
  const pid_t child = fork();
  if (child == 0) {
    int* opened = nullptr;
    int first = 0;
    bool ok = cudaIpcOpenMemHandle(reinterpret_cast<void**>(&opened), handle, cudaIpcMemLazyEnablePeerAccess) == cudaSuccess;
    ok = ok && cudaMemcpy(&first, opened + 2999, sizeof first, cudaMemcpyDeviceToHost) == cudaSuccess && first == 2999;
    ok = ok && run(add_one, {12, 256}, opened, 3000) == cudaSuccess;
    ok = ok && cudaFree(opened) == cudaErrorInvalidValue;
    ok = ok && cudaIpcCloseMemHandle(opened) == cudaSuccess && cudaIpcCloseMemHandle(opened) == cudaErrorInvalidValue;
    _exit(ok ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  for (int& v : values) ++v;
  EXPECT_EQ(x.read(), values);
}

TEST(Ipc, HandlesAreOfWholeAllocationsOfOtherLivingProcesses) {
  const DeviceArray<int> x(16);
  void* pool = nullptr;
  ASSERT_EQ(cudaMallocAsync(&pool, 64, nullptr), cudaSuccess);
  cudaIpcMemHandle_t handle{};
  int host = 0;
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, pool), cudaErrorInvalidValue);
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, &host), cudaErrorInvalidValue);
  ASSERT_EQ(cudaIpcGetMemHandle(&handle, x.data()), cudaSuccess);
  void* opened = nullptr;
  EXPECT_EQ(cudaIpcOpenMemHandle(&opened, handle, cudaIpcMemLazyEnablePeerAccess), cudaErrorDeviceUninitialized);
  handle.reserved[0] = static_cast<char>(handle.reserved[0] + 1);
  EXPECT_EQ(cudaIpcOpenMemHandle(&opened, handle, cudaIpcMemLazyEnablePeerAccess), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeAsync(pool, nullptr), cudaSuccess);

  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    void* made = nullptr;
    cudaIpcMemHandle_t exported{};
    const bool ok = cudaMalloc(&made, 64) == cudaSuccess && cudaIpcGetMemHandle(&exported, made) == cudaSuccess &&
                    write(pipes[1], &exported, sizeof exported) == sizeof exported;
    _exit(ok ? 0 : 1);
  }
  cudaIpcMemHandle_t gone{};
  ASSERT_EQ(read(pipes[0], &gone, sizeof gone), static_cast<ssize_t>(sizeof gone));
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(cudaIpcOpenMemHandle(&opened, gone, cudaIpcMemLazyEnablePeerAccess), cudaErrorInvalidResourceHandle);
  close(pipes[0]);
  close(pipes[1]);
}

}  // namespace
}  // namespace simt_test
