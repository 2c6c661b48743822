// Where a model runs, and the ways in which a device ends that. Owns the names; ops/cuda and model/cuda are the device.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace penstock {

enum class DeviceKind : uint8_t { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int32_t index = 0;  // of the GPUs that the driver shows, in its order

  std::string name() const { return kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(index); }
};

// Who multiplies on a GPU.
//   own        our kernels: a row has the same bits in any company
//   cublaslt   NVIDIA's library for large products of prompts with f16 and bf16 weights; refused by an engine without it
//   automatic  the library where the engine has it, else our kernels
enum class GemmChoice : uint8_t { own, cublaslt, automatic };

// The device computes nothing more for this process: a kernel went astray, its memory is damaged, it fell off the bus. What is
// in its memory is lost, and only a new process can use it again.
class DeviceFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Weights, K and V and scratch do not fit into the device, or into the part of it that was allowed. Thrown at the start only:
// nothing is allocated later.
class DeviceMemoryShort : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace penstock
