// Rows to threads. See row_sampler.h.
#include "serve/row_sampler.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <utility>
#include <variant>

namespace penstock {

RowSampler::RowSampler(Runner& runner, MaskPool& masks, int32_t rows_max)
    : runner_(runner),
      masks_(masks),
      samplers_(static_cast<size_t>(std::min(runner.threads(), rows_max))),
      rows_(static_cast<size_t>(rows_max)) {
  next_masks_.reserve(rows_.size());
}

std::span<SampledRow> RowSampler::sample(std::span<Sequence* const> sequences, std::span<float> logits) {
  const size_t vocab = static_cast<size_t>(runner_.info().vocab_size);
  const size_t count = sequences.size();
  // Rows are taken one by one, since they differ in cost; a chunk of the runner's is a thread with its scratch.
  std::atomic<size_t> next{0};
  const auto work = [&](int32_t chunk) {
    for (size_t i; (i = next.fetch_add(1)) < count;)
      sample_row(samplers_[static_cast<size_t>(chunk)], *sequences[i], logits.subspan(i * vocab, vocab), rows_[i]);
  };
  runner_.parallel(static_cast<int32_t>(std::min(samplers_.size(), count)), work);

  next_masks_.clear();
  for (size_t i = 0; i < count; ++i) {
    const auto& grammar = sequences[i]->request.grammar;
    if (grammar != nullptr && rows_[i].shown && std::holds_alternative<int32_t>(rows_[i].drawn))
      next_masks_.push_back(grammar);
  }
  masks_.begin(next_masks_);
  next_masks_.clear();
  return std::span(rows_).first(count);
}

// Throws nothing: a row that cannot be drawn from ends its own sequence, and the others go on.
void RowSampler::sample_row(Sampler& sampler, const Sequence& sequence, std::span<float> logits, SampledRow& row) {
  row.drawn = FinishReason::Internal;
  row.shown = false;
  row.logprob = 0;
  row.top.clear();
  row.error.clear();
  const Request& request = sequence.request;
  SequenceGrammar* grammar = request.grammar.get();
  try {
    std::span<const uint32_t> mask;
    if (grammar != nullptr && (mask = grammar->mask()).empty()) {
      row.drawn = FinishReason::Grammar;
      row.error = "the grammar allows no token: " + grammar->error();
      return;
    }
    Sampled sampled = sampler.sample(logits, request.sampling, request.prompt, sequence.output(), mask);
    row.logprob = sampled.logprob;
    row.top = std::move(sampled.top);
    row.shown = !sequence.stops_at(sampled.token);
    row.drawn = sampled.token;
    if (grammar == nullptr || !row.shown) return;
    row.shown = !grammar->is_end(sampled.token);
    switch (grammar->consume(sampled.token)) {
      case GrammarMatcher::State::open:
        return;
      case GrammarMatcher::State::complete:
        row.drawn = LastToken{sampled.token};
        return;
      case GrammarMatcher::State::failed:
        row.drawn = FinishReason::Grammar;
        row.error = "the grammar failed: " + grammar->error();
    }
  } catch (const std::exception& error) {
    row.error = error.what();
  }
}

}  // namespace penstock
