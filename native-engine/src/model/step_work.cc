#include "model/step_work.h"

#include "model/config.h"
#include "model/weights.h"

namespace penstock {

StepWork step_work(const Config& config, const Weights& weights) {
  StepWork work;
  double quantised = 0, all = 0;
  const auto macs = [&](const Matrix& matrix) {
    const double count = static_cast<double>(matrix.rows) * matrix.cols;
    all += count;
    if (is_quantized(matrix.type)) quantised += count;
    return count;
  };
  // Scores and their weighted sum of values.
  const double pair = 2.0 * config.q_dim();
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& w = weights.layers[i];
    const bool is_last = i + 1 == weights.layers.size();
    work.row_macs += macs(w.q) + macs(w.k) + macs(w.v);
    (is_last ? work.read_row_macs : work.row_macs) +=
        macs(w.attn_output) + macs(w.ffn_gate) + macs(w.ffn_up) + macs(w.ffn_down);
    (is_last ? work.read_pair_macs : work.pair_macs) += pair;
  }
  work.logits_row_macs = macs(weights.head);
  work.window_tokens = config.window_tokens;
  work.type = 2 * quantised >= all ? MacType::int8 : MacType::f32;
  return work;
}

}  // namespace penstock
