// Accumulators by slot. See pooled_states.h.
#include "serve/pooled_states.h"

#include <algorithm>
#include <cmath>

namespace penstock {

void PooledStates::prepare() {
  if (states_.empty()) states_.resize(static_cast<size_t>(sequences_max_) * static_cast<size_t>(dims_));
}

std::span<float> PooledStates::vector_of(const Sequence& sequence) {
  const auto dims = static_cast<size_t>(dims_);
  return std::span(states_).subspan(static_cast<size_t>(sequence.slot.value()) * dims, dims);
}

void PooledStates::attach(StepPlan& plan) {
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    StepSequence& share = plan.sequences[i];
    if (share.pooling == Pooling::none) continue;
    share.pooled = vector_of(*plan.owners[i]);
    if (share.kv_tokens == share.rows) std::fill(share.pooled.begin(), share.pooled.end(), 0.0f);
  }
}

bool PooledStates::complete(const Sequence& sequence, std::span<const float>& values) {
  const std::span<float> sum = vector_of(sequence);
  if (sequence.request.pooling == Pooling::mean) {
    const auto tokens = static_cast<float>(sequence.total());
    for (float& value : sum) value /= tokens;
  }
  values = sum;
  return std::all_of(sum.begin(), sum.end(), [](float value) { return std::isfinite(value); });
}

}  // namespace penstock
