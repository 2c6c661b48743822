// The step thread. Owns the cycle events → plan → run → sample → apply → frames, the measuring of steps and STATS. Who
// runs when is sched/, how a token is computed is model/, and bytes are socket.h.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/runner.h"
#include "sched/scheduler.h"
#include "serve/frames.h"
#include "serve/grammar_desk.h"
#include "serve/handoff_desk.h"
#include "serve/mailbox.h"
#include "serve/meter.h"
#include "serve/pooled_states.h"
#include "serve/row_sampler.h"

namespace penstock {

class StepLoop {
 public:
  // The scheduler's limits: blocks_total and context_tokens must be the runner's. All three must outlive run().
  StepLoop(Runner& runner, const SchedulerConfig& config, Inbox& inbox, Outbox& outbox, HandoffOptions handoff = {});

  // Where other engines send K and V to, for READY.
  std::string kv_address() const { return handoff_.address(); }

  // Prompt and output together, for READY.
  int32_t sequence_tokens_max() const { return scheduler_.sequence_tokens_max(); }

  // Steps until told to shut down; sequences still alive then end with reason cancelled, those whose blocks are being read
  // as soon as that has stopped. Closes the outbox, also when
  // it throws: std::logic_error means that the books of blocks do not add up, DeviceFailure that nothing can be computed any
  // more, and the process must end. Any other step that the runner cannot compute ends its sequences with reason internal, and
  // the loop goes on.
  void run();

 private:
  using Clock = std::chrono::steady_clock;
  static int64_t milliseconds(Clock::time_point time);

  void serve();
  void end_with(std::string message);
  void handle(Event& event);
  void submit(const frame::Submit& submit);
  bool schedule(Request request);
  SubmitLimits submit_limits() const;
  static frame::Token shown_token(uint64_t id, int32_t token, SampledRow& row);
  void reject(frame::Rejected rejected);
  void take_compiled();
  void end_transfers();
  bool cancel_held(uint64_t id);
  void finish_held(FinishReason reason);
  void step(StepPlan& plan);
  void sample(const StepPlan& plan);
  void embed(const StepPlan& plan);
  void send_admitted(const StepPlan& plan);
  void send_finished();
  void send_stats(Clock::time_point now);
  void send_blocks();
  template <typename Body>
  void send(Body& body);
  std::optional<Clock::time_point> wake_at() const;

  // --- loop_handoff.cc
  void push(const frame::Push& push);
  void send_transferred();
  void let_go_of_reservation(uint64_t sequence_id);
  std::optional<HandoffDesk::Claim> claim(const frame::Submit& submit, Request& request);
  // A request whose first token was drawn by the engine that computed its prompt.
  struct Beginning {
    int32_t token;
    SampledRow row;
    std::optional<FinishReason> end;  // it is its last one too
  };
  std::optional<Beginning> begin(Request& request);
  void send_first(uint64_t id, Beginning& beginning);
  void finish_at_first(const Request& request, Beginning& beginning);

  Runner& runner_;
  Inbox& inbox_;
  Outbox& outbox_;
  Scheduler scheduler_;
  GrammarDesk grammars_;
  HandoffDesk handoff_;
  RowSampler sampler_;
  PooledStates pooled_;
  Meter meter_;

  std::optional<ConnectionNumber> connection_;  // the owner of every live sequence
  bool shutdown_ = false;
  uint64_t steps_ = 0;
  frame::Stats last_step_;      // its step_* fields
  Clock::time_point stats_at_;  // when STATS was last sent
  std::vector<float> logits_;   // [sequences_max, vocab_size]
  std::vector<Drawn> sampled_;
  std::vector<const Sequence*> unusable_;  // of the step's embeddings
  // Frames of steps, made again and again in the same memory.
  frame::Tokens tokens_;
  frame::Embedding embedding_{};
  frame::Admitted admitted_{};
  frame::Blocks blocks_;  // its sequence: the number of the last one sent on this connection
  std::vector<Finished> finished_;
  std::vector<Event> events_;
  std::vector<GrammarDesk::Answer> compiled_;
  std::vector<frame::Transferred> transferred_;
  std::unordered_map<uint64_t, HandoffDesk::Claim> claims_;  // sequence → the reservation it takes over
  std::vector<HandoffDesk::Claim> let_go_;                   // before the next step
  std::vector<Request> held_;  // requests that end before the scheduler has seen them
};

}  // namespace penstock
