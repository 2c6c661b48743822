// K and V on their way between this engine and others. Owns leases, grants and the threads of the transport; everything
// here is called by the step thread, between its steps. Blocks are the scheduler's, bytes kv/receiver.h and kv/sender.h,
// the frames protocol/engine-frames.md.
//
// Why no block is written to or read too late: a reservation is dropped, and a sequence that hands over ends, only when
// the transport has said that it touches their blocks no more. Why none is held for ever: every reservation has a lease,
// every sequence that hands over a deadline or a reader that notices when it is gone, and a peer that says nothing is given
// up (ReceiverOptions, KvSender).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "kv/receiver.h"
#include "kv/sender.h"
#include "kv/transfer_table.h"
#include "model/runner.h"
#include "sched/scheduler.h"
#include "serve/first_tokens.h"
#include "serve/frames.h"
#include "serve/mailbox.h"
#include "serve/submit.h"

namespace penstock {

struct HandoffOptions {
  // Where other engines send K and V to, see kv/endpoint.h. Absent: nothing is reserved here.
  std::optional<std::string> listen;
  // A writer or receiver that says nothing for so long is given up.
  std::chrono::milliseconds silence_max{10'000};
  // Layers of blocks that are told at a time while their step goes on. Absent: by their size, see kv/layer_groups.h.
  std::optional<int32_t> layers_at_a_time = std::nullopt;
};

// A lease that is asked for longer than this is cut: what the agent forgets must come back.
inline constexpr uint32_t kLeaseMsMax = 120'000;

class HandoffDesk : private StepWatch {
 public:
  // Throws as listen_at(). `inbox` is told from the transport's threads.
  HandoffDesk(Runner& runner, Scheduler& scheduler, Inbox& inbox, HandoffOptions options);

  // For READY; empty: this engine receives nothing.
  std::string address() const { return receiver_ ? receiver_->address() : std::string(); }

  // --- The side that receives

  frame::Reserved reserve(const frame::Reserve& asked, int64_t now_ms);
  // Unknown ids are ignored: the end may have crossed.
  void renew(const frame::Renew& renewal, int64_t now_ms);
  void release(uint64_t id);
  // A reservation as a sequence means it that takes it over: the number may be another's by the time that it runs.
  struct Claim {
    uint64_t id = 0;
    uint64_t generation = 0;
  };
  Claim claim(uint64_t id) const;
  // The sequence has its blocks, or is over.
  void release(const Claim& claim);
  // The token that was drawn for a sequence with this key by the engine that filled the reservation, once. Each of those that
  // begin with its prompt has one, also after the blocks have been taken over.
  std::optional<Sampled> take_first(uint64_t id, uint64_t key);
  // What the agent is to be told, where it still cares.
  std::optional<frame::Transferred> ended(const event::TransferEnded& end, int64_t now_ms);
  // Lets go of what is past its lease and of what the scheduler gave up; `out` (cleared first) is for the agent.
  void expire(int64_t now_ms, std::vector<frame::Transferred>& out);
  std::optional<int64_t> next_deadline_ms() const;

  // --- The side that sends

  // The request to be scheduled, or why not. `limits`: of what may be drawn.
  std::variant<Request, frame::Rejected> push(const frame::Push& push, const SubmitLimits& limits, int64_t now_ms);
  // Of draw_seeds, in the step that completes the prompt.
  void drawn(uint64_t id, std::vector<std::optional<Sampled>> firsts);
  // Its sequence is not, or not any more, the scheduler's.
  void forget_push(uint64_t id) { pushes_.erase(id); }
  // After each plan and each step: begins pushes of admitted sequences, tells what is complete, stops what is to end.
  void follow(const StepPlan* plan);
  // Of a step that is about to be computed: who tells its layers to the sender, as far as they may be told; nullptr: nothing may.
  // Told is only what apply() leaves where it is (Scheduler::blocks_settled). A step that fails ends its sequences, so that the end
  // of the transfer never comes, and without that nothing counts at the other engine.
  StepWatch* watch(const StepPlan& plan);
  // Ends the sequence. Whether its FINISHED is for the agent of now: see take_orphan().
  void ended(const event::PushEnded& end);
  // True, once, where a sequence of this id was left behind by an agent that is gone.
  bool take_orphan(uint64_t id) { return orphans_.erase(id) > 0; }

  // The agent is gone: lets go of everything as soon as the transport has.
  void clear();

 private:
  struct Lease {
    uint64_t generation;
    int64_t until_ms;
    bool closing = false;  // the writer was told to stop
    bool wanted = true;    // somebody is told of its end
  };
  struct Outgoing {
    Push push = {};
    int32_t first_block = 0;  // of the sequence: the first of the transfer
    int32_t told = 0;  // blocks of the sequence of which the sender knows all layers, or that the receiver had before
    bool begun = false;
    bool finished = false;
    std::vector<uint64_t> draw_keys = {};
    TransferNote note = {};
  };
  // Until their time is over: what nobody has come for must not stay.
  struct FirstTokens {
    std::vector<FirstToken> tokens;
    int64_t until_ms;
  };

  // Blocks that the step under way fills.
  struct Early {
    uint64_t id;  // of the sequence
    int32_t first;  // of its blocks
    std::vector<int32_t> blocks;
    int32_t layers_at_a_time;
    int32_t layers_told = 0;
  };

  void layers_stored(int32_t layers) override;
  bool wants(int32_t layers) const override;
  TransferSecret new_secret();
  void let_go(uint64_t id);

  Scheduler& scheduler_;
  int32_t vocab_size_;
  KvView kv_;
  std::optional<int32_t> layers_at_a_time_;
  TransferTable table_;
  std::unique_ptr<KvReceiver> receiver_;
  KvSender sender_;
  std::random_device random_;
  uint64_t generations_ = 0;
  std::map<uint64_t, Lease> leases_;      // by reservation
  std::map<uint64_t, FirstTokens> firsts_;  // by reservation
  std::map<uint64_t, Outgoing> pushes_;   // by sequence
  std::vector<Early> early_;              // of the step under way
  std::set<uint64_t> orphans_;            // sequences
  std::vector<uint64_t> ids_;             // scratch
};

}  // namespace penstock
