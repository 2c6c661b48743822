#include "model/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace penstock {

namespace {

constexpr double kTurn = 2 * std::numbers::pi;

// Llama 3.1 (transformers: modeling_rope_utils.py, llama3): by wavelength in tokens.
double llama3_frequency(const RopeParameters& p, double frequency) {
  const double wavelength = kTurn / frequency;
  if (wavelength < p.original_context_tokens / p.high_freq_factor) return frequency;
  if (wavelength > p.original_context_tokens / p.low_freq_factor) return frequency / p.factor;
  const double kept =
      (p.original_context_tokens / wavelength - p.low_freq_factor) / (p.high_freq_factor - p.low_freq_factor);
  return (1 - kept) * frequency / p.factor + kept * frequency;
}

// The pair (not necessarily whole) that turns `turns` times within the original context.
double yarn_pair(const RopeParameters& p, int32_t rope_dims, double turns) {
  return rope_dims * std::log(p.original_context_tokens / (turns * kTurn)) / (2 * std::log(p.theta));
}

}  // namespace

std::vector<double> rope_frequencies(const RopeParameters& p, int32_t rope_dims) {
  double first_divided = 0, last_kept = 0;  // pairs; yarn blends between them
  if (p.scaling == RopeScaling::yarn) {
    double low = yarn_pair(p, rope_dims, p.beta_fast);
    double high = yarn_pair(p, rope_dims, p.beta_slow);
    if (p.whole_pairs) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    last_kept = std::max(low, 0.0);
    first_divided = std::min(high, rope_dims - 1.0);
    if (first_divided == last_kept) first_divided += 0.001;  // a step instead of a division by zero
  }
  std::vector<double> frequencies;
  for (int32_t i = 0; i < rope_dims / 2; ++i) {
    double frequency = std::pow(p.theta, -2.0 * i / rope_dims);
    switch (p.scaling) {
      case RopeScaling::none:
        break;
      case RopeScaling::linear:
        frequency /= p.factor;
        break;
      case RopeScaling::llama3:
        frequency = llama3_frequency(p, frequency);
        break;
      case RopeScaling::yarn: {
        const double divided = std::clamp((i - last_kept) / (first_divided - last_kept), 0.0, 1.0);
        frequency = divided * frequency / p.factor + (1 - divided) * frequency;
        break;
      }
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

double yarn_magnitude(double factor, double weight) { return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1; }

}  // namespace penstock
