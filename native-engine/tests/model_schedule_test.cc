// The real scheduler over the real decoder: what a sequence says, bit for bit, does not depend on how it was scheduled,
// and a step allocates nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <random>

#include "model/load.h"
#include "model/sampler.h"
#include "model_fixtures.h"
#include "run_sequences.h"
#include "sched/scheduler.h"

namespace {
std::atomic<uint64_t> g_allocations{0};

void* counted(std::size_t bytes, std::size_t alignment) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = alignment <= alignof(std::max_align_t) ? std::malloc(bytes == 0 ? 1 : bytes)
                                                        : std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

// Of every thread of this binary.
void* operator new(std::size_t bytes) { return counted(bytes, 1); }
void* operator new[](std::size_t bytes) { return counted(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr int32_t kStepTokensMax = 64;
constexpr int32_t kSequencesMax = 6;
constexpr int32_t kOutputMax = 24;

std::unique_ptr<Runner> load(const TempFile& file, int32_t threads, KvType kv_type, int32_t blocks) {
  LoadOptions options;
  options.path = file.path();
  options.threads = threads;
  options.blocks_total = blocks;
  options.step_tokens_max = kStepTokensMax;
  options.step_sequences_max = kSequencesMax;
  options.kv_type = kv_type;
  return load_model(options);
}

// A row of logits as a number: equal bits, equal number.
uint64_t digest(std::span<const float> logits) {
  uint64_t hash = 1469598103934665603u;
  for (const float logit : logits) {
    uint32_t bits = 0;
    std::memcpy(&bits, &logit, sizeof bits);
    hash = (hash ^ bits) * 1099511628211u;
  }
  return hash;
}

int32_t largest_of(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

struct Said {
  std::vector<int32_t> tokens;
  std::vector<uint64_t> digests;  // of the logits each token was taken from
};

// Greedy, alone, in chunks of its own.
Said alone(Runner& runner, const std::vector<int32_t>& prompt) {
  Said said;
  TestBlocks blocks(runner.info().blocks_total, 3);
  std::vector<TestSequence> one(1);
  one[0].tokens = prompt;
  for (int32_t i = 0; i < kOutputMax; ++i) {
    catch_up(runner, blocks, one, 0, 41);
    said.digests.push_back(digest(one[0].logits));
    said.tokens.push_back(largest(one[0].logits));
    one[0].tokens.push_back(said.tokens.back());
  }
  return said;
}

// Prompts with beginnings in common, of lengths around block borders.
std::vector<std::vector<int32_t>> prompts(int32_t vocab_size) {
  std::mt19937 random(11);
  const auto ids = [&](size_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& id : tokens) id = 3 + static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size - 3));
    return tokens;
  };
  const std::vector<int32_t> system = ids(52), other = ids(17);
  std::vector<std::vector<int32_t>> all;
  for (const size_t own : {0u, 12u, 28u, 5u, 60u}) {
    std::vector<int32_t> prompt = system;
    const auto rest = ids(own);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    all.push_back(prompt);
  }
  all.push_back(other);
  all.push_back(ids(1));
  return all;
}

class Schedules {
 public:
  Schedules(Runner& runner, const std::vector<std::vector<int32_t>>& all, const std::vector<Said>& expected,
            uint32_t seed)
      : runner_(runner), prompts_(all), expected_(expected), random_(seed), scheduler_(config()) {}

