// Rows to threads. See row_sampler.h.
#include "serve/row_sampler.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <numeric>
#include <utility>
#include <variant>

namespace penstock {

RowSampler::RowSampler(Runner& runner, MaskPool& masks, int32_t rows_max)
    : runner_(runner),
      masks_(masks),
      samplers_(static_cast<size_t>(std::min(runner.threads(), rows_max))),
      copies_(samplers_.size()),
      rows_(static_cast<size_t>(rows_max)) {
  next_masks_.reserve(rows_.size());
  here_.reserve(rows_.size());
  device_rows_.reserve(rows_.size());
  device_tokens_.reserve(rows_.size());
}

std::span<SampledRow> RowSampler::sample(std::span<Sequence* const> sequences, std::span<float> logits) {
  const size_t count = sequences.size();
  for (SampledRow& row : std::span(rows_).first(count)) begin(row);
  if (DeviceSampler* device = runner_.device_sampler()) {
    sample_on(*device, sequences, logits);
  } else {
    here_.resize(count);
    std::iota(here_.begin(), here_.end(), 0);
    sample_here(sequences, here_, logits);
  }

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

// Rows are taken one by one, since they differ in cost; a chunk of the runner's is a thread with its scratch.
void RowSampler::sample_here(std::span<Sequence* const> sequences, std::span<const int32_t> which,
                             std::span<float> logits) {
  const size_t vocab = static_cast<size_t>(runner_.info().vocab_size);
  std::atomic<size_t> next{0};
  const auto work = [&](int32_t chunk) {
    for (size_t i; (i = next.fetch_add(1)) < which.size();) {
      const auto row = static_cast<size_t>(which[i]);
      const std::span<float> own = logits.subspan(i * vocab, vocab);
      if (sequences[row]->draws())
        sample_firsts(static_cast<size_t>(chunk), *sequences[row], own, rows_[row]);
      else
        sample_row(samplers_[static_cast<size_t>(chunk)], *sequences[row], own, rows_[row]);
    }
  };
  runner_.parallel(static_cast<int32_t>(std::min(samplers_.size(), which.size())), work);
}

// Log-probabilities are of all tokens, so their rows come here, and so does what the device has no room for, and rows from which
// several tokens may be drawn.
void RowSampler::sample_on(DeviceSampler& device, std::span<Sequence* const> sequences, std::span<float> logits) {
  const size_t vocab = static_cast<size_t>(runner_.info().vocab_size);
  here_.clear();
  device_rows_.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& sequence = *sequences[i];
    const SamplingParams& params = sequence.request.sampling;
    DeviceRow row{.params = &params, .prompt = sequence.request.prompt, .output = sequence.output(), .mask = {}};
    bool draws = params.logprobs_top < 0 && !sequence.draws() && device.fits(row);
    if (!draws) here_.push_back(static_cast<int32_t>(i));
    draws = draws && take_mask(sequence.request, rows_[i], row.mask);
    if (!draws) row.params = nullptr;
    device_rows_.push_back(row);
  }
  // Before they are changed.
  if (!here_.empty()) device.read_logits(here_, logits.first(here_.size() * vocab));
  device_tokens_.resize(sequences.size());
  if (here_.size() < sequences.size()) device.sample(device_rows_, device_tokens_);
  sample_here(sequences, here_, logits);
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (device_rows_[i].params == nullptr) continue;
    SampledRow& row = rows_[i];
    const int32_t token = device_tokens_[i];
    if (token == kNotFiniteDrawn)
      row.error = "a logit is not finite";
    else if (token < 0)
      row.error = "no token is possible";
    else
      settle(sequences[i]->request, token, row);
  }
}

void RowSampler::begin(SampledRow& row) {
  row.drawn = FinishReason::Internal;
  row.shown = false;
  row.logprob = 0;
  row.top.clear();
  row.error.clear();
  row.firsts.clear();
}

// False: the grammar allows no token, and the row says so.
bool RowSampler::take_mask(const Request& request, SampledRow& row, std::span<const uint32_t>& mask) {
  SequenceGrammar* grammar = request.grammar.get();
  if (grammar == nullptr) return true;
  try {
    mask = grammar->mask();
    if (!mask.empty()) return true;
    row.drawn = FinishReason::Grammar;
    row.error = "the grammar allows no token: " + grammar->error();
  } catch (const std::exception& error) {
    row.error = error.what();
  }
  return false;
}

void RowSampler::settle(const Request& request, int32_t token, SampledRow& row) {
  SequenceGrammar* grammar = request.grammar.get();
  try {
    row.shown = !request.stops_at(token);
    if (grammar != nullptr && row.shown) {
      row.shown = !grammar->is_end(token);
      const GrammarMatcher::State state = grammar->consume(token);
      if (state == GrammarMatcher::State::complete) {
        row.drawn = LastToken{token};
        return;
      }
      if (state == GrammarMatcher::State::failed) {
        row.drawn = FinishReason::Grammar;
        row.error = "the grammar failed: " + grammar->error();
        return;
      }
    }
    row.drawn = token;
  } catch (const std::exception& error) {
    row.error = error.what();
  }
}

bool RowSampler::allows(const Request& request, int32_t token, int32_t vocab_size) {
  if (token < 0 || token >= vocab_size) return false;
  SampledRow unused;
  std::span<const uint32_t> mask;
  if (!take_mask(request, unused, mask)) return false;
  const auto word = static_cast<size_t>(token / 32);
  return mask.empty() || (word < mask.size() && (mask[word] >> (token % 32) & 1) != 0);
}

// What no token can be drawn from gives none: the engine that gets the blocks finds out why.
void RowSampler::sample_firsts(size_t thread, const Sequence& sequence, std::span<const float> logits, SampledRow& row) {
  const Request& request = sequence.request;
  row.firsts.assign(request.draw_seeds.size(), std::nullopt);
  try {
    std::span<const uint32_t> mask;
    if (!take_mask(request, row, mask)) return;
    const auto prompt_tokens = static_cast<size_t>(request.draw_prompt_tokens);
    const std::span<const int32_t> prompt(request.prompt);
    SamplingParams params = request.sampling;
    for (size_t i = 0; i < request.draw_seeds.size(); ++i) {
      copies_[thread].assign(logits.begin(), logits.end());
      params.seed = request.draw_seeds[i];
      row.firsts[i] =
          samplers_[thread].sample(copies_[thread], params, prompt.first(prompt_tokens), prompt.subspan(prompt_tokens), mask);
    }
  } catch (const std::exception& error) {
    row.error = error.what();
  }
}

// Throws nothing: a row that cannot be drawn from ends its own sequence, and the others go on.
void RowSampler::sample_row(Sampler& sampler, const Sequence& sequence, std::span<float> logits, SampledRow& row) {
  const Request& request = sequence.request;
  try {
    std::span<const uint32_t> mask;
    if (!take_mask(request, row, mask)) return;
    Sampled sampled = sampler.sample(logits, request.sampling, request.prompt, sequence.output(), mask);
    row.logprob = sampled.logprob;
    row.top = std::move(sampled.top);
    settle(request, sampled.token, row);
  } catch (const std::exception& error) {
    row.error = error.what();
  }
}

}  // namespace penstock
