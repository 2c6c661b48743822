// Tokens drawn where the logits are. Owns the interface, which a device implements; the rules are sampler.h's, and so are the
// random numbers: a pure function of seed and index. Which token a number means may differ where filters leave few of them, since
// a device does not sort them: the same distribution, and the same token whenever the same device draws again.
#pragma once

#include <cstdint>
#include <span>

#include "model/sampler.h"

namespace penstock {

// One row of the last step's logits, as Sampler::sample() takes them.
struct DeviceRow {
  const SamplingParams* params;  // nullptr: nothing is drawn for this row
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;
  std::span<const uint32_t> mask;
};

// In place of a token.
inline constexpr int32_t kNotFiniteDrawn = -1;    // a logit is NaN or +inf
inline constexpr int32_t kAllExcludedDrawn = -2;  // no token is left

class DeviceSampler {
 public:
  virtual ~DeviceSampler() = default;

  // Whether a row can be drawn for with what was allocated at the start, its history and bias included: whatever other rows there
  // are. What does not fit is drawn by the processor.
  virtual bool fits(const DeviceRow& row) const = 0;

  // The logits of these rows of the last step, before sample() has changed them: out [rows, vocab_size].
  virtual void read_logits(std::span<const int32_t> rows, std::span<float> out) = 0;

  // rows: one for each row of the last step's logits, in order; those with parameters fit. tokens [rows]: the token, or why there is
  // none; what it is for a row without parameters means nothing.
  virtual void sample(std::span<const DeviceRow> rows, std::span<int32_t> tokens) = 0;
};

}  // namespace penstock
