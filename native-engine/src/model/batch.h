// One step's work as flat arrays. Owns the shape of what the scheduler plans and the model runs; neither knows the
// other.
#pragma once

#include <cstdint>
#include <span>

namespace penstock {

// Tokens per KV block. A power of two; 16 keeps waste per sequence under 16 tokens and a block's K rows contiguous.
inline constexpr int32_t kBlockTokens = 16;

// What an embedding is made of: the mean of the final states of all tokens, or the state of the last one.
enum class Pooling : uint8_t { none = 0, mean = 1, last = 2 };

// One sequence's share of a step.
struct StepSequence {
  int32_t first_row;                     // its first row in StepBatch::token_ids
  int32_t rows;                          // tokens computed in this step, >= 1; 1 while decoding
  int32_t kv_tokens;                     // context length after this step = tokens computed before + rows
  std::span<const int32_t> block_table;  // [ceil(kv_tokens / kBlockTokens)] block ids, in order of position
  bool wants_logits;                     // logits of its last row are needed (the prompt is complete)
  Pooling pooling = Pooling::none;       // what to do with the normed final states of its rows
  std::span<float> pooled = {};          // [dim] mean: they are added, in order of position; last: the last one replaces
};

// Hears in the middle of a step how far it is.
class StepWatch {
 public:
  virtual ~StepWatch() = default;
  // K and V of every row of the batch are in the cache for the layers before `layers`, and nobody writes to them again in this
  // step. Called on the thread of forward(), more layers each time; where it is called at all and forward() does not throw, its
  // last call names all layers. Must not throw.
  virtual void layers_stored(int32_t layers) = 0;
  // Whether a call with so many layers would be more than noted. Of a device, where it has a price to know how far it is, the
  // runner asks, in the step, and makes those calls and the last one alone. Must not throw.
  virtual bool wants([[maybe_unused]] int32_t layers) const { return true; }
};

// A mixed batch: chunks of prompts and decode rows side by side.
struct StepBatch {
  std::span<const int32_t> token_ids;  // [rows]
  std::span<const int32_t> positions;  // [rows] position in its sequence, = kv_tokens - rows + i
  std::span<const StepSequence> sequences;
  StepWatch* watch = nullptr;  // a step that is one piece tells it nothing
};

}  // namespace penstock
