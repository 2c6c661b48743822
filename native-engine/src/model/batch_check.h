// What every runner checks of a step, and which of its rows are read in the end. Pure; batch.h says what is promised.
#pragma once

#include <cstdint>
#include <span>

#include "model/batch.h"

namespace penstock {

struct DecoderLimits {
  int32_t context_tokens;  // longest sequence
  int32_t step_tokens;     // most rows of a batch
  int32_t step_sequences;  // most sequences of a batch
};

struct BatchBounds {
  DecoderLimits limits;
  int32_t vocab_size;
  int32_t dim;
  int32_t blocks_total;
};

// Where logits go that are computed.
enum class LogitsTo : uint8_t { caller, device };

// Throws std::logic_error when the batch, or the room for its logits, breaks the promises of batch.h.
void check_batch(const StepBatch& batch, std::span<const float> logits, const BatchBounds& bounds,
                 LogitsTo to = LogitsTo::caller);

// Rows whose final states somebody reads: of a prompt only the last, unless all of them are pooled.
int32_t rows_read(const StepSequence& sequence);
int32_t rows_read(const StepBatch& batch);

}  // namespace penstock
