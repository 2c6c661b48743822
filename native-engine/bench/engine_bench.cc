// How fast a model runs on this machine: prefill and decode rates, and decode's memory traffic against the measured
// ceiling. Every figure is the best of several rounds with the spread beside it, since a shared machine only ever slows
// a round down.
//
//   engine-bench MODEL.gguf [--threads N] [--prompt N] [--generate N] [--rounds N] [--kernels reference|avx2]
//                [--batches 1,2,4,8] [--ids 1,2,3 --show N]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "model/load.h"
#include "model/sampler.h"
#include "ops/bandwidth.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

struct Arguments {
  LoadOptions load;
  int32_t prompt_tokens = 512;
  int32_t generate_tokens = 32;
  int32_t rounds = 5;
  std::vector<int32_t> batches{1, 2, 4, 8};
  std::vector<int32_t> ids;  // a prompt to continue instead of measuring
  int32_t show_tokens = 48;
};

std::vector<int32_t> list(const std::string& text) {
  std::vector<int32_t> values;
  std::stringstream in(text);
  for (std::string item; std::getline(in, item, ',');) values.push_back(std::stoi(item));
  return values;
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  a.load.step_tokens_max = 512;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (!flag.starts_with("--")) {
      a.load.path = flag;
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(std::string(flag) + " needs a value");
    const std::string value = argv[++i];
    if (flag == "--threads")
      a.load.threads = std::stoi(value);
    else if (flag == "--prompt")
      a.prompt_tokens = std::stoi(value);
    else if (flag == "--generate")
      a.generate_tokens = std::stoi(value);
    else if (flag == "--rounds")
      a.rounds = std::stoi(value);
    else if (flag == "--kernels")
      a.load.kernels = value == "reference" ? KernelChoice::reference : KernelChoice::avx2;
    else if (flag == "--batches")
      a.batches = list(value);
    else if (flag == "--ids")
      a.ids = list(value);
    else if (flag == "--show")
      a.show_tokens = std::stoi(value);
    else
      throw std::invalid_argument("unknown option " + std::string(flag));
  }
  if (a.load.path.empty()) throw std::invalid_argument("usage: engine-bench MODEL.gguf [--threads N] [--prompt N] ...");
  return a;
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Spread {
  double best = 0;
  double worst = 0;
  void add(double rate) {
    worst = best == 0 ? rate : std::min(worst, rate);
    best = std::max(best, rate);
  }
};

// Sequences of equal length with blocks of their own, in the order of the pool.
class Batch {
 public:
  Batch(Runner& runner, int32_t sequences, int32_t tokens_max) : runner_(runner) {
    const int32_t blocks = (tokens_max + kBlockTokens - 1) / kBlockTokens;
    if (sequences * blocks > runner.info().blocks_total)
      throw std::invalid_argument("the KV pool is too small for this batch");
    for (int32_t i = 0; i < sequences; ++i) {
      std::vector<int32_t> table;
      for (int32_t block = 0; block < blocks; ++block) table.push_back(i * blocks + block);
      tables_.push_back(table);
    }
    logits_.resize(static_cast<size_t>(sequences) * static_cast<size_t>(runner.info().vocab_size));
  }

  // Advances every sequence by `ids` (the same ones), from `computed`.
  void step(std::span<const int32_t> ids, int32_t computed, bool wants_logits) {
    const auto rows = static_cast<int32_t>(ids.size());
    ids_.clear();
    positions_.clear();
    shares_.clear();
    for (const auto& table : tables_) {
      shares_.push_back({static_cast<int32_t>(ids_.size()), rows, computed + rows, table, wants_logits});
      ids_.insert(ids_.end(), ids.begin(), ids.end());
      for (int32_t i = 0; i < rows; ++i) positions_.push_back(computed + i);
    }
    runner_.forward({ids_, positions_, shares_}, logits_);
  }
  std::span<float> logits() { return logits_; }

 private:
  Runner& runner_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> positions_;
  std::vector<StepSequence> shares_;
  std::vector<float> logits_;
};

void continue_prompt(Runner& runner, const Arguments& a) {
  const auto prompt = static_cast<int32_t>(a.ids.size());
  Batch batch(runner, 1, prompt + a.show_tokens);
  Sampler sampler;
  SamplingParams greedy;
  greedy.temperature = 0;
  std::vector<int32_t> output;
  batch.step(a.ids, 0, true);
  while (static_cast<int32_t>(output.size()) < a.show_tokens) {
    output.push_back(sampler.sample(batch.logits(), greedy, a.ids, output).token);
    std::printf("%d%c", output.back(), static_cast<int32_t>(output.size()) == a.show_tokens ? '\n' : ',');
    batch.step({&output.back(), 1}, prompt + static_cast<int32_t>(output.size()) - 1, true);
  }
}

void measure_prefill(Runner& runner, const Arguments& a) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < a.prompt_tokens; ++i) ids.push_back((i * 7919 + 13) % runner.info().vocab_size);
  Batch batch(runner, 1, a.prompt_tokens);
  Spread rate;
  for (int32_t round = 0; round < a.rounds; ++round) {
    const auto start = Clock::now();
    for (int32_t done = 0; done < a.prompt_tokens; done += a.load.step_tokens_max) {
      const int32_t rows = std::min(a.load.step_tokens_max, a.prompt_tokens - done);
      batch.step(std::span(ids).subspan(static_cast<size_t>(done), static_cast<size_t>(rows)), done,
                 done + rows == a.prompt_tokens);
    }
    rate.add(a.prompt_tokens / seconds_since(start));
  }
  std::printf("prefill  %4d tokens            %8.1f tok/s   (worst of %d: %.1f)\n", a.prompt_tokens, rate.best,
              a.rounds, rate.worst);
}

