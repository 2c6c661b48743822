// What the emulator's tests share: an array in device memory, and a launch with converted arguments.
#pragma once

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "simt/simt.h"

namespace simt_test {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) { EXPECT_EQ(cudaMalloc(&data_, count * sizeof(T)), cudaSuccess); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  operator T*() const { return data_; }
  T* data() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

struct Shape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

template <class... P, class... A>
cudaError_t run(void (*kernel)(P...), const Shape& shape, A&&... arguments) {
  return simt::launch(kernel, shape.grid, shape.block, shape.shared_bytes, shape.stream,
                      std::tuple<std::decay_t<P>...>(static_cast<P>(arguments)...));
}

}  // namespace simt_test
