// The two threads of a serving engine, put together. Owns their lifetimes and READY; what they do is socket.h and
// loop.h.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "model/runner.h"
#include "sched/scheduler.h"
#include "serve/descriptor.h"
#include "serve/listener.h"

namespace penstock {

struct ServerConfig {
  int32_t sequences_max = 32;
  int32_t step_tokens_max = 128;
  // See SchedulerConfig. Absent: half of step_tokens_max. A row of a prompt costs the same from 16 rows a step on
  // (measured, CPU, 135 M parameters), so a shorter chunk loses only what the decoding rows cost once more: a prompt
  // comes about 3 % later beside one decoding sequence and 10 % beside eight, and their tokens come twice as often.
  std::optional<int32_t> prefill_tokens_max = std::nullopt;
  int32_t queue_max = kQueueMax;
  std::optional<std::string> kv_listen = std::nullopt;  // these three: see HandoffOptions
  std::chrono::milliseconds kv_silence_max{10'000};
  std::optional<int32_t> kv_layers_at_a_time = std::nullopt;
  int32_t threads = 1;                       // announced, not used here
  uint64_t epoch = 0;                        // random per process; also the seed of the block hashes
  uint64_t memory_bytes_per_second_max = 0;  // measured; 0 = not measured
  uint64_t macs_per_second_max = 0;          // the same
};

// Serves one agent after the other on `listener` until SHUTDOWN, or until `stop` is set and `wake` woken; the sequences
// alive then end with reason cancelled and their FINISHED is sent. Throws what either thread threw, after both ended.
void run_server(Listener& listener, Runner& runner, const ServerConfig& config, const WakePipe& wake,
                const std::atomic<bool>& stop);

}  // namespace penstock
