// See cuda_handoff.h.
#include "cuda_handoff.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "kv/layer_groups.h"
#include "kv/receiver.h"
#include "kv/sender.h"
#include "kv/transfer_table.h"
#include "model/cuda/kv_blocks.h"
#include "ops/cuda/device.h"
#include "workload.h"

namespace penstock::cuda::bench {
namespace {

using Clock = std::chrono::steady_clock;
using penstock::bench::token_at;

constexpr const char* kLayout = "bench";
constexpr auto kLimit = std::chrono::seconds(60);

std::vector<int32_t> ids(int32_t first, int32_t count) {
  std::vector<int32_t> all(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) all[static_cast<size_t>(i)] = first + i;
  return all;
}

// Ends of transfers, counted by whichever thread.
class Ends {
 public:
  void note(bool good, const std::string& error) {
    const std::lock_guard lock(mutex_);
    if (!good) error_ = error.empty() ? "a transfer did not arrive" : error;
    ++count_;
    at_ = Clock::now();
    changed_.notify_all();
  }
  // When the last of so many was over.
  Clock::time_point wait(int32_t count) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kLimit, [&] { return count_ >= count; })) throw std::runtime_error("a transfer hangs");
    if (!error_.empty()) throw std::runtime_error(error_);
    return at_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int32_t count_ = 0;
  Clock::time_point at_;
  std::string error_;
};

// As serve/handoff_desk.h does it: groups of layers of the blocks that a step fills.
class Telling final : public StepWatch {
 public:
  Telling(KvSender& sender, uint64_t id, const KvView& kv, int32_t first, std::vector<int32_t> blocks)
      : sender_(sender),
        id_(id),
        layers_(kv.layers),
        at_a_time_(layers_per_group(static_cast<int64_t>(blocks.size()) * kv.bytes_per_block(), kv.layers)),
        first_(first),
        blocks_(std::move(blocks)) {}
  bool wants(int32_t layers) const override { return layers % at_a_time_ == 0; }
  void layers_stored(int32_t layers) override {
    if (layers - told_ < at_a_time_ && layers < layers_) return;
    sender_.extend(id_, static_cast<uint32_t>(first_), blocks_, {told_, layers - told_});
    told_ = layers;
  }

 private:
  KvSender& sender_;
  uint64_t id_;
  int32_t layers_;
  int32_t at_a_time_;
  int32_t first_;
  std::vector<int32_t> blocks_;
  int32_t told_ = 0;
};

struct Left {
  double step_ms;
  double left_ms;
};

