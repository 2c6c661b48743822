// Arrays in device memory for tests, and the check that a kernel's result does not depend on the order of its threads.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ops/cuda/platform.h"

namespace penstock::cuda::testing {

// What a test allocates is filled with 0xFF first: NaN, and no index that exists.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), bytes() > 0 ? bytes() : 1), "cudaMalloc");
    check(cudaMemset(data_, 0xFF, bytes()), "cudaMemset");
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) { write(host); }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  void write(const std::vector<T>& host) {
    if (bytes() > 0) check(cudaMemcpy(data_, host.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  // After everything that was enqueued.
  std::vector<T> read() const {
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    std::vector<T> host(count_);
    if (bytes() > 0) check(cudaMemcpy(host.data(), data_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return host;
  }

 private:
  size_t bytes() const { return count_ * sizeof(T); }
  T* data_ = nullptr;
  size_t count_;
};

// The body launches and returns a vector of what came out. On the emulator it runs in every order of threads, on a device twice.
template <class Body>
::testing::AssertionResult same_in_every_order(Body&& body) {
#if PENSTOCK_CUDA_EMULATED
  const simt::OrderResult result = simt::for_each_order(body);
  if (result) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.message;
#else
  const auto first = body();
  const auto second = body();
  if (first.size() == second.size() && std::memcmp(first.data(), second.data(), first.size() * sizeof first[0]) == 0) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "two runs differ";
#endif
}

}  // namespace penstock::cuda::testing
