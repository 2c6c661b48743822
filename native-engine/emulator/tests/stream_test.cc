// Streams, events and graphs: what is promised in lazy mode and what is not, captures, and errors that are injected.
#include <numeric>

#include "device_array.h"

namespace simt_test {
namespace {
__global__ void add(int* x, int n, int value) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] += value;
}
__global__ void multiply(int* x, int n, int value) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] *= value;
}

// Lazy streams for one test; eager afterwards.
class Lazy : public testing::Test {
 protected:
  void SetUp() override {
    simt::set_streams(simt::Streams::lazy, 1);
    ASSERT_EQ(cudaStreamCreateWithFlags(&first_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&second_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
    ASSERT_EQ(cudaMallocHost(&pinned_, 64 * sizeof(int)), cudaSuccess);
    std::fill(pinned_, pinned_ + 64, 0);
  }
  void TearDown() override {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(first_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(second_), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(pinned_), cudaSuccess);
    simt::set_streams(simt::Streams::eager);
  }
  cudaStream_t first_ = nullptr, second_ = nullptr;
  cudaEvent_t event_ = nullptr;
  int* pinned_ = nullptr;
};

TEST_F(Lazy, WorkIsDoneWhenItsStreamIsWaitedForAndNotBefore) {
  const DeviceArray<int> x(std::vector<int>(64, 1));
  ASSERT_EQ(run(add, {1, 64, 0, first_}, x.data(), 64, 4), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(pinned_, x.data(), 64 * sizeof(int), cudaMemcpyDeviceToHost, first_), cudaSuccess);
  EXPECT_EQ(pinned_[0], 0);  // the missing synchronisation
  EXPECT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(pinned_[0], 5);
}

TEST_F(Lazy, APinnedBufferIsReadWhenTheCopyRuns) {
  const DeviceArray<int> x(64);
  pinned_[0] = 1;
  ASSERT_EQ(cudaMemcpyAsync(x.data(), pinned_, 64 * sizeof(int), cudaMemcpyHostToDevice, first_), cudaSuccess);
  pinned_[0] = 2;  // too early
  EXPECT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(x.read()[0], 2);
}

TEST_F(Lazy, APageableBufferIsReadAtTheCallAndWrittenBeforeItReturns) {
  const DeviceArray<int> x(1);
  int host = 1;
  ASSERT_EQ(cudaMemcpyAsync(x.data(), &host, sizeof host, cudaMemcpyHostToDevice, first_), cudaSuccess);
  host = 2;
  ASSERT_EQ(cudaMemcpyAsync(&host, x.data(), sizeof host, cudaMemcpyDeviceToHost, first_), cudaSuccess);
  EXPECT_EQ(host, 1);
}

// Two streams with nothing between them, for many seeds: both orders occur.
TEST_F(Lazy, StreamsOvertakeEachOtherWithoutAnEvent) {
  bool added_first = false, multiplied_first = false;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    simt::set_streams(simt::Streams::lazy, seed);
    const DeviceArray<int> x(std::vector<int>(1, 1));
    ASSERT_EQ(run(add, {1, 1, 0, first_}, x.data(), 1, 4), cudaSuccess);
    ASSERT_EQ(run(multiply, {1, 1, 0, second_}, x.data(), 1, 10), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    added_first |= x.read()[0] == 50;
    multiplied_first |= x.read()[0] == 14;
  }
  EXPECT_TRUE(added_first);
  EXPECT_TRUE(multiplied_first);
}

TEST_F(Lazy, AnEventOrdersTwoStreams) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    simt::set_streams(simt::Streams::lazy, seed);
    const DeviceArray<int> x(std::vector<int>(1, 1));
    ASSERT_EQ(run(add, {1, 1, 0, first_}, x.data(), 1, 4), cudaSuccess);
    ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(second_, event_), cudaSuccess);
    ASSERT_EQ(run(multiply, {1, 1, 0, second_}, x.data(), 1, 10), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(second_), cudaSuccess);
    EXPECT_EQ(x.read()[0], 50);
  }
}

TEST_F(Lazy, AnEventThatIsAskedForComesInTheEnd) {
  const DeviceArray<int> x(std::vector<int>(1, 1));
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);  // never recorded
  for (int i = 0; i < 5; ++i) ASSERT_EQ(run(add, {1, 1, 0, first_}, x.data(), 1, 1), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event_), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(first_), cudaErrorNotReady);
  int asked = 0;
  while (cudaEventQuery(event_) == cudaErrorNotReady) ASSERT_LT(++asked, 100);
  EXPECT_EQ(cudaStreamQuery(first_), cudaSuccess);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess);
}