  void run(uint64_t requests) {
    uint64_t submitted = 0;
    for (int steps = 0; submitted < requests || !scheduler_.idle(); ++steps) {
      ASSERT_LT(steps, 20'000) << "livelock";
      while (submitted < requests && pick(0, 2) == 0) submit(submitted++);
      if (pick(0, 60) == 0) scheduler_.cancel(static_cast<uint64_t>(pick(0, static_cast<int32_t>(submitted))));
      for (auto& [id, which] : which_) {
        if (pick(0, 3) == 0) scheduler_.add_credit(id, static_cast<uint64_t>(pick(1, 8)));
      }
      step();
      scheduler_.check_integrity();
      if (::testing::Test::HasFailure()) return;
    }
  }
  SchedulerStats stats() const { return scheduler_.stats(); }
  uint64_t rows_checked() const { return rows_checked_; }

 private:
  int32_t pick(int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(random_); }

  SchedulerConfig config() {
    SchedulerConfig c;
    c.blocks_total = runner_.info().blocks_total;
    c.context_tokens = runner_.info().context_tokens;
    c.sequences_max = pick(2, kSequencesMax);
    c.step_tokens_max = pick(c.sequences_max, kStepTokensMax);
    if (pick(0, 1) == 0) c.prefill_tokens_max = pick(1, 20);
    return c;
  }

  void submit(uint64_t id) {
    Request r;
    r.id = id;
    which_[id] = static_cast<size_t>(pick(0, static_cast<int32_t>(prompts_.size()) - 1));
    r.prompt = prompts_[which_[id]];
    r.max_new_tokens = pick(1, kOutputMax);
    r.credit_tokens = static_cast<uint64_t>(pick(0, 12));
    r.priority = pick(-1, 1);
    r.tenant = static_cast<uint64_t>(pick(0, 2));
    r.salt = pick(0, 4) == 0 ? 1 : 0;
    ASSERT_EQ(scheduler_.submit(std::move(r)), std::nullopt);
  }

  void step() {
    StepPlan& plan = scheduler_.plan(0);
    if (plan.empty()) return;
    const auto vocab = static_cast<size_t>(runner_.info().vocab_size);
    logits_.resize(plan.sampling.size() * vocab);
    runner_.forward(plan.batch(), logits_);
    std::vector<Drawn> drawn;
    for (size_t i = 0; i < plan.sampling.size(); ++i) {
      const Sequence& sequence = *plan.sampling[i];
      const auto row = std::span<const float>(logits_).subspan(i * vocab, vocab);
      const Said& said = expected_[which_.at(sequence.request.id)];
      const auto at = static_cast<size_t>(sequence.output_tokens());
      ASSERT_EQ(digest(row), said.digests[at]) << "logits of output token " << at << " differ in their bits";
      ASSERT_EQ(largest_of(row), said.tokens[at]);
      drawn.emplace_back(largest_of(row));
      ++rows_checked_;
    }
    scheduler_.apply(drawn);
    scheduler_.take_finished(finished_);
    for (const Finished& f : finished_) which_.erase(f.id);
  }

  Runner& runner_;
  const std::vector<std::vector<int32_t>>& prompts_;
  const std::vector<Said>& expected_;
  std::mt19937 random_;
  Scheduler scheduler_;
  std::map<uint64_t, size_t> which_;  // prompt of each live request
  std::vector<float> logits_;
  std::vector<Finished> finished_;
  uint64_t rows_checked_ = 0;
};

struct ModelCase {
  const char* name;
  std::vector<uint8_t> (*file)();
  KvType kv_type;
};

std::vector<uint8_t> small_model() {
  constexpr ModelShape kShape{
      .dim = 64, .ffn_dim = 128, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 32, .vocab = 200, .context = 256};
  return random_model(kShape, TensorType::q8_0, TensorType::q8_0, true, 9);
}

class AnySchedule : public ::testing::TestWithParam<ModelCase> {};

INSTANTIATE_TEST_SUITE_P(Models, AnySchedule,
                         ::testing::Values(ModelCase{"Stories260K", stories_gguf, KvType::f16},
                                           ModelCase{"SmallWithQ8Cache", small_model, KvType::q8_0}),
                         [](const auto& model) { return std::string(model.param.name); });

TEST_P(AnySchedule, GivesTheBitsOfASequenceAlone) {
  const TempFile file(GetParam().file());
  const auto single = load(file, 1, GetParam().kv_type, 64);
  const auto all = prompts(single->info().vocab_size);
  std::vector<Said> expected;
  for (const auto& prompt : all) expected.push_back(alone(*single, prompt));
  const uint32_t seed = std::random_device{}();
  uint64_t preemptions = 0, cached_tokens = 0, rows = 0;
  for (int32_t threads = 1; threads <= 4; ++threads) {
    // Tight enough that sequences push each other out; the longest of them fits alone.
    const auto runner = load(file, threads, GetParam().kv_type, 16);
    for (uint32_t round = 0; round < 3; ++round) {
      const uint32_t this_seed = seed + static_cast<uint32_t>(threads) * 10 + round;
      SCOPED_TRACE("seed " + std::to_string(this_seed) + ", threads " + std::to_string(threads));
      Schedules schedules(*runner, all, expected, this_seed);
      schedules.run(24);
      if (HasFailure()) return;
      const SchedulerStats stats = schedules.stats();
      EXPECT_EQ(stats.blocks_used, 0);
      preemptions += stats.preemptions;
      cached_tokens += stats.cached_tokens;
      rows += schedules.rows_checked();
    }
  }
  // A run that never gets tight and never finds anything proves nothing.
  EXPECT_GT(preemptions, 0u);
  EXPECT_GT(cached_tokens, 0u);
  EXPECT_GT(rows, 500u);
}

// Covered: planning, admission and ends included, the decoder, the sampler without log-probabilities, applying. Not
// covered: submit(), which reserves what a sequence needs, and sending frames.
TEST(StepLoopMemory, AThousandStepsOfDecodingAndPrefillAllocateNothing) {
  const TempFile file(stories_gguf());
  const auto runner = load(file, 2, KvType::f16, 20);
  SchedulerConfig config;
  config.blocks_total = runner->info().blocks_total;
  config.context_tokens = runner->info().context_tokens;
  config.sequences_max = kSequencesMax;
  config.step_tokens_max = kStepTokensMax;
  Scheduler scheduler(config);
  Sampler sampler;
  const auto vocab = static_cast<size_t>(runner->info().vocab_size);
  std::vector<float> logits(kSequencesMax * vocab);
  std::vector<Drawn> drawn;
  drawn.reserve(kSequencesMax);
  std::vector<Finished> finished;
  finished.reserve(kSequencesMax);
  std::vector<BlockEvent> events;
  events.reserve(static_cast<size_t>(config.blocks_total) + 1);
  const auto all = prompts(runner->info().vocab_size);
  std::mt19937 random(4);
  uint64_t id = 0, in_steps = 0, prefill_rows = 0, decode_rows = 0;
  for (int step = 0; step < 1100; ++step) {
    while (scheduler.stats().waiting < 3) {
      Request r;
      r.id = id++;
      r.prompt = all[random() % all.size()];
      r.max_new_tokens = 1 + static_cast<int32_t>(random() % 100);
      r.credit_tokens = 1000;
      r.tenant = random() % 3;
      r.sampling.temperature = static_cast<float>(random() % 2);
      r.sampling.top_p = 0.9f;
      r.sampling.top_k = random() % 2 == 0 ? 20 : 0;
      r.sampling.frequency_penalty = 0.1f;
      r.sampling.seed = r.id;
      if (random() % 3 == 0) r.deadline_ms = step + 20;
      ASSERT_EQ(scheduler.submit(std::move(r)), std::nullopt);
    }
    const uint64_t before = g_allocations.load();
    StepPlan& plan = scheduler.plan(step);
    const auto rows = std::span(logits).first(plan.sampling.size() * vocab);
    if (!plan.empty()) {
      runner->forward(plan.batch(), rows);
      drawn.clear();
      for (size_t i = 0; i < plan.sampling.size(); ++i) {
        const Sequence& s = *plan.sampling[i];
        const Sampled sampled =
            sampler.sample(rows.subspan(i * vocab, vocab), s.request.sampling, s.request.prompt, s.output());
        drawn.emplace_back(sampled.token);
      }
      prefill_rows += static_cast<uint64_t>(plan.prefill_tokens);
      decode_rows += static_cast<uint64_t>(plan.decode_tokens);
      scheduler.apply(drawn);
    }
    scheduler.take_finished(finished);
    scheduler.take_block_events(events, config.blocks_total + 1);
    if (step >= 100) in_steps += g_allocations.load() - before;
  }
  EXPECT_EQ(in_steps, 0u);
  EXPECT_GT(prefill_rows, 1000u);
  EXPECT_GT(decode_rows, 1000u);
  EXPECT_GT(scheduler.stats().preemptions, 0u);
  EXPECT_GT(scheduler.stats().cached_tokens, 0u);
  scheduler.check_integrity();
}

}  // namespace
}  // namespace penstock
