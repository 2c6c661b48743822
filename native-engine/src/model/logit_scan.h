// Passes over a whole vocabulary of logits, in vectors: every instruction set gives the same bits, since weights are whole numbers.
// What the passes are for is sampler.cc.
#pragma once

#include <cstddef>
#include <limits>
#include <span>

#include "ops/token_weights.h"

namespace penstock {

// Logits per block. The maxima of a vocabulary's blocks are small enough to select from, and tell which blocks hold the
// likeliest tokens; 64 is two cache lines' worth of maxima for 2,048 tokens.
inline constexpr size_t kScanBlock = 64;
inline constexpr size_t scan_blocks(size_t logits) { return (logits + kScanBlock - 1) / kScanBlock; }

struct LogitScan {
  float largest;  // -inf where no token is possible
  bool finite;    // no NaN, no +inf; `largest` means nothing otherwise
};

// maxima [scan_blocks(logits.size())] is written.
LogitScan scan_logits(std::span<const float> logits, std::span<float> maxima);

// The sum of the weights of all logits >= cut, block by block into sums [blocks] too. Blocks whose maximum is below the
// cut are skipped.
double sum_weights(std::span<const float> logits, std::span<const float> maxima, const TokenWeights& weight, float cut,
                   std::span<double> sums);

}  // namespace penstock