// Streams that are late: only what somebody waits for is done.
class Late : public Lazy {
 protected:
  void SetUp() override {
    Lazy::SetUp();
    simt::set_streams(simt::Streams::late);
  }
};

TEST_F(Late, WaitingForAStreamDoesNothingOfAnother) {
  const DeviceArray<int> x(std::vector<int>(64, 1)), y(std::vector<int>(64, 1));
  ASSERT_EQ(run(add, {1, 64, 0, first_}, x.data(), 64, 4), cudaSuccess);
  ASSERT_EQ(run(add, {1, 64, 0, second_}, y.data(), 64, 5), cudaSuccess);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(cudaMemcpyAsync(pinned_, x.data(), sizeof(int), cudaMemcpyDeviceToHost, second_), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(second_), cudaSuccess);
    ASSERT_EQ(pinned_[0], 1) << "what the first stream is to do, nobody has waited for";
  }
  EXPECT_EQ(cudaStreamQuery(second_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(x.read()[0], 5);
  EXPECT_EQ(y.read()[0], 6);
}

TEST_F(Late, AnEventIsWaitedForWithWhatIsBeforeItAndNothingBehindIt) {
  const DeviceArray<int> x(std::vector<int>(1, 1));
  cudaEvent_t other = nullptr;
  ASSERT_EQ(cudaEventCreate(&other), cudaSuccess);
  ASSERT_EQ(run(add, {1, 1, 0, first_}, x.data(), 1, 4), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  ASSERT_EQ(run(multiply, {1, 1, 0, first_}, x.data(), 1, 10), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(other, first_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(other), cudaErrorNotReady);  // one piece of work at a time
  EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess);
  const auto now = [&] {
    EXPECT_EQ(cudaMemcpyAsync(pinned_, x.data(), sizeof(int), cudaMemcpyDeviceToHost, second_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(second_), cudaSuccess);
    return pinned_[0];
  };
  EXPECT_EQ(now(), 5);
  // Through another stream that waits for it.
  ASSERT_EQ(cudaStreamWaitEvent(second_, other), cudaSuccess);
  EXPECT_EQ(now(), 50);
  EXPECT_EQ(cudaEventDestroy(other), cudaSuccess);
}

TEST_F(Lazy, TheDefaultStreamAndBlockingStreamsWaitForEachOther) {
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    simt::set_streams(simt::Streams::lazy, seed);
    const DeviceArray<int> x(std::vector<int>(1, 1));
    ASSERT_EQ(run(add, {1, 1, 0, blocking}, x.data(), 1, 4), cudaSuccess);
    ASSERT_EQ(run(multiply, {1, 1}, x.data(), 1, 10), cudaSuccess);
    ASSERT_EQ(run(add, {1, 1, 0, blocking}, x.data(), 1, 3), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(blocking), cudaSuccess);
    EXPECT_EQ(x.read()[0], 53);
  }
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
}

TEST_F(Lazy, HostFunctionsAndFreesTakeTheirPlaceInTheStream) {
  int* x = nullptr;
  ASSERT_EQ(cudaMallocAsync(&x, sizeof(int), first_), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(x, 0, sizeof(int), first_), cudaSuccess);
  ASSERT_EQ(run(add, {1, 1, 0, first_}, x, 1, 9), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(pinned_, x, sizeof(int), cudaMemcpyDeviceToHost, first_), cudaSuccess);
  ASSERT_EQ(cudaLaunchHostFunc(first_, [](void* data) { static_cast<int*>(data)[1] = static_cast<int*>(data)[0] + 1; }, pinned_),
            cudaSuccess);
  ASSERT_EQ(cudaFreeAsync(x, first_), cudaSuccess);
  EXPECT_EQ(pinned_[1], 0);
  EXPECT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(pinned_[1], 10);
  EXPECT_EQ(cudaFree(x), cudaErrorInvalidValue);
}

TEST_F(Lazy, ADestroyedStreamsWorkIsStillDone) {
  cudaStream_t gone = nullptr;
  ASSERT_EQ(cudaStreamCreate(&gone), cudaSuccess);
  const DeviceArray<int> x(std::vector<int>(1, 1));
  ASSERT_EQ(run(add, {1, 1, 0, gone}, x.data(), 1, 4), cudaSuccess);
  ASSERT_EQ(cudaStreamDestroy(gone), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(gone), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(x.read()[0], 5);
}

TEST(Streams, EventsMeasureTime) {
  cudaEvent_t start = nullptr, end = nullptr;
  ASSERT_EQ(cudaEventCreate(&start), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&end), cudaSuccess);
  float ms = -1;
  EXPECT_EQ(cudaEventElapsedTime(&ms, start, end), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaEventRecord(start), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, start, end), cudaSuccess);
  EXPECT_GE(ms, 0.0f);
  EXPECT_EQ(cudaEventDestroy(start), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(end), cudaSuccess);
  cudaGetLastError();
}

// --- Graphs ----------------------------------------------------------------------------------------------------------
class Graphs : public Lazy {
 protected:
  // (x + 1) on the first stream, then * 2 there and y + 1 on the second, then x + 100.
  cudaGraph_t capture(int* x, int* y) {
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(first_, cudaStreamCaptureModeGlobal), cudaSuccess);
    EXPECT_EQ(run(add, {1, 64, 0, first_}, x, 64, 1), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(second_, event_), cudaSuccess);
    EXPECT_EQ(run(add, {1, 64, 0, second_}, y, 64, 1), cudaSuccess);
    EXPECT_EQ(run(multiply, {1, 64, 0, first_}, x, 64, 2), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(event_, second_), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(first_, event_), cudaSuccess);
    EXPECT_EQ(run(add, {1, 64, 0, first_}, x, 64, 100), cudaSuccess);
    cudaStreamCaptureStatus status{};
    EXPECT_EQ(cudaStreamIsCapturing(second_, &status), cudaSuccess);
    EXPECT_EQ(status, cudaStreamCaptureStatusActive);
    EXPECT_EQ(cudaStreamEndCapture(first_, &graph), cudaSuccess);
    EXPECT_EQ(cudaStreamIsCapturing(second_, &status), cudaSuccess);
    EXPECT_EQ(status, cudaStreamCaptureStatusNone);
    return graph;
  }
};

