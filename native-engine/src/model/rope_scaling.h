// Frequencies of rotary positions, plain and stretched beyond the trained context. Owns the arithmetic; which kind a
// model wants comes from its files (gguf_config.cc, huggingface_config.cc). Pure.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock {

enum class RopeScaling : uint8_t {
  none,
  linear,  // every frequency divided by `factor`
  llama3,  // low frequencies divided by `factor`, high ones kept, a blend between (Llama 3.1)
  yarn,    // as llama3 with another blend, and longer q and k (Peng et al. 2023, arXiv:2309.00071)
};

struct RopeParameters {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;                   // > 0
  double original_context_tokens = 0;  // trained context before stretching; llama3 and yarn
  double low_freq_factor = 1;          // llama3: waves longer than original_context_tokens / this are divided
  double high_freq_factor = 4;         // llama3: waves shorter than original_context_tokens / this are kept; > low
  double beta_fast = 32;               // yarn: pairs that turn more often than this within the context are kept
  double beta_slow = 1;                // yarn: pairs that turn less often than this are divided
  bool whole_pairs = true;             // yarn: the two bounds are widened to whole pairs
};

// [rope_dims / 2] radians per position. PRECOND: theta > 0, factor > 0, rope_dims even and positive.
std::vector<double> rope_frequencies(const RopeParameters& parameters, int32_t rope_dims);

// Factor on cosine and sine that yarn calls for where a model names none: 0.1 weight ln(factor) + 1.
double yarn_magnitude(double factor, double weight = 1);

}  // namespace penstock
