// Warp operations against what the programming guide says, and wrong masks.
#include "device_array.h"

namespace simt_test {
namespace {
constexpr unsigned kAll = 0xFFFFFFFFu;

__global__ void shuffles(int* out, int operand, int width) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const size_t at = 4 * threadIdx.x;
  out[at] = __shfl_sync(kAll, lane, operand, width);
  out[at + 1] = __shfl_up_sync(kAll, lane, static_cast<unsigned>(operand), width);
  out[at + 2] = __shfl_down_sync(kAll, lane, static_cast<unsigned>(operand), width);
  out[at + 3] = __shfl_xor_sync(kAll, lane, operand, width);
}

TEST(Warp, ShufflesReadTheLaneThatTheGuideSays) {
  for (const int width : {32, 16, 8, 2, 1}) {
    for (const int operand : {0, 1, 3, 8, 17, 31}) {
      const auto result = simt::for_each_order([&] {
        const DeviceArray<int> out(4 * 64);
        EXPECT_EQ(run(shuffles, {1, 64}, out.data(), operand, width), cudaSuccess);
        const std::vector<int> got = out.read();
        for (int thread = 0; thread < 64; ++thread) {
          const int lane = thread % 32, first = lane / width * width, end = first + width;
          const size_t at = 4 * static_cast<size_t>(thread);
          EXPECT_EQ(got[at], first + operand % width);
          EXPECT_EQ(got[at + 1], lane - operand < first ? lane : lane - operand);
          EXPECT_EQ(got[at + 2], lane + operand >= end ? lane : lane + operand);
          EXPECT_EQ(got[at + 3], (lane ^ operand) >= end ? lane : lane ^ operand);
        }
        return got;
      });
      EXPECT_TRUE(result) << result.message;
    }
  }
}

__global__ void shuffle_types(double* doubles, __half2* halves, uint64_t* longs) {
  const unsigned lane = threadIdx.x;
  doubles[lane] = __shfl_xor_sync(kAll, 0.5 * lane, 1);
  halves[lane] = __shfl_down_sync(kAll, __floats2half2_rn(static_cast<float>(lane), -1.0f), 4);
  longs[lane] = __shfl_sync(kAll, uint64_t{lane} << 40, 3);
}

TEST(Warp, ValuesOfEveryTypeTravel) {
  const DeviceArray<double> doubles(32);
  const DeviceArray<__half2> halves(32);
  const DeviceArray<uint64_t> longs(32);
  ASSERT_EQ(run(shuffle_types, {1, 32}, doubles.data(), halves.data(), longs.data()), cudaSuccess);
  EXPECT_EQ(doubles.read()[6], 3.5);
  EXPECT_EQ(float(halves.read()[6].x), 10.0f);
  EXPECT_EQ(float(halves.read()[6].y), -1.0f);
  EXPECT_EQ(longs.read()[31], uint64_t{3} << 40);
}

__global__ void votes(unsigned* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const size_t at = 12 * threadIdx.x;
  out[at] = __ballot_sync(kAll, lane % 3 == 0);
  out[at + 1] = static_cast<unsigned>(__any_sync(kAll, lane == 31) + 2 * __any_sync(kAll, 0));
  out[at + 2] = static_cast<unsigned>(__all_sync(kAll, lane < 31) + 2 * __all_sync(kAll, 1));
  out[at + 3] = __match_any_sync(kAll, lane / 8);
  out[at + 4] = static_cast<unsigned>(__reduce_add_sync(kAll, lane - 20));
  out[at + 5] = static_cast<unsigned>(__reduce_min_sync(kAll, lane - 20));
  out[at + 6] = static_cast<unsigned>(__reduce_max_sync(kAll, lane - 20));
  out[at + 7] = __reduce_max_sync(kAll, static_cast<unsigned>(lane - 20));
  out[at + 8] = __reduce_or_sync(kAll, 1u << lane);
  out[at + 9] = __reduce_and_sync(kAll, ~(1u << lane));
  out[at + 10] = __reduce_xor_sync(kAll, static_cast<unsigned>(lane));
  out[at + 11] = __activemask();
}

TEST(Warp, VotesMatchesAndReductionsSeeEveryLane) {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<unsigned> out(12 * 32);
    EXPECT_EQ(run(votes, {1, 32}, out.data()), cudaSuccess);
    const std::vector<unsigned> got = out.read();
    for (unsigned lane = 0; lane < 32; ++lane) {
      const std::vector<unsigned> mine(&got[12 * lane], &got[12 * lane] + 12);
      const std::vector<unsigned> expected{0x49249249u,
                                           1u,
                                           2u,
                                           0xFFu << lane / 8 * 8,
                                           static_cast<unsigned>(496 - 640),
                                           static_cast<unsigned>(-20),
                                           11u,
                                           ~0u,
                                           ~0u,
                                           0u,
                                           0u,
                                           1u << lane};
      EXPECT_EQ(mine, expected) << lane;
    }
    return got;
  });
  EXPECT_TRUE(result) << result.message;
}