TEST_F(Graphs, ACapturedGraphRunsWhenItIsLaunchedAsOftenAsItIs) {
  const DeviceArray<int> x(std::vector<int>(64, 0)), y(std::vector<int>(64, 0));
  const cudaGraph_t graph = capture(x.data(), y.data());
  ASSERT_NE(graph, nullptr);
  size_t nodes = 0;
  EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
  EXPECT_EQ(nodes, 4u);
  EXPECT_EQ(x.read()[0], 0);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  for (int launch = 0; launch < 3; ++launch) EXPECT_EQ(cudaGraphLaunch(executable, second_), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(second_), cudaSuccess);
  EXPECT_EQ(x.read()[5], ((1 * 2 + 100 + 1) * 2 + 100 + 1) * 2 + 100);
  EXPECT_EQ(y.read()[5], 3);
}

TEST_F(Graphs, AGraphIsUpdatedByOneOfTheSameShape) {
  const DeviceArray<int> x(std::vector<int>(64, 0)), y(std::vector<int>(64, 0)), z(std::vector<int>(64, 0));
  const cudaGraph_t graph = capture(x.data(), y.data());
  const cudaGraph_t other = capture(z.data(), y.data());
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
  cudaGraphExecUpdateResultInfo info{};
  EXPECT_EQ(cudaGraphExecUpdate(executable, other, &info), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(executable, first_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(x.read()[0], 0);
  EXPECT_EQ(z.read()[0], 102);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(other), cudaSuccess);
}

TEST_F(Graphs, WhatCannotBeCapturedEndsTheCapture) {
  const DeviceArray<int> x(std::vector<int>(64, 0));
  cudaGraph_t graph = nullptr;
  void* pointer = nullptr;
  const std::vector<std::pair<std::function<cudaError_t()>, cudaError_t>> cases{
      {[&] { return cudaStreamSynchronize(first_); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaStreamQuery(first_); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaMalloc(&pointer, 16); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaDeviceSynchronize(); }, cudaErrorStreamCaptureUnsupported},
  };
  for (const auto& [call, expected] : cases) {
    ASSERT_EQ(cudaStreamBeginCapture(first_, cudaStreamCaptureModeGlobal), cudaSuccess);
    EXPECT_EQ(call(), expected);
    EXPECT_EQ(run(add, {1, 64, 0, first_}, x.data(), 64, 1), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(cudaStreamEndCapture(first_, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
  }
  // A blocking stream is waited for by the default stream.
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeGlobal), cudaSuccess);
  EXPECT_EQ(run(add, {1, 64}, x.data(), 64, 1), cudaErrorStreamCaptureImplicit);
  EXPECT_EQ(cudaStreamEndCapture(blocking, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported);
  cudaGetLastError();
}

TEST_F(Graphs, AStreamThatJoinedMustBeWaitedFor) {
  const DeviceArray<int> x(std::vector<int>(64, 0));
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(first_, cudaStreamCaptureModeGlobal), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second_, event_), cudaSuccess);
  ASSERT_EQ(run(add, {1, 64, 0, second_}, x.data(), 64, 1), cudaSuccess);
  EXPECT_EQ(cudaStreamEndCapture(second_, &graph), cudaErrorStreamCaptureUnmatched);
  EXPECT_EQ(cudaStreamEndCapture(first_, &graph), cudaErrorStreamCaptureUnjoined);
  EXPECT_EQ(cudaEventSynchronize(event_), cudaErrorCapturedEvent);
  EXPECT_EQ(cudaStreamWaitEvent(second_, event_), cudaErrorCapturedEvent);
  cudaGetLastError();
}

// Branches of a graph that touch the same bytes: both orders occur.
TEST_F(Graphs, BranchesWithoutADependencyOvertakeEachOther) {
  const DeviceArray<int> x(std::vector<int>(1, 1));
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(first_, cudaStreamCaptureModeGlobal), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second_, event_), cudaSuccess);
  ASSERT_EQ(run(add, {1, 1, 0, second_}, x.data(), 1, 4), cudaSuccess);
  ASSERT_EQ(run(multiply, {1, 1, 0, first_}, x.data(), 1, 10), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, second_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(first_, event_), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(first_, &graph), cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
  bool added_first = false, multiplied_first = false;
  for (int launch = 0; launch < 30; ++launch) {
    const int one = 1;
    ASSERT_EQ(cudaMemcpy(x.data(), &one, sizeof one, cudaMemcpyHostToDevice), cudaSuccess);
    ASSERT_EQ(cudaGraphLaunch(executable, first_), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
    added_first |= x.read()[0] == 50;
    multiplied_first |= x.read()[0] == 14;
  }
  EXPECT_TRUE(added_first && multiplied_first);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

// --- Errors ----------------------------------------------------------------------------------------------------------
TEST(Errors, AnInjectedErrorComesOnceAfterSoManyCalls) {
  void* pointer = nullptr;
  simt::fail_call(cudaErrorMemoryAllocation, 1);
  ASSERT_EQ(cudaMalloc(&pointer, 16), cudaSuccess);
  EXPECT_EQ(cudaFree(pointer), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaFree(pointer), cudaSuccess);
}

TEST(Errors, AStickyErrorComesOutOfEveryLaterCall) {
  for (const cudaError_t error : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorECCUncorrectable,
                                  cudaErrorMisalignedAddress, cudaErrorLaunchTimeout}) {
    simt::fail_call(error);
    EXPECT_EQ(cudaDeviceSynchronize(), error);
    EXPECT_EQ(cudaGetLastError(), error);
    EXPECT_EQ(cudaGetLastError(), error);
    void* pointer = nullptr;
    EXPECT_EQ(cudaMalloc(&pointer, 16), error);
    EXPECT_EQ(cudaStreamSynchronize(nullptr), error);
    simt::clear_errors();
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
}

TEST(Errors, ErrorsHaveNamesAndMeanings) {
  EXPECT_STREQ(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorIllegalAddress), "an illegal memory access was encountered");
  EXPECT_STREQ(cudaGetErrorName(static_cast<cudaError_t>(12345)), "unrecognized error code");
}

// --- Devices ---------------------------------------------------------------------------------------------------------
TEST(Devices, ThereAreThoseThatATestSets) {
  simt::set_devices({80, 120});
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 2);
  cudaDeviceProp properties{};
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 1), cudaSuccess);
  EXPECT_EQ(properties.major, 12);
  EXPECT_EQ(properties.minor, 0);
  EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  int can = 1;
  EXPECT_EQ(cudaDeviceCanAccessPeer(&can, 0, 1), cudaSuccess);
  EXPECT_EQ(can, 0);
  EXPECT_EQ(cudaDeviceEnablePeerAccess(0, 0), cudaErrorPeerAccessUnsupported);
  simt::set_devices({});
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  EXPECT_EQ(cudaSetDevice(0), cudaErrorNoDevice);
  simt::set_devices({86});
  cudaGetLastError();
}

}  // namespace
}  // namespace simt_test
