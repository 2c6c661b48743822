// Checks of a step. See batch_check.h.
#include "model/batch_check.h"

#include <stdexcept>
#include <string>

namespace penstock {

void check_batch(const StepBatch& batch, std::span<const float> logits, const BatchBounds& bounds, LogitsTo to) {
  const auto require = [](bool holds, const char* promise) {
    if (!holds) throw std::logic_error(std::string("StepBatch: ") + promise);
  };
  const DecoderLimits& limits = bounds.limits;
  const size_t rows = batch.token_ids.size();
  require(rows >= 1 && rows <= static_cast<size_t>(limits.step_tokens), "1 to step_tokens rows");
  require(batch.positions.size() == rows, "one position per row");
  require(batch.sequences.size() <= static_cast<size_t>(limits.step_sequences), "at most step_sequences sequences");
  for (int32_t id : batch.token_ids) require(id >= 0 && id < bounds.vocab_size, "token ids within the vocabulary");
  size_t next_row = 0;
  size_t wanting = 0;
  for (const StepSequence& s : batch.sequences) {
    require(s.rows >= 1 && s.first_row >= 0 && static_cast<size_t>(s.first_row) == next_row,
            "sequences in order of rows");
    next_row += static_cast<size_t>(s.rows);
    require(next_row <= rows, "sequences cover exactly the rows");
    require(s.kv_tokens >= s.rows && s.kv_tokens <= limits.context_tokens, "kv_tokens within rows and context");
    const auto blocks = static_cast<size_t>((s.kv_tokens + kBlockTokens - 1) / kBlockTokens);
    require(s.block_table.size() >= blocks, "a block for every token");
    for (size_t i = 0; i < blocks; ++i) {
      require(s.block_table[i] >= 0 && s.block_table[i] < bounds.blocks_total, "block ids within the pool");
    }
    for (int32_t i = 0; i < s.rows; ++i) {
      require(batch.positions[static_cast<size_t>(s.first_row + i)] == s.kv_tokens - s.rows + i,
              "consecutive positions");
    }
    wanting += s.wants_logits ? 1 : 0;
    require(s.pooling == Pooling::none || s.pooled.size() == static_cast<size_t>(bounds.dim), "room for what is pooled");
  }
  require(next_row == rows, "sequences cover exactly the rows");
  require(to == LogitsTo::device || logits.size() >= wanting * static_cast<size_t>(bounds.vocab_size), "room for the logits wanted");
}

int32_t rows_read(const StepSequence& s) {
  if (s.pooling == Pooling::mean) return s.rows;
  return s.wants_logits || s.pooling == Pooling::last ? 1 : 0;
}

int32_t rows_read(const StepBatch& batch) {
  int32_t rows = 0;
  for (const StepSequence& s : batch.sequences) rows += rows_read(s);
  return rows;
}

}  // namespace penstock
