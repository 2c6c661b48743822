// From a path to a model that runs. Owns the order of loading: file, config, weights, KV pool, decoder.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "kv/cache.h"
#include "model/device.h"
#include "model/file_error.h"
#include "model/runner.h"
#include "ops/ops.h"

namespace penstock {

// A pool of this size holds about 22,000 tokens of a 135 M model and is touched lazily, page by page.
inline constexpr int64_t kDefaultKvBytesMax = int64_t{512} << 20;

struct LoadOptions;
using DeviceLoad = std::unique_ptr<Runner> (*)(const LoadOptions&);

struct LoadOptions {
  std::string path;                           // a GGUF file or a Hugging Face folder, see source.h
  int32_t threads = 0;                        // compute threads, the caller's included; 0 = one per core
  std::optional<int32_t> blocks_total;        // KV blocks; absent = as many as fit in kv_bytes_max
  std::optional<int64_t> kv_bytes_max;        // unused when blocks_total is given; absent = kDefaultKvBytesMax on the
                                              // processor, what is left on a device
  int32_t context_tokens_max = 0;             // upper limit of one sequence; 0 = the file's context length
  int32_t step_tokens_max = 512;              // most rows in one StepBatch
  int32_t step_sequences_max = 64;            // most sequences in one StepBatch
  // f16: what published engines store. q8_0: about half the memory and bandwidth for a small loss; heads must have a
  // multiple of kKvQuantBlock dimensions. f32: twice the memory, for comparisons against f32 goldens, not on a device.
  // bf16: on a device only.
  KvType kv_type = KvType::f16;
  std::optional<TensorType> quantize;  // of F32, F16 and BF16 weights: Q8_0 or Q4_0; see QuantizeTo in weights.h
  KernelChoice kernels = KernelChoice::automatic;
  Device device;
  // What may be taken of a device's memory, for everything. Absent: most of what is free. K and V get what weights and scratch
  // leave, unless blocks_total says how many blocks there are.
  std::optional<int64_t> device_bytes_max;
  GemmChoice gemm = GemmChoice::own;  // on a device
  bool device_graphs = true;    // off: for comparisons, and for tools that cannot look into graphs
  DeviceLoad cuda = nullptr;  // nullptr: this build has no CUDA
  // Called from the loading thread as weights are prepared, at least at 0 and at the end.
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;
};

// Throws ModelFileError when the file cannot be read as a model this engine runs, std::invalid_argument when an option
// makes no sense, std::bad_alloc when weights or KV do not fit in memory, DeviceMemoryShort when they do not fit in a device's,
// DeviceFailure when it cannot be used.
// The context is also limited by the pool: RunnerInfo::context_tokens <= blocks_total * kBlockTokens.
std::unique_ptr<Runner> load_model(const LoadOptions& options);

}  // namespace penstock
