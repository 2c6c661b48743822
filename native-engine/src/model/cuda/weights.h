// A model's weights in device memory. Owns the way there; what they are and how they are checked is model/weights.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/weights.h"
#include "ops/cuda/device.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

// Vectors are f32; nullptr where the family has none.
struct DeviceLayer {
  const float* attn_norm;  // [dim]
  DeviceMatrix q;
  DeviceMatrix k;
  DeviceMatrix v;
  DeviceMatrix qkv;     // the three as one, where they are of one type and lie behind each other; else 0 rows
  const float* q_bias;  // [q_dim]
  const float* k_bias;  // [kv_dim]
  const float* v_bias;  // [kv_dim]
  const float* q_norm;  // [head_dim]
  const float* k_norm;  // [head_dim]
  DeviceMatrix attn_output;
  const float* ffn_norm;  // [dim]
  DeviceMatrix ffn_gate;
  DeviceMatrix ffn_up;
  DeviceMatrix ffn_down;
};

struct DeviceWeights {
  DeviceMatrix embedding;
  std::vector<DeviceLayer> layers;
  const float* output_norm;
  const double* rope_frequencies;  // [rope_dims / 2]
  DeviceMatrix head;
};

// For load_weights().
WeightLayout device_layout();

// Takes their memory from the pool, and fills it where the pool has any. `weights` were loaded with device_layout().
DeviceWeights upload_weights(const Stream& stream, DevicePool& pool, const Weights& weights,
                             std::span<const double> rope_frequencies);

}  // namespace penstock::cuda
