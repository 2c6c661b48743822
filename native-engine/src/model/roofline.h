// What a GPU could do at best, on paper: bytes, operations and launches of every kernel of a step, and the time that the slower of
// memory and arithmetic needs for them. Owns the figures of the GPUs and the sums. Pure. What comes out are predictions, upper
// bounds that no kernel reaches; measurements are bench/gpu.sh's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/cache.h"
#include "model/config.h"
#include "model/source.h"
#include "model/weights.h"

namespace penstock {

// Dense rates, without structured sparsity.
struct GpuFacts {
  const char* name;
  double bytes_per_second;     // of its memory
  int64_t memory_bytes;
  double half_per_second;      // multiplications and additions of the tensor cores: f16 and bf16, accumulated in f32
  double int8_per_second;      // int8
  double float_per_second;     // f32, of the ordinary cores
};

std::span<const GpuFacts> gpus();
// Upper and lower case, blanks and "RTX" do not matter. nullptr: none of that name.
const GpuFacts* gpu_named(std::string_view name);

// All matrices of a model that do the same with the same type of numbers.
struct RooflineMatrix {
  TensorRole role;
  TensorType type;
  int32_t rows;
  int32_t cols;
  int32_t count;
};

struct RooflineModel {
  Config config;
  std::vector<RooflineMatrix> matrices;  // a tied embedding is the head as well
  KvType kv_type;
};

// Throws ModelFileError where a matrix is missing or has a type that no weight has.
RooflineModel roofline_model(const ModelSource& source, QuantizeTo quantize, KvType kv_type);

// A step: `sequences` sequences, each with `rows` new tokens behind `context` others, and the logits of the last one.
struct RooflineStep {
  int32_t sequences;
  int32_t rows;
  int32_t context;
};

struct KernelWork {
  std::string kernel;
  int64_t launches;
  double bytes;       // that memory must give or take at least
  double operations;  // multiplications and additions
  double seconds_of_memory;
  double seconds_of_arithmetic;

  double seconds() const { return std::max(seconds_of_memory, seconds_of_arithmetic); }
};

// In order of the step; the kernels of all layers together.
std::vector<KernelWork> kernel_work(const RooflineModel& model, const RooflineStep& step, const GpuFacts& gpu);

// The page that `penstock-engine --roofline MODEL GPU` prints.
std::string roofline_page(const RooflineModel& model, const GpuFacts& gpu);

}  // namespace penstock
