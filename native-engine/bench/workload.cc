#include "workload.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace penstock::bench {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

Workload::Workload(Runner& runner, int32_t sequences, int32_t tokens_max, int32_t step_tokens_max,
                   int32_t first_block)
    : runner_(runner), tokens_max_(tokens_max), step_tokens_max_(step_tokens_max) {
  const int32_t blocks = (tokens_max + kBlockTokens - 1) / kBlockTokens;
  if (sequences < 1 || first_block + sequences * blocks > runner.info().blocks_total || tokens_max > runner.info().context_tokens)
    throw std::invalid_argument("the KV pool or the context is too small for this workload");
  for (int32_t i = 0; i < sequences; ++i) {
    std::vector<int32_t> table;
    for (int32_t block = 0; block < blocks; ++block) table.push_back(first_block + i * blocks + block);
    tables_.push_back(table);
  }
  computed_.assign(static_cast<size_t>(sequences), 0);
  logits_.resize(static_cast<size_t>(sequences) * static_cast<size_t>(runner.info().vocab_size));
}

void Workload::step(int32_t count, int32_t computed, int32_t rows, bool wants_logits) {
  ids_.clear();
  positions_.clear();
  shares_.clear();
  const auto blocks = static_cast<size_t>((computed + rows + kBlockTokens - 1) / kBlockTokens);
  for (int32_t i = 0; i < count; ++i) {
    StepSequence share{};
    share.first_row = static_cast<int32_t>(ids_.size());
    share.rows = rows;
    share.kv_tokens = computed + rows;
    share.block_table = std::span(tables_[static_cast<size_t>(i)]).first(blocks);
    share.wants_logits = wants_logits;
    shares_.push_back(share);
    for (int32_t position = computed; position < computed + rows; ++position) {
      ids_.push_back(token_at(position, runner_.info().vocab_size));
      positions_.push_back(position);
    }
  }
  const auto wanted = wants_logits ? static_cast<size_t>(count) * static_cast<size_t>(runner_.info().vocab_size) : 0;
  runner_.forward({ids_, positions_, shares_}, std::span(logits_).first(wanted));
}

double Workload::prefill(int32_t tokens) {
  if (tokens < 1 || tokens > tokens_max_) throw std::invalid_argument("this many tokens do not fit a sequence");
  const auto start = Clock::now();
  for (int32_t done = 0; done < tokens; done += step_tokens_max_) {
    const int32_t rows = std::min(step_tokens_max_, tokens - done);
    step(1, done, rows, done + rows == tokens);
  }
  const double seconds = seconds_since(start);
  computed_[0] = std::max(computed_[0], tokens);
  return seconds;
}

double Workload::decode(int32_t context, int32_t steps, int32_t count) {
  if (context < 1 || steps < 1 || context + steps > tokens_max_ || count < 1 || count > sequences())
    throw std::invalid_argument("this many tokens or sequences do not fit");
  // All sequences have the same tokens, so every one of them lacks what the shortest lacks.
  const int32_t have = *std::min_element(computed_.begin(), computed_.begin() + count);
  const int32_t rows_max = std::max(1, step_tokens_max_ / count);
  for (int32_t done = have; done < context; done += rows_max)
    step(count, done, std::min(rows_max, context - done), false);
  for (int32_t i = 0; i < count; ++i) computed_[static_cast<size_t>(i)] = std::max(computed_[static_cast<size_t>(i)], context);
  const auto start = Clock::now();
  for (int32_t i = 0; i < steps; ++i) step(count, context + i, 1, true);
  return seconds_since(start);
}

}  // namespace penstock::bench