// One hand-over: what its last step took, and what was left behind it.
Left hand_over(Runner& runner, KvSender& sender, Ends& ends, const std::string& address, int32_t number, int32_t tokens,
               int32_t step_tokens, bool by_layers) {
  const KvView kv = runner.kv();
  const int32_t blocks = tokens / kBlockTokens;
  const auto id = static_cast<uint64_t>(number);
  sender.begin({.id = id, .address = address, .grant = {id, id, {}}, .content = 0, .blocks = static_cast<uint32_t>(blocks)});
  const std::vector<int32_t> table = ids(0, blocks);
  std::vector<int32_t> token_ids, positions;
  Clock::time_point begun, ended;
  for (int32_t done = 0; done < tokens; done += step_tokens) {
    const int32_t rows = std::min(step_tokens, tokens - done), first = done / kBlockTokens, count = rows / kBlockTokens;
    token_ids.clear();
    positions.clear();
    for (int32_t position = done; position < done + rows; ++position) {
      token_ids.push_back(token_at(position, runner.info().vocab_size));
      positions.push_back(position);
    }
    StepSequence share{};
    share.rows = rows;
    share.kv_tokens = done + rows;
    share.block_table = std::span(table).first(static_cast<size_t>(first + count));
    share.wants_logits = done + rows == tokens;
    const std::vector<StepSequence> shares{share};
    Telling telling(sender, id, kv, first, ids(first, count));
    begun = Clock::now();
    // As an engine does it whose tokens are drawn on the device.
    runner.forward({token_ids, positions, shares, by_layers ? &telling : nullptr}, {});
    ended = Clock::now();
    if (!by_layers) sender.extend(id, ids(first, count));
  }
  sender.finish(id);
  const std::chrono::duration<double, std::milli> step = ended - begun, left = ends.wait(number) - ended;
  return {step.count(), left.count()};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// This program once more, with other arguments; ended with its owner.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
    int ends[2];
    if (pipe(ends) != 0) throw std::runtime_error("pipe");
    std::vector<char*> pointers{const_cast<char*>("cuda-bench")};
    for (std::string& each : arguments) pointers.push_back(each.data());
    pointers.push_back(nullptr);
    process_ = fork();
    if (process_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      execv("/proc/self/exe", pointers.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  ~Process() {
    if (process_ > 0) kill(process_, SIGTERM);
    if (process_ > 0) waitpid(process_, nullptr, 0);
    std::fclose(output_);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  std::string line() const {
    std::array<char, 512> text{};
    if (std::fgets(text.data(), text.size(), output_) == nullptr) throw std::runtime_error("the other engine did not start");
    std::string said(text.data());
    said.pop_back();
    return said;
  }

 private:
  pid_t process_ = -1;
  FILE* output_ = nullptr;
};

}  // namespace

void print_handoff(Runner& runner, int32_t tokens, int32_t step_tokens, int32_t rounds) {
  const KvView kv = runner.kv();
  std::string made = (std::filesystem::temp_directory_path() / "penstock-handoff-XXXXXX").string();
  if (mkdtemp(made.data()) == nullptr) throw std::runtime_error("no temporary folder");
  const int64_t last_bytes = (((tokens - 1) % step_tokens + 1) / kBlockTokens) * kv.bytes_per_block();
  std::printf("\n**A prompt of %d handed over to another process**, medians of %d: the last step has %.1f MiB of keys and values, in "
              "groups of %d layers.\n\n",
              tokens, rounds, static_cast<double>(last_bytes) / (1 << 20), layers_per_group(last_bytes, kv.layers));
  std::printf("| way | told | last step, ms | then left until all is there, ms |\n| --- | --- | ---: | ---: |\n");
  struct Way {
    const char* name;
    std::string address;
  };
  for (const Way& way : {Way{"memory of the device, else of the processor", "unix:" + made + "/kv.sock"}, Way{"TCP", "tcp:127.0.0.1:0"}}) {
    const Process other({"receive", "--layers", std::to_string(kv.layers), "--block-bytes", std::to_string(kv.block_bytes), "--blocks",
                         std::to_string(tokens / kBlockTokens), "--transfers", std::to_string(2 * (rounds + 1)), "--listen",
                         way.address});
    const std::string address = other.line();
    Ends ends;
    KvSender sender(kv, kLayout, [&](uint64_t, bool arrived, const std::string& error) { ends.note(arrived, error); });
    std::vector<Left> whole, layers;
    // In turns, so that both meet the same machine; the first of each warms up.
    for (int32_t round = 0, number = 0; round <= rounds; ++round) {
      for (const bool by_layers : {false, true}) {
        const Left left = hand_over(runner, sender, ends, address, ++number, tokens, step_tokens, by_layers);
        if (round > 0) (by_layers ? layers : whole).push_back(left);
      }
    }
    for (const bool by_layers : {false, true}) {
      std::vector<double> step_ms, left_ms;
      for (const Left& left : by_layers ? layers : whole) {
        step_ms.push_back(left.step_ms);
        left_ms.push_back(left.left_ms);
      }
      std::printf("| %s | %s | %.2f | %.2f |\n", way.name, by_layers ? "groups of layers, while it computes" : "when the step is over",
                  median(step_ms), median(left_ms));
    }
  }
  std::filesystem::remove_all(made);
}

void receive_handoffs(const std::map<std::string, std::string>& flags) {
  const auto number = [&](const char* name) { return static_cast<int32_t>(std::atoi(flags.at(name).c_str())); };
  // Of a block's bytes it is nobody's matter here what they mean.
  const KvShape shape{.layers = number("--layers"),
                      .blocks_total = number("--blocks"),
                      .kv_heads = 1,
                      .head_dim = number("--block-bytes") / (2 * kBlockTokens * 2),
                      .type = KvType::f16,
                      .tiles = KvTiles::cuda};
  open_device(0);
  const Stream stream;
  DevicePool counted;
  KvBlocks::count(counted, shape);
  counted.take_bytes(shape.bytes_total());
  DevicePool pool(stream, counted.taken());
  const DeviceKv kv{.base = pool.take_bytes(shape.bytes_total()),
                    .type = shape.type,
                    .blocks_total = shape.blocks_total,
                    .kv_heads = shape.kv_heads,
                    .head_dim = shape.head_dim,
                    .block_bytes = shape.block_bytes()};
  KvBlocks blocks(0, pool, shape, kv);
  Ends ends;
  TransferTable table([&](uint64_t, uint64_t, bool complete, TransferNote) { ends.note(complete, ""); });
  const int32_t transfers = number("--transfers");
  for (uint64_t id = 1; id <= static_cast<uint64_t>(transfers); ++id) table.open({id, id, {}}, 0, ids(0, shape.blocks_total));
  const KvView view{kv.base, shape.layers, shape.blocks_total, shape.block_bytes(), &blocks};
  const KvReceiver receiver(view, kLayout, table, flags.at("--listen"));
  std::printf("%s\n", receiver.address().c_str());
  std::fflush(stdout);
  ends.wait(transfers);
  pause();  // until its starter ends it: the last answer is on its way
}

}  // namespace penstock::cuda::bench
