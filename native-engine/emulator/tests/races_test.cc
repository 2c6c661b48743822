// Built with ThreadSanitizer, to which every lane is a thread: it finds a race whatever the order, and even where the bits come
// out right. Counts its reports.
#include "device_array.h"

#if SIMT_TSAN
namespace {
int reports = 0;
}
// Not looked at itself: lanes count here, and a report within a report waits for ever.
extern "C" __attribute__((no_sanitize("thread"))) void __tsan_on_report(void*) { ++reports; }
extern "C" const char* __tsan_default_options() { return "exitcode=0:suppress_equal_stacks=0:suppress_equal_addresses=0"; }

namespace simt_test {
namespace {
constexpr unsigned kAll = 0xFFFFFFFFu;

template <class F>
int races(F f) {
  const int before = reports;
  f();
  return reports - before;
}

__global__ void neighbours(int* out, bool waits) {
  SIMT_SHARED(int, values, [64]);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (waits) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}
// All write the same: no order shows it.
__global__ void same_value(int* out) {
  SIMT_SHARED(int, value, [1]);
  value[0] = 7;
  __syncthreads();
  out[threadIdx.x] = value[0];
}
// A barrier too few between reading and the next round's writing.
__global__ void rounds(int* out, bool waits) {
  SIMT_SHARED(int, values, [64]);
  int sum = 0;
  for (int round = 0; round < 3; ++round) {
    values[threadIdx.x] = round;
    __syncthreads();
    sum += values[63 - threadIdx.x];
    if (waits) __syncthreads();
  }
  out[threadIdx.x] = sum;
}
__global__ void warp_exchange(int* out, int how) {
  SIMT_SHARED(int, values, [32]);
  values[threadIdx.x] = 1;
  if (how == 1) __syncwarp();
  int sum = how == 2 ? __shfl_xor_sync(kAll, 1, 1) : 0;  // a shuffle orders no memory
  sum += values[31 - threadIdx.x];
  out[threadIdx.x] = sum;
}
__global__ void between_blocks(int* out, bool is_atomic) {
  if (is_atomic) {
    atomicAdd(&out[0], 1);
  } else {
    out[0] += 1;
  }
}
__global__ void own_element(int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] += 1; }
__global__ void waiting(int* out) {
  simt::wait_for_previous();
  out[blockIdx.x * blockDim.x + threadIdx.x] += 1;
}
__global__ void last_block_sums(int* parts, unsigned* counter, int* out, bool fences) {
  SIMT_SHARED(bool, is_last, [1]);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = static_cast<int>(blockIdx.x);
    if (fences) __threadfence();
    is_last[0] = atomicAdd(counter, 1u) == gridDim.x - 1;
    if (fences) __threadfence();
  }
  __syncthreads();
  if (!is_last[0] || threadIdx.x != 0) return;
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
  *out = sum;
}
__global__ void copy_then_read(const uint4* x, uint4* y, bool waits, bool meets) {
  SIMT_SHARED(uint4, rows, [64]);
  simt::cp_async(&rows[threadIdx.x], x + threadIdx.x, 16, true);
  simt::cp_async_commit();
  if (waits) simt::cp_async_wait(0);
  if (meets) __syncthreads();
  y[threadIdx.x] = rows[63 - threadIdx.x];
  if (!waits) simt::cp_async_wait(0);
}
__global__ void load_rows(uint32_t* out, bool waits) {
  SIMT_SHARED(uint4, rows, [8]);
  if (threadIdx.x < 8) rows[threadIdx.x] = make_uint4(1, 2, 3, 4);
  if (waits) __syncwarp();
  uint32_t r[1];
  simt::ldmatrix(r, 1, &rows[threadIdx.x % 8], false);
  out[threadIdx.x] = r[0];
  if (threadIdx.x < 8) rows[threadIdx.x] = make_uint4(5, 6, 7, 8);  // behind ldmatrix, which the whole warp has done
}
__global__ void hand_over(int* out, bool meets) {
  SIMT_SHARED(int, values, [32]);
  if (threadIdx.x < 32) {
    values[threadIdx.x] = 1;
    simt::named_barrier_arrive(1, 64);
  } else {
    if (meets) simt::named_barrier_sync(1, 64);
    out[threadIdx.x] = values[threadIdx.x - 32];
    if (!meets) simt::named_barrier_sync(1, 64);
  }
}