// Both halves of a warp reduce for themselves, one of them twice.
__global__ void halves(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned mask = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
  int sum = lane;
  for (int round = 0; round < (lane < 16 ? 2 : 1); ++round)
    for (int distance = 8; distance > 0; distance /= 2) sum += __shfl_xor_sync(mask, sum, distance);
  __syncwarp();
  out[lane] = sum + __shfl_sync(kAll, lane, 0);
}

TEST(Warp, PartsOfAWarpMeetByThemselvesAndThenTogether) {
  const auto result = simt::for_each_order([&] {
    const DeviceArray<int> out(32);
    EXPECT_EQ(run(halves, {1, 32}, out.data()), cudaSuccess);
    EXPECT_EQ(out.read()[3], 120 * 16);
    EXPECT_EQ(out.read()[30], 376);
    return out.read();
  });
  EXPECT_TRUE(result) << result.message;
}

__global__ void short_warp(int* out) {
  if (threadIdx.x == 40) return;
  out[threadIdx.x] = __popc(__ballot_sync(kAll, 1));
}

TEST(Warp, LanesThatDoNotExistOrHaveReturnedAreNotWaitedFor) {
  const DeviceArray<int> out(std::vector<int>(48, 0));
  ASSERT_EQ(run(short_warp, {1, 48}, out.data()), cudaSuccess);
  const std::vector<int> got = out.read();
  EXPECT_EQ(got[0], 32);
  EXPECT_EQ(got[39], 15);
  EXPECT_EQ(got[40], 0);
  EXPECT_EQ(got[47], 15);
}

// --- Planted bugs ----------------------------------------------------------------------------------------------------
__global__ void caller_not_named() {
  if (threadIdx.x < 16) __syncwarp(0xFFFF0000u);
}
__global__ void lanes_disagree() { __syncwarp(threadIdx.x == 5 ? 0x0000FFFFu : kAll); }
__global__ void mixed_operations(int* out) {
  if (threadIdx.x % 2 == 0) {
    out[threadIdx.x] = __shfl_xor_sync(kAll, 1, 1);
  } else {
    out[threadIdx.x] = static_cast<int>(__ballot_sync(kAll, 1));
  }
}
__global__ void mixed_reductions(int* out) {
  const int value = static_cast<int>(threadIdx.x);
  out[value] = value % 2 == 0 ? __reduce_add_sync(kAll, value) : __reduce_max_sync(kAll, value);
}
__global__ void reads_outside(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xFFFFu, 1, 1);
}
__global__ void reads_exited(int* out) {
  if (threadIdx.x == 0) return;
  out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
}
__global__ void lane_never_comes() {
  if (threadIdx.x == 3) {
    __syncwarp(0x8u);
    simt::named_barrier_sync(1, 32);
  }
  __syncwarp(0xFFu | 0xFFFFFF00u);
}
__global__ void two_masks() {
  if (threadIdx.x < 8) {
    __syncwarp(0x1FFu);  // waits for lane 8, which waits below
  } else {
    __syncwarp(0xFFFFFF00u | 0x1u);  // and for lane 0
  }
}
__global__ void odd_width(int* out) { out[threadIdx.x] = __shfl_sync(kAll, 1, 0, 12); }

using WarpDeathTest = testing::Test;

TEST(WarpDeathTest, AMaskNamesItsCaller) {
  EXPECT_DEATH(run(caller_not_named, {1, 32}), "simt: wrong mask: __syncwarp .*mask ffff0000, which lacks the lane .*, 0\n");
}
TEST(WarpDeathTest, LanesAgreeAboutTheirMask) {
  EXPECT_DEATH(run(lanes_disagree, {1, 32}), "simt: wrong mask: lanes name each other with different masks");
  EXPECT_DEATH(run(two_masks, {1, 32}), "simt: (wrong mask|deadlock)");
}
TEST(WarpDeathTest, LanesMeetInOneOperation) {
  const DeviceArray<int> out(32);
  EXPECT_DEATH(run(mixed_operations, {1, 32}, out.data()), "simt: mismatched warp operation");
  EXPECT_DEATH(run(mixed_reductions, {1, 32}, out.data()), "simt: mismatched warp operation: .*different reductions");
}
TEST(WarpDeathTest, AShuffleReadsLanesThatTakePart) {
  const DeviceArray<int> out(32);
  EXPECT_DEATH(run(reads_outside, {1, 32}, out.data()), "simt: lane outside the mask: lane 15 .* from lane 16");
  EXPECT_DEATH(run(reads_exited, {1, 32}, out.data()), "simt: lane outside the mask: .* from lane 0");
}
TEST(WarpDeathTest, ALaneThatNeverComesIsReported) {
  EXPECT_DEATH(run(lane_never_comes, {1, 32}), "divergent barrier(.|\n)*thread 3: at named barrier 1");
}
TEST(WarpDeathTest, WidthsArePowersOfTwo) {
  const DeviceArray<int> out(32);
  EXPECT_DEATH(run(odd_width, {1, 32}, out.data()), "simt: wrong mask: a shuffle .* has width 12");
}

}  // namespace
}  // namespace simt_test
