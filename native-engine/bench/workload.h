// Sequences of a known length on a Runner, as a scheduler would drive them, without sampling: ids are a fixed function of
// the position, so that another engine can be given the very same work. Owns blocks and timing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/runner.h"

namespace penstock::bench {

// The id at a position of a sequence: spread over the vocabulary. bench/engine/peer.ts has the same function.
inline int32_t token_at(int32_t position, int32_t vocab_size) {
  return static_cast<int32_t>((int64_t{position} * 7919 + 13) % vocab_size);
}

// How long a piece of work took: on the clock, and summed over the cores that computed it. On a machine with other work
// the second is the steadier one, for a single thread: waiting for another costs time of its own.
struct Taken {
  double seconds;
  double cpu_seconds;
};

class Workload {
 public:
  // Each of `sequences` may hold tokens_max tokens, in blocks from `first_block` on. Throws std::invalid_argument when
  // the KV pool is too small.
  Workload(Runner& runner, int32_t sequences, int32_t tokens_max, int32_t step_tokens_max, int32_t first_block);

  // Blocks that this workload occupies.
  int32_t blocks() const { return static_cast<int32_t>(tables_.size() * tables_[0].size()); }

  int32_t sequences() const { return static_cast<int32_t>(tables_.size()); }

  // Computes `tokens` tokens of the first sequence from nothing, in chunks of step_tokens_max, with logits at the last.
  Taken prefill(int32_t tokens);

  // Computes `tokens` tokens of the first sequence behind `context` others, in chunks of step_tokens_max, with logits at
  // the last. What is missing of the context is computed before, outside the time.
  Taken extend(int32_t context, int32_t tokens);

  // `steps` decode steps of the first `count` sequences at once, from a context of `context` tokens each; logits for
  // every row. What is missing of the context is computed before, outside the time.
  Taken decode(int32_t context, int32_t steps, int32_t count);

 private:
  // Advances `count` sequences by `rows` tokens from `computed`.
  void step(int32_t count, int32_t computed, int32_t rows, bool wants_logits);

  Runner& runner_;
  int32_t tokens_max_;
  int32_t step_tokens_max_;
  std::vector<std::vector<int32_t>> tables_;  // blocks of each sequence
  std::vector<int32_t> computed_;             // tokens of each sequence whose K and V are valid
  std::vector<int32_t> ids_;
  std::vector<int32_t> positions_;
  std::vector<StepSequence> shares_;
  std::vector<float> logits_;
};

}  // namespace penstock::bench