class Races : public testing::Test {
 protected:
  const DeviceArray<int> out_{std::vector<int>(4096, 0)};
};

TEST_F(Races, AMissingBarrierIsARaceAndABarrierIsNone) {
  EXPECT_EQ(races([&] { run(neighbours, {1, 64}, out_.data(), true); }), 0);
  EXPECT_GT(races([&] { run(neighbours, {1, 64}, out_.data(), false); }), 0);
}
TEST_F(Races, EqualValuesAreARaceToo) {
  EXPECT_GT(races([&] { run(same_value, {1, 64}, out_.data()); }), 0);
}
TEST_F(Races, ABarrierTooFewInALoopIsFoundInTheForwardOrder) {
  EXPECT_EQ(races([&] { run(rounds, {1, 64}, out_.data(), true); }), 0);
  EXPECT_GT(races([&] { run(rounds, {1, 64}, out_.data(), false); }), 0);
}
TEST_F(Races, SyncwarpOrdersAndAShuffleDoesNot) {
  EXPECT_EQ(races([&] { run(warp_exchange, {1, 32}, out_.data(), 1); }), 0);
  EXPECT_GT(races([&] { run(warp_exchange, {1, 32}, out_.data(), 2); }), 0);
}
TEST_F(Races, BlocksRaceInDeviceMemory) {
  EXPECT_EQ(races([&] { run(own_element, {8, 64}, out_.data()); }), 0);
  EXPECT_EQ(races([&] { run(between_blocks, {8, 1}, out_.data(), true); }), 0);
  EXPECT_GT(races([&] { run(between_blocks, {8, 1}, out_.data(), false); }), 0);
}
TEST_F(Races, KernelsOfOneStreamFollowEachOther) {
  EXPECT_EQ(races([&] {
              for (int i = 0; i < 3; ++i) run(own_element, {8, 64}, out_.data());
              run(neighbours, {1, 64}, out_.data(), true);
            }),
            0);
}
// What the emulator notes of a lane, whose place others have in the next block, is no access of the kernel's.
TEST_F(Races, WaitingForThePreviousKernelIsNone) {
  EXPECT_EQ(races([&] { run(waiting, {8, 64}, out_.data()); }), 0);
}
TEST_F(Races, AFenceMakesTheLastBlocksSumRight) {
  const DeviceArray<unsigned> counter(std::vector<unsigned>(2, 0));
  EXPECT_EQ(races([&] { run(last_block_sums, {6, 32}, out_.data(), counter.data(), out_ + 100, true); }), 0);
  EXPECT_GT(races([&] { run(last_block_sums, {6, 32}, out_.data(), counter + 1, out_ + 100, false); }), 0);
}
TEST_F(Races, AsynchronousCopiesNeedTheWaitAndTheBarrier) {
  const DeviceArray<uint4> x(64), y(64);
  EXPECT_EQ(races([&] { run(copy_then_read, {1, 64}, x.data(), y.data(), true, true); }), 0);
  EXPECT_GT(races([&] { run(copy_then_read, {1, 64}, x.data(), y.data(), true, false); }), 0);
  EXPECT_GT(races([&] { run(copy_then_read, {1, 64}, x.data(), y.data(), false, true); }), 0);
}
TEST_F(Races, LdmatrixReadsAfterABarrierOfTheWarp) {
  const DeviceArray<uint32_t> rows(32);
  EXPECT_EQ(races([&] { run(load_rows, {1, 32}, rows.data(), true); }), 0);
  EXPECT_GT(races([&] { run(load_rows, {1, 32}, rows.data(), false); }), 0);
}
TEST_F(Races, NamedBarriersOrderArrivingBeforeWaiting) {
  EXPECT_EQ(races([&] { run(hand_over, {1, 64}, out_.data(), true); }), 0);
  EXPECT_GT(races([&] { run(hand_over, {1, 64}, out_.data(), false); }), 0);
}

}  // namespace
}  // namespace simt_test
#else
TEST(Races, NeedThreadSanitizer) { GTEST_SKIP() << "not built with ThreadSanitizer"; }
#endif
