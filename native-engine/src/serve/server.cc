// Starting and joining the socket thread and the step thread. See server.h.
#include "serve/server.h"

#include <exception>
#include <thread>

#include "grammar/matcher.h"
#include "serve/loop.h"
#include "serve/mailbox.h"
#include "serve/socket.h"

namespace penstock {
namespace {

frame::Ready describe(const RunnerInfo& info, const ServerConfig& config, int32_t sequence_tokens_max) {
  frame::Ready ready;
  ready.epoch = config.epoch;
  ready.arch = info.arch;
  ready.model_name = info.model_name;
  ready.vocab_size = static_cast<uint32_t>(info.vocab_size);
  ready.context_tokens = static_cast<uint32_t>(sequence_tokens_max);
  ready.block_tokens = kBlockTokens;
  ready.blocks_total = static_cast<uint32_t>(info.blocks_total);
  ready.sequences_max = static_cast<uint32_t>(config.sequences_max);
  ready.step_tokens_max = static_cast<uint32_t>(config.step_tokens_max);
  ready.threads = static_cast<uint32_t>(config.threads);
  ready.kv_fingerprint = info.kv_fingerprint;
  ready.memory_bytes_per_second_max = config.memory_bytes_per_second_max;
  ready.mac_type = info.work.type;
  ready.macs_per_second_max = config.macs_per_second_max;
  ready.embedding_dims = static_cast<uint32_t>(info.embedding_dims);
  ready.grammars = grammars_available();
  return ready;
}

}  // namespace

void run_server(Listener& listener, Runner& runner, const ServerConfig& config, const WakePipe& wake,
                const std::atomic<bool>& stop) {
  const RunnerInfo& info = runner.info();
  Inbox inbox([&] { wake.wake(); });
  Outbox outbox([&] { wake.wake(); });
  StepLoop loop(runner,
                {.blocks_total = info.blocks_total,
                 .context_tokens = info.context_tokens,
                 .sequences_max = config.sequences_max,
                 .step_tokens_max = config.step_tokens_max,
                 .prefill_tokens_max = config.prefill_tokens_max.value_or((config.step_tokens_max + 1) / 2),
                 .queue_max = config.queue_max,
                 .hash_seed = config.epoch},
                inbox, outbox, {.listen = config.kv_listen,
                                .silence_max = config.kv_silence_max,
                                .layers_at_a_time = config.kv_layers_at_a_time});
  frame::Ready ready = describe(info, config, loop.sequence_tokens_max());
  ready.kv_address = loop.kv_address();
  SocketServer socket(listener, ready, inbox, outbox, wake, stop);

  std::exception_ptr step_error, socket_error;
  std::thread step_thread([&] {
    try {
      loop.run();
    } catch (...) {
      step_error = std::current_exception();
    }
  });
  try {
    socket.run();
  } catch (...) {
    socket_error = std::current_exception();
    inbox.post(event::Shutdown{});
  }
  step_thread.join();
  if (step_error) std::rethrow_exception(step_error);
  if (socket_error) std::rethrow_exception(socket_error);
}

}  // namespace penstock
