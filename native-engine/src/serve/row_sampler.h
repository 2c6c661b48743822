// Tokens for the rows of a step, side by side. Owns the hand-out of rows to threads, or to the device that has their logits, and
// what a row's grammar says before and after the draw; the draw itself is model/sampler.h or model/device_sampler.h, what becomes
// of a token is loop.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "grammar/mask_pool.h"
#include "model/device_sampler.h"
#include "model/runner.h"
#include "model/sampler.h"
#include "sched/scheduler.h"

namespace penstock {

struct SampledRow {
  Drawn drawn = FinishReason::Internal;  // until one is drawn
  bool shown = false;  // the token is text: neither a stop token nor one that ends the grammar's text
  float logprob = 0;
  std::vector<TokenLogprob> top;
  std::string error;  // why there is no token
  std::vector<std::optional<Sampled>> firsts;  // of one that hands over, for each of its draw_seeds
};

class RowSampler {
 public:
  // rows_max: rows of one step at most.
  RowSampler(Runner& runner, MaskPool& masks, int32_t rows_max);

  // logits [sequences, vocab_size], changed in place; where the runner has a device_sampler(), room for those that are fetched. A
  // row's outcome does not depend on the others, nor on how many threads there are. Valid until the next call. Allocates only for
  // log-probabilities, grammars, tokens that are handed over and errors.
  std::span<SampledRow> sample(std::span<Sequence* const> sequences, std::span<float> logits);

  // A token was drawn, here or elsewhere: whether it is shown, and what the request's grammar, which moves on, says to it. Throws
  // nothing.
  static void settle(const Request& request, int32_t token, SampledRow& row);
  // Whether it could have been drawn here: it is a token, and the grammar allows it.
  static bool allows(const Request& request, int32_t token, int32_t vocab_size);

 private:
  static void begin(SampledRow& row);
  static bool take_mask(const Request& request, SampledRow& row, std::span<const uint32_t>& mask);
  void sample_here(std::span<Sequence* const> sequences, std::span<const int32_t> which, std::span<float> logits);
  void sample_firsts(size_t thread, const Sequence& sequence, std::span<const float> logits, SampledRow& row);
  void sample_row(Sampler& sampler, const Sequence& sequence, std::span<float> logits, SampledRow& row);
  void sample_on(DeviceSampler& device, std::span<Sequence* const> sequences, std::span<float> logits);

  Runner& runner_;
  MaskPool& masks_;
  std::vector<Sampler> samplers_;  // one per thread
  std::vector<std::vector<float>> copies_;  // one per thread, of a row from which several tokens are drawn
  std::vector<SampledRow> rows_;
  std::vector<std::shared_ptr<SequenceGrammar>> next_masks_;
  std::vector<int32_t> here_;  // rows that the processor draws for
  // Of rows that a device draws for.
  std::vector<DeviceRow> device_rows_;
  std::vector<int32_t> device_tokens_;
};

}  // namespace penstock
