// A scheduler and a fake model that tests step by hand.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "fake_runner.h"
#include "sched/scheduler.h"

namespace penstock::testing {

inline constexpr int32_t kVocab = 97;

struct Row {
  uint64_t id;
  int32_t rows;
  bool operator==(const Row&) const = default;
};
inline void PrintTo(const Row& row, std::ostream* out) { *out << row.id << "x" << row.rows; }
using Rows = std::vector<Row>;

// A scheduler and a fake model, stepped by hand.
class Bench {
 public:
  explicit Bench(SchedulerConfig config)
      : scheduler(config), runner(config.blocks_total, config.context_tokens, kVocab, config.step_tokens_max) {}

  static Request request(uint64_t id, int32_t prompt_tokens, int32_t max_new_tokens) {
    Request r;
    r.id = id;
    for (int32_t i = 0; i < prompt_tokens; ++i)
      r.prompt.push_back(static_cast<int32_t>((id * 31 + static_cast<uint64_t>(i)) % kVocab));
    r.max_new_tokens = max_new_tokens;
    r.credit_tokens = 1'000'000;
    return r;
  }

  // One step; what was in it.
  Rows step() {
    StepPlan& plan = scheduler.plan(now_ms);
    Rows rows;
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      rows.push_back({plan.owners[i]->request.id, plan.sequences[i].rows});
      rows_computed += plan.sequences[i].rows;
      if (plan.sequences[i].pooling == Pooling::none) continue;
      plan.sequences[i].pooled = accumulators[plan.owners[i]->request.id];
      if (plan.sequences[i].kv_tokens == plan.sequences[i].rows) std::ranges::fill(plan.sequences[i].pooled, 0.0f);
    }
    if (!plan.empty()) {
      std::vector<float> logits(plan.sampling.size() * kVocab);
      runner.forward(plan.batch(), logits);
      std::vector<Drawn> sampled;
      for (size_t i = 0; i < plan.sampling.size(); ++i) {
        const auto first = logits.begin() + static_cast<std::ptrdiff_t>(i * kVocab);
        const auto token = static_cast<int32_t>(std::max_element(first, first + kVocab) - first);
        sampled.emplace_back(token);
        outputs[plan.sampling[i]->request.id].push_back(token);
      }
      scheduler.apply(sampled);
    }
    collect();
    scheduler.check_integrity();
    return rows;
  }
  void collect() {
    std::vector<Finished> ended;
    scheduler.take_finished(ended);
    for (const Finished& f : ended)
      EXPECT_TRUE(finished.emplace(f.id, f).second) << "sequence " << f.id << " ended twice";
  }
  int run_dry(int steps_max = 10'000) {
    int steps = 0;
    while (!step().empty() && steps < steps_max) ++steps;
    return steps;
  }
  static std::vector<int32_t> alone(const Request& r, size_t count) {
    std::vector<int32_t> tokens = r.prompt;
    while (tokens.size() < r.prompt.size() + count) tokens.push_back(fake_next_token(tokens, kVocab));
    return {tokens.begin() + static_cast<std::ptrdiff_t>(r.prompt.size()), tokens.end()};
  }

  Scheduler scheduler;
  FakeRunner runner;
  int64_t now_ms = 0;
  std::map<uint64_t, Finished> finished;
  std::map<uint64_t, std::vector<int32_t>> outputs;
  std::map<uint64_t, std::array<float, kFakeEmbeddingDims>> accumulators;
  int64_t rows_computed = 0;
};

inline SchedulerConfig config(int32_t blocks, int32_t sequences = 4, int32_t step_tokens = 32, int32_t context = 256) {
  return {
      .blocks_total = blocks, .context_tokens = context, .sequences_max = sequences, .step_tokens_max = step_tokens};
}

}  // namespace penstock::testing
