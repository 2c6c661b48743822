// What is measured of the CUDA kernels: each launcher of ops/cuda/ops.h at shapes of a real model, with the bytes and operations
// that it cannot do without. Owns the cases and the device memory they work in; cuda_bench.cc times them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ops/cuda/device.h"
#include "ops/cuda/ops.h"
#include "synthetic_model.h"

namespace penstock::cuda::bench {

// What rows that are sampled ask for.
enum class Sampling : uint8_t { greedy, temperature, top_p, filters, everything };

// Which unit a kernel's operations are bound by.
enum class Unit : uint8_t { none, f16, s8 };

struct KernelCase {
  std::string kernel;
  std::string shape;
  double bytes;       // that must travel between the chip and its memory
  double operations;  // multiplications and additions of `unit`
  Unit unit;
  std::function<void(int32_t)> run;  // enqueues it; the argument counts calls, so that weights need not stay in the cache
};

class KernelCases {
 public:
  // In memory of the pool, 2 * cold_bytes and some for activations. `cold_bytes`: weights, and keys and values, are as many that
  // together they have this size, several times the chip's cache. `small`: shapes that an emulator computes in seconds.
  KernelCases(const Stream& stream, DevicePool& pool, const DeviceFacts& device, int64_t cold_bytes, bool small);
  ~KernelCases();
  KernelCases(const KernelCases&) = delete;
  KernelCases& operator=(const KernelCases&) = delete;

  const std::vector<KernelCase>& cases() const { return cases_; }

 private:
  struct Memory;

  void add(KernelCase one) { cases_.push_back(std::move(one)); }
  void add_rows(int32_t rows);
  void add_rope(int32_t rows);
  void add_matmul(TensorType type, int32_t weight_rows, int32_t cols, int32_t rows);
  // `sequences` with `rows` new tokens each, the last of which is the kv_tokens-th.
  void add_attention(KvType type, int32_t sequences, int32_t rows, int32_t kv_tokens);
  void add_sampling(int32_t rows, Sampling kind);
  void add_blocks(int32_t count);

  const Stream& stream_;
  DevicePool& pool_;
  DeviceFacts device_;
  penstock::bench::SyntheticShape shape_;
  bool small_;
  std::unique_ptr<Memory> memory_;
  std::vector<KernelCase> cases_;
};

}  // namespace penstock::cuda::bench
