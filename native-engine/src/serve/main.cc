// penstock-engine: from the command line to a serving engine. Owns signals, exit codes and the order of starting.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "model/device.h"
#include "model/load.h"
#include "model/roofline.h"
#include "model/source.h"
#include "ops/arithmetic.h"
#include "ops/bandwidth.h"
#include "serve/listener.h"
#include "serve/log.h"
#include "serve/options.h"
#include "serve/server.h"
#ifdef PENSTOCK_WITH_CUDA
#include "model/cuda/load.h"
#endif

namespace penstock {
namespace {

enum ExitCode : int { kOk = 0, kInternal = 1, kBadInput = 2, kSocketInUse = 3, kDeviceFailed = 4 };

// Signal handlers reach nothing but these.
std::atomic<bool> g_stop{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set from a signal handler");
std::atomic<const WakePipe*> g_wake{nullptr};

void on_stop_signal(int) {
  g_stop = true;
  if (const WakePipe* wake = g_wake.load()) wake->wake();
}

// While it lives, SIGTERM and SIGINT ask for a clean end instead of ending the process. Before that there is nothing to
// clean up, and a signal during a long load should work at once.
class StopSignals {
 public:
  explicit StopSignals(const WakePipe& wake) {
    g_wake = &wake;
    set_handler(on_stop_signal);
  }
  ~StopSignals() {
    set_handler(SIG_DFL);
    g_wake = nullptr;
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  static void set_handler(void (*handler)(int)) {
    struct sigaction action{};
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);
  }
};

// Without this a killed agent would leave an engine that holds memory and cores for nobody.
bool die_with_parent() {
#ifdef __linux__
  const pid_t parent = getppid();
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) return false;
  // Should the parent have ended before the call, no signal will come.
  if (getppid() != parent) std::raise(SIGTERM);
  return true;
#else
  return false;
#endif
}

uint64_t random_epoch() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

int fail(ExitCode code, const std::string& message) {
  std::fprintf(stderr, "penstock-engine: %s\n", message.c_str());
  return code;
}

std::unique_ptr<Runner> load(const Options& options, int32_t threads) {
  LoadOptions load_options;
  load_options.path = options.model_path;
  load_options.threads = threads;
  load_options.blocks_total = options.blocks_total;
  if (options.kv_mib.has_value()) load_options.kv_bytes_max = static_cast<int64_t>(*options.kv_mib) << 20;
  load_options.kv_type = options.kv_type;
  load_options.device = options.device;
  load_options.gemm = options.gemm;
  if (options.device_memory_mib.has_value())
    load_options.device_bytes_max = static_cast<int64_t>(*options.device_memory_mib) << 20;
#ifdef PENSTOCK_WITH_CUDA
  load_options.cuda = load_cuda_model;
#endif
  load_options.context_tokens_max = options.context_tokens;
  load_options.step_tokens_max = options.step_tokens_max;
  load_options.quantize = options.quantize;
  load_options.step_sequences_max = options.sequences_max;
  int64_t tenths_logged = 0;
  load_options.progress = [&](int64_t bytes_done, int64_t bytes_total) {
    const int64_t tenths = bytes_total > 0 ? bytes_done * 10 / bytes_total : 10;
    if (tenths <= tenths_logged) return;
    tenths_logged = tenths;
    log_line(LogLevel::Debug, "loading", {{"percent", tenths * 10}});
  };
  const auto start = std::chrono::steady_clock::now();
  auto runner = load_model(load_options);
  const auto took = std::chrono::steady_clock::now() - start;
  const RunnerInfo& info = runner->info();
  log_line(LogLevel::Info, "model_loaded",
           {{"device", options.device.name()},
            {"arch", info.arch},
            {"model", info.model_name},
            {"vocab", info.vocab_size},
            {"context_tokens", info.context_tokens},
            {"blocks", info.blocks_total},
            {"weight_mib", info.weight_bytes >> 20},
            {"kv_type", kv_type_name(options.kv_type)},
            {"kv_mib", (info.kv_bytes_per_token * kBlockTokens * info.blocks_total) >> 20},
            {"load_ms", std::chrono::duration_cast<std::chrono::milliseconds>(took).count()}});
  return runner;
}

int print_roofline(const Options& options) {
  const ModelSource source = ModelSource::open(options.model_path);
  const RooflineModel model = roofline_model(source, options.quantize, options.kv_type);
  std::fputs(roofline_page(model, *gpu_named(options.roofline_gpu)).c_str(), stdout);
  return kOk;
}

int serve(const Options& options) {
  const int32_t threads =
      options.threads > 0 ? options.threads : static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
  if (!options.check_only) check_socket_path(options.socket_path);
  const std::unique_ptr<Runner> runner = load(options, threads);
  if (options.check_only) return kOk;

  ServerConfig config;
  config.sequences_max = options.sequences_max;
  config.step_tokens_max = options.step_tokens_max;
  config.prefill_tokens_max = options.prefill_tokens_max;
  config.kv_listen = options.kv_listen;
  config.threads = threads;
  config.epoch = random_epoch();
  config.memory_bytes_per_second_max = runner->memory_bytes_per_second_max().value_or(0);
  if (config.memory_bytes_per_second_max == 0) config.memory_bytes_per_second_max = measure_memory_bandwidth(threads);
  config.macs_per_second_max = measure_mac_rate(threads, runner->info().work.type);
  const WakePipe wake;
  const StopSignals signals(wake);
  Listener listener(options.socket_path);
  log_line(LogLevel::Info, "listening",
           {{"socket", options.socket_path},
            {"threads", threads},
            {"sequences", config.sequences_max},
            {"step_tokens", config.step_tokens_max},
            {"memory_gb_per_second", static_cast<double>(config.memory_bytes_per_second_max) / 1e9},
            {"gigamacs_per_second", static_cast<double>(config.macs_per_second_max) / 1e9}});
  run_server(listener, *runner, config, wake, g_stop);
  log_line(LogLevel::Info, "stopped");
  return kOk;
}

int run(int count, char** values) {
  const std::vector<std::string_view> arguments(values + std::min(count, 1), values + count);
  const auto parsed = parse_options(arguments);
  if (std::holds_alternative<HelpWanted>(parsed)) {
    std::fputs(std::string(help_text()).c_str(), stdout);
    return kOk;
  }
  if (const auto* error = std::get_if<OptionError>(&parsed)) return fail(kBadInput, error->message + "; see --help");
  const Options& options = std::get<Options>(parsed);
  set_log_level(options.log_level);
  std::signal(SIGPIPE, SIG_IGN);
  if (options.die_with_parent && !die_with_parent())
    log_line(LogLevel::Warn, "option_without_effect", {{"option", "--die-with-parent"}});
  try {
    return options.roofline_gpu.empty() ? serve(options) : print_roofline(options);
  } catch (const SocketInUse& error) {
    return fail(kSocketInUse, error.what());
  } catch (const ModelFileError& error) {
    return fail(kBadInput, error.what());
  } catch (const std::invalid_argument& error) {
    return fail(kBadInput, error.what());
  } catch (const DeviceMemoryShort& error) {
    return fail(kBadInput, error.what());
  } catch (const DeviceFailure& error) {
    return fail(kDeviceFailed, error.what());
  } catch (const std::bad_alloc&) {
    return fail(kBadInput, "weights and KV blocks do not fit in memory; --kv-mib or --blocks makes the latter smaller");
  } catch (const std::exception& error) {
    return fail(kInternal, error.what());
  }
}

}  // namespace
}  // namespace penstock

int main(int count, char** values) { return penstock::run(count, values); }
