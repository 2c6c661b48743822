// Drives a Runner as a scheduler would, for tests: sequences with scattered blocks, fed in any chunks and any company.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "model/runner.h"

namespace penstock::testing {

// Blocks of the pool in shuffled order, so that nothing passes because blocks happen to be neighbours.
class TestBlocks {
 public:
  TestBlocks(int32_t total, uint32_t seed) : free_(static_cast<size_t>(total)) {
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(seed));
  }
  int32_t take() {
    const int32_t block = free_.back();
    free_.pop_back();
    return block;
  }

 private:
  std::vector<int32_t> free_;
};

struct TestSequence {
  std::vector<int32_t> tokens;
  int32_t computed = 0;
  std::vector<int32_t> blocks;
  std::vector<float> logits;  // of the last computed row, when all tokens are computed
};

// One step: sequences[which[i]] advances by rows[i] tokens. Fills logits of those that have caught up.
inline void step(Runner& runner, TestBlocks& pool, std::vector<TestSequence>& sequences,
                 const std::vector<size_t>& which, const std::vector<int32_t>& rows, StepWatch* watch = nullptr) {
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;
  std::vector<StepSequence> shares;
  for (size_t i = 0; i < which.size(); ++i) {
    TestSequence& s = sequences[which[i]];
    const int32_t end = s.computed + rows[i];
    while (static_cast<int32_t>(s.blocks.size()) * kBlockTokens < end) s.blocks.push_back(pool.take());
    shares.push_back(
        {static_cast<int32_t>(ids.size()), rows[i], end, s.blocks, end == static_cast<int32_t>(s.tokens.size())});
    for (int32_t position = s.computed; position < end; ++position) {
      ids.push_back(s.tokens[static_cast<size_t>(position)]);
      positions.push_back(position);
    }
    s.computed = end;
  }
  const auto vocab = static_cast<size_t>(runner.info().vocab_size);
  const auto wanting =
      std::count_if(shares.begin(), shares.end(), [](const StepSequence& s) { return s.wants_logits; });
  std::vector<float> logits(static_cast<size_t>(wanting) * vocab);
  runner.forward({ids, positions, shares, watch}, logits);
  auto next = logits.begin();
  for (size_t i = 0; i < which.size(); ++i) {
    if (!shares[i].wants_logits) continue;
    sequences[which[i]].logits.assign(next, next + static_cast<int64_t>(vocab));
    next += static_cast<int64_t>(vocab);
  }
}

inline int32_t largest(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Feeds what is missing of one sequence in chunks of at most `chunk` tokens.
inline void catch_up(Runner& runner, TestBlocks& pool, std::vector<TestSequence>& sequences, size_t which,
                     int32_t chunk) {
  TestSequence& s = sequences[which];
  while (s.computed < static_cast<int32_t>(s.tokens.size())) {
    step(runner, pool, sequences, {which}, {std::min(chunk, static_cast<int32_t>(s.tokens.size()) - s.computed)});
  }
}

}  // namespace penstock::testing
