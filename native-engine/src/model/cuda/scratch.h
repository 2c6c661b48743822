// Device memory that a step computes in. Owns its sizes; what is written where is decoder.cc's.
#pragma once

#include <array>
#include <cstdint>

#include "model/batch_check.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/cuda/device.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

// Rows that a step's buffers have: those of the batch, or of the last layer, where a sequence that is pooled and samples as well
// has its last row twice.
inline constexpr int32_t buffer_rows(const DecoderLimits& limits) { return limits.step_tokens + limits.step_sequences; }

// Of a row's q, k and v together.
inline int32_t qkv_dim(const Config& config) { return config.q_dim() + 2 * config.kv_dim(); }

// Which of the activation forms some product of the model reads. Throws std::invalid_argument where matrices that read the same
// rows need more than kFormsMax of them.
struct FormsUsed {
  std::array<bool, 4> form{};
  explicit FormsUsed(const Weights& weights);
};

struct Scratch {
  // rows: buffer_rows()
  float* x;         // [rows, dim] the residual stream
  float* x_read;    // [rows, dim] of the rows that are read, in the last layer
  float* delta;     // [rows, dim] what a block adds to it
  float* qkv;       // [rows, qkv_dim]: q, k and v beside each other
  float* qkv_read;  // [rows, qkv_dim] of the rows that are read, in the last layer
  float* attended;  // [rows, q_dim]
  float* gate;      // [rows, ffn_dim]
  float* up;        // [rows, ffn_dim]
  float* cos_sin;   // [rows, rope_dims / 2, 2]
  float* partials;  // [partial rows, heads, softmax_floats(head_dim)]
  float* logits;    // [step_sequences, vocab_size]
  // By form: what products read. [rows, the widest]; of f32 there is always one, for what is pooled.
  std::array<DeviceActivations, 4> activations;

  Scratch(DevicePool& pool, const Config& config, const FormsUsed& forms, const DecoderLimits& limits,
          int64_t partial_rows);
};

}  // namespace penstock::cuda
