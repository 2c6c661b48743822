// How fast a model runs on this machine: prefill and decode rates, and decode's memory traffic against the measured
// ceiling. Every figure is the best of several rounds with the spread beside it, since a shared machine only ever slows
// a round down. Owns the command line and the table; the work is workload.h, the ceilings are ceilings.h.
//
//   engine-bench MODEL.gguf [--threads N] [--prompt N] [--generate N] [--rounds N] [--kernels reference|avx2]
//                [--batches 1,2,4,8] [--step-tokens N]
//   engine-bench MODEL.gguf --commands SEQUENCES,BATCH_TOKENS,CONTEXT_TOKENS [--threads N] [--step-tokens N]
//                the worker of commands.h; says {"model":...} first
#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "ceilings.h"
#include "commands.h"
#include "model/load.h"
#include "workload.h"

namespace penstock::bench {
namespace {

// Short, so that the figure is about weights.
constexpr int32_t kShortContext = 64;

struct Arguments {
  LoadOptions load;
  int32_t prompt_tokens = 512;
  int32_t generate_tokens = 32;
  int32_t rounds = 5;
  std::vector<int32_t> batches{1, 2, 4, 8};
  std::vector<int32_t> commands;  // empty: print the table
};

std::vector<int32_t> list(const std::string& text) {
  std::vector<int32_t> values;
  std::stringstream in(text);
  for (std::string item; std::getline(in, item, ',');) values.push_back(std::stoi(item));
  return values;
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  a.load.step_tokens_max = 128;  // the server's default
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
    else if (flag == "--step-tokens")
      a.load.step_tokens_max = std::stoi(value);
    else if (flag == "--kernels")
      a.load.kernels = value == "reference" ? KernelChoice::reference : KernelChoice::avx2;
    else if (flag == "--batches")
      a.batches = list(value);
    else if (flag == "--commands")
      a.commands = list(value);
    else
      throw std::invalid_argument("unknown option " + std::string(flag));
  }
  if (a.load.path.empty()) throw std::invalid_argument("usage: engine-bench MODEL.gguf [--threads N] [--prompt N] ...");
  if (a.load.threads == 0) a.load.threads = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
  if (a.rounds < 1) throw std::invalid_argument("--rounds must be at least 1");
  return a;
}

struct Spread {
  double best = 0;
  double worst = 0;
  void add(double rate) {
    worst = best == 0 ? rate : std::min(worst, rate);
    best = std::max(best, rate);
  }
};

int32_t blocks_for(int32_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

void print_table(Runner& runner, const Arguments& a) {
  const CeilingProbe probe(a.load.threads);
  Spread read;
  for (int32_t round = 0; round < a.rounds; ++round) read.add(probe.measure().read_bytes_per_second);
  const Ceilings ceilings = probe.measure();
  std::printf("%s: %s, %d threads, %.1f MB read per decode step\n", runner.info().model_name.c_str(),
              choose_kernels(a.load.kernels).name, a.load.threads,
              static_cast<double>(runner.info().weight_bytes) / 1e6);
  std::printf("ceilings %.1f GB/s read (worst of %d: %.1f), %.1f G int8 MAC/s, %.1f G f32 MAC/s\n", read.best / 1e9,
              a.rounds, read.worst / 1e9, ceilings.int8_macs_per_second.value_or(0) / 1e9,
              ceilings.f32_macs_per_second.value_or(0) / 1e9);
  {
    Workload one(runner, 1, a.prompt_tokens, a.load.step_tokens_max, 0);
    Spread rate;
    for (int32_t round = 0; round < a.rounds; ++round) rate.add(a.prompt_tokens / one.prefill(a.prompt_tokens).seconds);
    std::printf("prefill  %4d tokens            %8.1f tok/s   (worst of %d: %.1f)\n", a.prompt_tokens, rate.best,
                a.rounds, rate.worst);
  }
  for (const int32_t sequences : a.batches) {
    Workload batch(runner, sequences, kShortContext + a.generate_tokens, a.load.step_tokens_max, 0);
    Spread rate;
    for (int32_t round = 0; round < a.rounds; ++round)
      rate.add(a.generate_tokens / batch.decode(kShortContext, a.generate_tokens, sequences).seconds);
    const double step_bytes =
        static_cast<double>(runner.info().weight_bytes) +
        static_cast<double>(runner.info().kv_bytes_per_token) * (kShortContext + a.generate_tokens / 2) * sequences;
    std::printf(
        "decode   batch %-2d  %8.1f steps/s %8.1f tok/s   (worst of %d: %.1f)  %5.2f GB/s, %3.0f%% of the ceiling\n",
        sequences, rate.best, rate.best * sequences, a.rounds, rate.worst * sequences, step_bytes * rate.best / 1e9,
        100 * step_bytes * rate.best / read.best);
  }
}

int run(int argc, char** argv) {
  Arguments a = parse(argc, argv);
  if (!a.commands.empty()) {
    if (a.commands.size() != 3) throw std::invalid_argument("--commands takes SEQUENCES,BATCH_TOKENS,CONTEXT_TOKENS");
    const WorkerLimits limits{a.load.threads, a.commands[0], a.commands[1], a.commands[2], a.load.step_tokens_max};
    a.load.blocks_total = limits.sequences * blocks_for(limits.batch_tokens) + blocks_for(limits.context_tokens);
    const auto runner = load_model(a.load);
    // Names come from a file and may hold anything; the reader gets them from the file as well.
    std::cout << "{\"model\":{\"kernels\":\"" << choose_kernels(a.load.kernels).name
              << "\",\"weightBytes\":" << runner->info().weight_bytes
              << ",\"kvBytesPerToken\":" << runner->info().kv_bytes_per_token
              << ",\"kvBytes\":" << runner->info().kv_bytes_per_token * kBlockTokens * *a.load.blocks_total << "}}"
              << std::endl;
    serve_commands(*runner, limits, std::cin, std::cout);
    return 0;
  }
  print_table(*load_model(a.load), a);
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  try {
    return penstock::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engine-bench: %s\n", error.what());
    return 1;
  }
}
