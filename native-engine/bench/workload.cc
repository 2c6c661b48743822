#include "workload.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <stdexcept>

namespace penstock::bench {

namespace {

class Stopwatch {
 public:
  Taken taken() const {
    return {std::chrono::duration<double>(Clock::now() - start_).count(),
            static_cast<double>(std::clock() - cpu_start_) / CLOCKS_PER_SEC};
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  std::clock_t cpu_start_ = std::clock();
};

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

Taken Workload::prefill(int32_t tokens) {
  if (tokens < 1 || tokens > tokens_max_) throw std::invalid_argument("this many tokens do not fit a sequence");
  const Stopwatch watch;
  for (int32_t done = 0; done < tokens; done += step_tokens_max_) {
    const int32_t rows = std::min(step_tokens_max_, tokens - done);
    step(1, done, rows, done + rows == tokens);
  }
  const Taken taken = watch.taken();
  computed_[0] = std::max(computed_[0], tokens);
  return taken;
}

Taken Workload::extend(int32_t context, int32_t tokens) {
  if (context < 1 || tokens < 1 || context + tokens > tokens_max_)
    throw std::invalid_argument("this many tokens do not fit a sequence");
  if (computed_[0] < context) prefill(context);
  const Stopwatch watch;
  for (int32_t done = 0; done < tokens; done += step_tokens_max_) {
    const int32_t rows = std::min(step_tokens_max_, tokens - done);
    step(1, context + done, rows, done + rows == tokens);
  }
  return watch.taken();
}

Taken Workload::decode(int32_t context, int32_t steps, int32_t count) {
  if (context < 1 || steps < 1 || context + steps > tokens_max_ || count < 1 || count > sequences())
    throw std::invalid_argument("this many tokens or sequences do not fit");
  // All sequences have the same tokens, so every one of them lacks what the shortest lacks.
  const int32_t have = *std::min_element(computed_.begin(), computed_.begin() + count);
  const int32_t rows_max = std::max(1, step_tokens_max_ / count);
  for (int32_t done = have; done < context; done += rows_max)
    step(count, done, std::min(rows_max, context - done), false);
  for (int32_t i = 0; i < count; ++i) {
    int32_t& computed = computed_[static_cast<size_t>(i)];
    computed = std::max(computed, context);
  }
  const Stopwatch watch;
  for (int32_t i = 0; i < steps; ++i) step(count, context + i, 1, true);
  return watch.taken();
}

}  // namespace penstock::bench
