// How well a model predicts fixed windows of text. Owns the arithmetic; which text and against what is the caller's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "model/runner.h"

namespace penstock::bench {

// Natural logarithm of softmax(logits)[id].
inline double log_probability(std::span<const float> logits, int32_t id) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return logits[static_cast<size_t>(id)] - largest - std::log(sum);
}

// Perplexity = exp(mean of -log p(token | the tokens before it in its window)); the first token of a window is given.
// All windows have one length and go side by side, one row each per step: the path that decoding takes.
//   windows [count][length]
// Throws std::invalid_argument where the windows differ in length or the pool cannot hold them all.
inline double perplexity(Runner& runner, std::span<const std::vector<int32_t>> windows) {
  const auto count = static_cast<int32_t>(windows.size());
  const auto length = count == 0 ? 0 : static_cast<int32_t>(windows[0].size());
  const int32_t blocks = (length + kBlockTokens - 1) / kBlockTokens;
  if (length < 2 || count * blocks > runner.info().blocks_total || length > runner.info().context_tokens)
    throw std::invalid_argument("the KV pool or the context is too small for these windows");
  std::vector<std::vector<int32_t>> tables(windows.size());
  for (int32_t i = 0; i < count; ++i) {
    if (static_cast<int32_t>(windows[static_cast<size_t>(i)].size()) != length)
      throw std::invalid_argument("windows must have one length");
    for (int32_t block = 0; block < blocks; ++block) tables[static_cast<size_t>(i)].push_back(i * blocks + block);
  }
  const auto vocab = static_cast<size_t>(runner.info().vocab_size);
  std::vector<float> logits(windows.size() * vocab);
  std::vector<int32_t> ids(windows.size());
  std::vector<int32_t> positions(windows.size());
  std::vector<StepSequence> shares(windows.size());
  double sum = 0;
  for (int32_t position = 0; position + 1 < length; ++position) {
    for (size_t i = 0; i < windows.size(); ++i) {
      ids[i] = windows[i][static_cast<size_t>(position)];
      positions[i] = position;
      shares[i].first_row = static_cast<int32_t>(i);
      shares[i].rows = 1;
      shares[i].kv_tokens = position + 1;
      shares[i].block_table = std::span(tables[i]).first(static_cast<size_t>(position / kBlockTokens + 1));
      shares[i].wants_logits = true;
    }
    runner.forward({ids, positions, shares}, logits);
    for (size_t i = 0; i < windows.size(); ++i)
      sum -= log_probability(std::span(logits).subspan(i * vocab, vocab), windows[i][static_cast<size_t>(position) + 1]);
  }
  return std::exp(sum / (static_cast<double>(count) * (length - 1)));
}

}  // namespace penstock::bench
