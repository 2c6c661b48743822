// How fast the CUDA kernels and the engine on top of them are, against what the same chip copied, read and multiplied in the same
// minute. Prints pieces of a Markdown page; gpu.sh puts them together. Owns command line, timing and tables; the kernels' cases
// are cuda_cases.h, the ceilings cuda_ceilings.h.
//
//   cuda-bench facts                              card, driver and runtime, ceilings
//   cuda-bench kernels [--small 1]                a row per kernel and shape
//   cuda-bench engine --shape 8b --type Q4_0 --path FILE [--gemm own|cublaslt] [--keep 1] [--small 1]
//                                                 writes a model of noise, loads it, computes; a row per workload. --keep: FILE
//                                                 stays, and is taken where it is that model already; another file stays as it is
//   cuda-bench receive ...                        the other engine of a hand-over, started by `engine` (cuda_handoff.h)
// On the emulator the same code runs, and its times mean nothing.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_cases.h"
#include "cuda_ceilings.h"
#include "cuda_handoff.h"
#include "model/cuda/load.h"
#include "model/device_sampler.h"
#include "model/load.h"
#include "ops/cuda/device.h"
#include "synthetic_model.h"
#include "workload.h"

namespace penstock::cuda::bench {
namespace {

using penstock::bench::synthetic_shape;
using penstock::bench::SyntheticShape;
using penstock::bench::token_at;

// Several times the largest cache, 126 MB of a B200.
constexpr int64_t kColdBytes = int64_t{1} << 30;
constexpr int64_t kColdBytesSmall = 8 << 20;
// Beside what has to be cold: activations, logits and partial softmaxes of the largest case.
constexpr int64_t kOtherBytes = int64_t{1} << 30;
constexpr int64_t kOtherBytesSmall = 64 << 20;
constexpr double kRoundSeconds = 0.01;
constexpr int32_t kMatrixLoops = 2000;
constexpr int32_t kMatrixLoopsSmall = 2;

using Flags = std::map<std::string, std::string>;

Flags parse(int argc, char** argv) {
  Flags flags;
  for (int i = 2; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  if (argc % 2 != 0) throw std::invalid_argument("an option has no value");
  for (const auto& [name, value] : flags) {
    if (name != "--small" && name != "--shape" && name != "--type" && name != "--path" && name != "--gemm" &&
        name != "--keep" && name != "--layers" && name != "--block-bytes" && name != "--blocks" && name != "--transfers" &&
        name != "--listen")
      throw std::invalid_argument("unknown option " + name);
  }
  return flags;
}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

CudaCeilings ceilings_of(const Stream& stream, DevicePool& pool, const DeviceFacts& device, bool small) {
  const int64_t bytes = small ? kColdBytesSmall : kColdBytes;
  return measure_ceilings(stream, pool.take_bytes(bytes), bytes, small ? 1 : device.multiprocessors,
                          small ? kMatrixLoopsSmall : kMatrixLoops, small ? 0 : kRoundSeconds);
}

double rate_of(const CudaCeilings& ceilings, Unit unit) {
  return unit == Unit::s8 ? ceilings.s8_per_second : ceilings.f16_per_second;
}

// Seconds below which nothing that moves these bytes and does these operations can get.
double floor_seconds(const CudaCeilings& ceilings, double bytes, double operations, Unit unit) {
  const double moving = bytes / std::max(ceilings.copy_bytes_per_second, ceilings.read_bytes_per_second);
  return unit == Unit::none ? moving : std::max(moving, operations / rate_of(ceilings, unit));
}

void print_facts(bool small) {
  const DeviceFacts device = open_device(0);
  const Stream stream;
  DevicePool pool(stream, (small ? kColdBytesSmall : kColdBytes) + (1 << 20));
  const CudaCeilings ceilings = ceilings_of(stream, pool, device, small);
  int driver = 0;
  int runtime = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  std::printf("| | |\n| --- | --- |\n| card | %s, compute capability %d.%d, %d multiprocessors, %.1f GiB |\n",
              device.name.c_str(), device.capability / 10, device.capability % 10, device.multiprocessors,
              static_cast<double>(device.total_bytes) / (1 << 30));
  std::printf("| CUDA | runtime %s, driver for up to %s |\n", version(runtime).c_str(), version(driver).c_str());
  std::printf("| copies | %.0f GB/s read and written |\n| reads | %.0f GB/s |\n", ceilings.copy_bytes_per_second / 1e9,
              ceilings.read_bytes_per_second / 1e9);
  std::printf("| mma.sync f16 | %.0f TFLOPS |\n| mma.sync int8 | %.0f TOPS |\n", ceilings.f16_per_second / 1e12,
              ceilings.s8_per_second / 1e12);
  if (PENSTOCK_CUDA_EMULATED) std::printf("\nOn the emulator: **no time on this page means anything.**\n");
}

void print_kernels(bool small) {
  const DeviceFacts device = open_device(0);
  const Stream stream;
  const int64_t cold = small ? kColdBytesSmall : kColdBytes;
  DevicePool pool(stream, 3 * cold + (small ? kOtherBytesSmall : kOtherBytes));
  const CudaCeilings ceilings = ceilings_of(stream, pool, device, small);
  const KernelCases kernels(stream, pool, device, cold, small);
  std::printf("| kernel | shape | µs | GB/s | of copies | TOPS | of mma.sync | of the bound |\n");
  std::printf("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const KernelCase& one : kernels.cases()) {
    const double seconds = seconds_per_call(stream, small ? 0 : kRoundSeconds, one.run);
    const double bytes = one.bytes / seconds;
    std::printf("| %s | %s | %.1f | %.0f | %.0f%% ", one.kernel.c_str(), one.shape.c_str(), 1e6 * seconds, bytes / 1e9,
                100 * bytes / ceilings.copy_bytes_per_second);
    if (one.unit == Unit::none) {
      std::printf("| | ");
    } else {
      const double operations = one.operations / seconds;
      std::printf("| %.1f | %.0f%% ", operations / 1e12, 100 * operations / rate_of(ceilings, one.unit));
    }
    std::printf("| %.0f%% |\n", 100 * floor_seconds(ceilings, one.bytes, one.operations, one.unit) / seconds);
    std::fflush(stdout);
  }
}

TensorType type_of(const std::string& name) {
  for (const TensorType type : {TensorType::f16, TensorType::q8_0, TensorType::q4_0, TensorType::q4_k}) {
    if (name == tensor_type_facts(type).name) return type;
  }
  throw std::invalid_argument("--type is F16, Q8_0, Q4_0 or Q4_K");
}

// Sequences of one length that decode together, each token drawn on the device.
class Decoding {
 public:
  Decoding(Runner& runner, int32_t sequences, int32_t tokens_max) : runner_(runner), tables_(static_cast<size_t>(sequences)) {
    const int32_t blocks = (tokens_max + kBlockTokens - 1) / kBlockTokens;
    int32_t block = 0;
    for (auto& table : tables_) {
      for (int32_t i = 0; i < blocks; ++i) table.push_back(block++);
    }
    params_.temperature = 0;
    rows_.assign(tables_.size(), DeviceRow{&params_, {}, {}, {}});
    tokens_.resize(tables_.size());
  }

  // Steps from a context of `context` tokens, whose keys and values are whatever is there. Seconds of one.
  double seconds_per_step(int32_t context, int32_t steps) {
    step(context);
    const auto start = std::chrono::steady_clock::now();
    for (int32_t i = 1; i <= steps; ++i) step(context + i);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / steps;
  }

 private:
  void step(int32_t position) {
    shares_.clear();
    ids_.assign(tables_.size(), token_at(position, runner_.info().vocab_size));
    positions_.assign(tables_.size(), position);
    for (size_t i = 0; i < tables_.size(); ++i) {
      StepSequence share{};
      share.first_row = static_cast<int32_t>(i);
      share.rows = 1;
      share.kv_tokens = position + 1;
      share.block_table = std::span(tables_[i]).first(static_cast<size_t>(position / kBlockTokens + 1));
      share.wants_logits = true;
      shares_.push_back(share);
    }
    runner_.forward({ids_, positions_, shares_}, {});
    runner_.device_sampler()->sample(rows_, tokens_);
  }

  Runner& runner_;
  std::vector<std::vector<int32_t>> tables_;
  SamplingParams params_;
  std::vector<DeviceRow> rows_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> positions_;
  std::vector<StepSequence> shares_;
};

void print_engine(const Flags& flags, bool small) {
  const SyntheticShape& shape = synthetic_shape(flags.at("--shape"));
  const TensorType type = type_of(flags.at("--type"));
  const std::string& path = flags.at("--path");
  CudaCeilings ceilings{};
  {
    const DeviceFacts device = open_device(0);
    const Stream stream;
    DevicePool pool(stream, (small ? kColdBytesSmall : kColdBytes) + (1 << 20));
    ceilings = ceilings_of(stream, pool, device, small);
  }
  const bool keeps = flags.contains("--keep");
  if (!keeps || access(path.c_str(), F_OK) != 0) {
    write_synthetic_model(path, shape, type);
  } else if (!is_synthetic_model(path, shape, type)) {
    throw std::invalid_argument("--keep: " + path + " is there, and is not the whole " + shape.name + " model of " +
                                tensor_type_facts(type).name + " weights that is measured: remove it, or name another file");
  }
  const std::vector<int32_t> batches = small ? std::vector<int32_t>{1, 2} : std::vector<int32_t>{1, 8, 32};
  const std::vector<int32_t> prompts = small ? std::vector<int32_t>{32} : std::vector<int32_t>{512, 4096};
  const int32_t context = small ? 40 : 1024;
  const int32_t steps = small ? 2 : 64;
  const int32_t tokens_max = std::max(prompts.back(), context + 2 * steps);
  LoadOptions options;
  options.path = path;
  options.device = {DeviceKind::cuda, 0};
  options.cuda = load_cuda_model;
  const bool by_library = flags.contains("--gemm") && flags.at("--gemm") == "cublaslt";
  options.gemm = by_library ? GemmChoice::cublaslt : GemmChoice::own;
  options.step_sequences_max = batches.back();
  options.step_tokens_max = small ? 32 : 512;
  options.context_tokens_max = tokens_max;
  options.blocks_total = batches.back() * ((tokens_max + kBlockTokens - 1) / kBlockTokens);
  const auto start = std::chrono::steady_clock::now();
  const auto runner = load_model(options);
  const double loading = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!keeps) std::remove(path.c_str());
  const RunnerInfo& info = runner->info();
  const auto weight_bytes = static_cast<double>(info.weight_bytes);
  std::printf("\n**%s %s%s**: %.2f GB of weights read per step, loaded in %.1f s.\n\n", shape.name,
              tensor_type_facts(type).name, by_library ? ", prompts by cuBLASLt" : "", weight_bytes / 1e9, loading);
  std::printf("| work | tokens/s | ms per step | GB/s | of the bound |\n| --- | ---: | ---: | ---: | ---: |\n");
  const double reads = std::max(ceilings.copy_bytes_per_second, ceilings.read_bytes_per_second);
  for (const int32_t tokens : prompts) {
    penstock::bench::Workload one(*runner, 1, tokens, options.step_tokens_max, 0);
    double seconds = one.prefill(tokens).seconds;
    for (int32_t round = 0; round < 2; ++round) seconds = std::min(seconds, one.prefill(tokens).seconds);
    const TensorTypeFacts facts = tensor_type_facts(type);
    const double operations = 2 * weight_bytes / facts.block_bytes * facts.block_values * tokens;
    const Unit unit = is_quantized(type) ? Unit::s8 : Unit::f16;
    const double bound = floor_seconds(ceilings, weight_bytes * tokens / options.step_tokens_max, operations, unit);
    std::printf("| prefill of %d | %.0f | %.2f | | %.0f%% |\n", tokens, tokens / seconds,
                1e3 * seconds * options.step_tokens_max / tokens, 100 * bound / seconds);
  }
  for (const int32_t batch : batches) {
    Decoding decoding(*runner, batch, tokens_max);
    double seconds = decoding.seconds_per_step(context, steps);
    for (int32_t round = 0; round < 2; ++round) seconds = std::min(seconds, decoding.seconds_per_step(context, steps));
    const double bytes =
        weight_bytes + static_cast<double>(info.kv_bytes_per_token) * (context + steps / 2) * batch;
    std::printf("| decode, batch %d, context %d | %.0f | %.3f | %.0f | %.0f%% |\n", batch, context, batch / seconds,
                1e3 * seconds, bytes / seconds / 1e9, 100 * bytes / reads / seconds);
  }
  if (!by_library) print_handoff(*runner, small ? 32 : 2048, small ? 16 : options.step_tokens_max, small ? 1 : 5);
}

int run(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const Flags flags = parse(argc, argv);
  const bool small = flags.contains("--small");
  if (mode == "facts") {
    print_facts(small);
  } else if (mode == "kernels") {
    print_kernels(small);
  } else if (mode == "engine") {
    print_engine(flags, small);
  } else if (mode == "receive") {
    receive_handoffs(flags);
  } else {
    throw std::invalid_argument("usage: cuda-bench facts | kernels | engine --shape 8b --type Q4_0 --path FILE");
  }
  return 0;
}

}  // namespace
}  // namespace penstock::cuda::bench

int main(int argc, char** argv) {
  try {
    return penstock::cuda::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda-bench: %s\n", error.what());
    return 1;
  }
}