void measure_decode(Runner& runner, const Arguments& a, int32_t sequences, double ceiling) {
  const int32_t context = 64;  // short, so that the figure is about weights
  Batch batch(runner, sequences, context + a.generate_tokens);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < context; ++i) ids.push_back((i * 104729 + 5) % runner.info().vocab_size);
  for (int32_t i = 0; i < context; ++i) batch.step(std::span(ids).subspan(static_cast<size_t>(i), 1), i, false);
  Spread rate;
  for (int32_t round = 0; round < a.rounds; ++round) {
    const auto start = Clock::now();
    for (int32_t i = 0; i < a.generate_tokens; ++i)
      batch.step(std::span(ids).subspan(static_cast<size_t>(i % context), 1), context + i, true);
    rate.add(a.generate_tokens / seconds_since(start));
  }
  const double step_bytes =
      static_cast<double>(runner.info().weight_bytes) +
      static_cast<double>(runner.info().kv_bytes_per_token) * (context + a.generate_tokens / 2) * sequences;
  std::printf(
      "decode   batch %-2d  %8.1f steps/s %8.1f tok/s   (worst of %d: %.1f)  %5.2f GB/s, %3.0f%% of the ceiling\n",
      sequences, rate.best, rate.best * sequences, a.rounds, rate.worst * sequences, step_bytes * rate.best / 1e9,
      ceiling == 0 ? 0.0 : 100 * step_bytes * rate.best / ceiling);
}

int run(int argc, char** argv) {
  const Arguments a = parse(argc, argv);
  const auto start = Clock::now();
  const auto runner = load_model(a.load);
  const double load_seconds = seconds_since(start);
  if (!a.ids.empty()) {
    continue_prompt(*runner, a);
    return 0;
  }
  const int32_t threads = a.load.threads > 0 ? a.load.threads : 2;
  Spread ceiling;
  const auto probe_start = Clock::now();
  ceiling.add(static_cast<double>(measure_memory_bandwidth(threads)));
  const double probe_seconds = seconds_since(probe_start);
  for (int32_t round = 1; round < a.rounds; ++round)
    ceiling.add(static_cast<double>(measure_memory_bandwidth(threads)));
  std::printf("%s: %s, %.1f MB read per decode step, loaded in %.2f s\n", runner->info().model_name.c_str(),
              choose_kernels(a.load.kernels).name, static_cast<double>(runner->info().weight_bytes) / 1e6,
              load_seconds);
  std::printf("memory   %.1f GB/s read ceiling (worst of %d: %.1f), one probe takes %.0f ms\n", ceiling.best / 1e9,
              a.rounds, ceiling.worst / 1e9, 1e3 * probe_seconds);
  measure_prefill(*runner, a);
  for (int32_t sequences : a.batches) measure_decode(*runner, a, sequences, ceiling.best);
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  try {
    return penstock::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engine-bench: %s\n", error.what());
    return 1;
  }
}
