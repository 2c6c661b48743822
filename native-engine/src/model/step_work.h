// How much a step computes ○. Owns the sum of its multiply-adds; what a model's parts cost is told by its Runner.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "model/batch.h"
#include "ops/arithmetic.h"

namespace penstock {

// Multiply-adds of a model. The last layer computes keys and values of every row, and the rest only for rows that are read.
struct StepWork {
  MacType type = MacType::unknown;    // unknown: nothing below is known either
  double row_macs = 0;                // of each row
  double read_row_macs = 0;           // besides, of each row whose final state is read
  double logits_row_macs = 0;         // besides, of each row with logits
  double pair_macs = 0;               // of each row and position that it attends to, in all layers but the last
  double read_pair_macs = 0;          // the same in the last, for rows that are read
  int32_t window_tokens = 0;          // positions that a row attends to at most; 0 = all before it
};

struct Config;
struct Weights;
// Of a decoder with these weights. `type` is what most of its multiply-adds are computed in.
StepWork step_work(const Config& config, const Weights& weights);

// 0 where the model's costs are not known.
inline double step_macs(const StepWork& work, std::span<const StepSequence> sequences) {
  if (work.type == MacType::unknown) return 0;
  const auto visible = [&](int64_t position) {
    const int64_t all = position + 1;
    return work.window_tokens > 0 ? std::min<int64_t>(all, work.window_tokens) : all;
  };
  double macs = 0;
  for (const StepSequence& s : sequences) {
    const double rows = s.rows;
    const int64_t first = s.kv_tokens - s.rows, last = s.kv_tokens - 1;
    // Sums of a straight line; a window only bends it, and halfway between its ends is near enough.
    const double pairs = rows * static_cast<double>(visible(first) + visible(last)) / 2;
    const bool reads_last = s.wants_logits || s.pooling == Pooling::last;
    const bool reads_all = s.pooling == Pooling::mean;
    macs += rows * work.row_macs + pairs * work.pair_macs;
    if (reads_all) macs += rows * work.read_row_macs + pairs * work.read_pair_macs;
    else if (reads_last) macs += work.read_row_macs + static_cast<double>(visible(last)) * work.read_pair_macs;
    if (s.wants_logits) macs += work.logits_row_macs;
  }
  return macs;
}

}  // namespace penstock
