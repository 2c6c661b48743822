// Who computes what in the next step. Owns sequences, their blocks and credits, and the rules of admission, preemption
// and ending. Knows no tensor, socket, thread or clock: now_ms is an argument.
//
// A step is plan → run → apply:
//   const StepPlan& plan = scheduler.plan(now_ms);   // data: which rows of which sequence
//   runner.forward(plan.batch(), logits);            // effects, elsewhere
//   scheduler.apply(sampled);                        // counters move
// Between the steps come submit(), cancel(), add_credit(). Ended sequences are collected with take_finished().
//
// Why no mix of requests gets stuck:
//  - No sequence outgrows the pool: it ends with reason length at sequence_tokens_max(), which always fits when alone.
//  - A sequence gets the blocks of all its tokens when admitted, so prefill never waits for memory.
//  - A decoding sequence short of a block takes it from a paused one, else from one that ranks after it. The first in
//    rank can therefore always take a step, and ends after a bounded number of them. A sequence that finds nobody to
//    take from keeps its blocks and waits, which costs nothing, where preempting itself would cost a recomputation.
//  - A waiting sequence takes blocks and slots from paused ones, so a slow reader cannot hold the engine. From those
//    who can run it takes nothing, whatever its priority: that decides who is next, not who is thrown out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "model/batch.h"
#include "sched/block_pool.h"
#include "sched/queue.h"
#include "sched/request.h"

namespace penstock {

// Requests that may wait. Bounds memory (a waiting prompt is at most context_tokens * 4 bytes) and the scan per step; a
// caller with more work than this is better told so at once.
inline constexpr int32_t kQueueMax = 1024;

struct SchedulerConfig {
  int32_t blocks_total = 0;       // KV blocks, >= 1
  int32_t context_tokens = 0;     // longest sequence of the model, >= 2
  int32_t sequences_max = 32;     // running at once, paused ones included
  int32_t step_tokens_max = 128;  // rows of one step, >= sequences_max so that every decoding sequence fits
  int32_t queue_max = kQueueMax;
};

enum class SubmitError : uint8_t { DuplicateId, TooLong, QueueFull };

// One step as flat arrays. Valid until the next call of a method that changes the scheduler.
struct StepPlan {
  std::vector<int32_t> token_ids;       // [rows]
  std::vector<int32_t> positions;       // [rows]
  std::vector<StepSequence> sequences;  // block tables point into the sequences
  std::vector<Sequence*> owners;        // [sequences]
  std::vector<Sequence*> sampling;      // those with wants_logits, in order
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
  int64_t kv_tokens = 0;  // sum of context lengths: what attention reads

  bool empty() const { return sequences.empty(); }
  StepBatch batch() const { return {token_ids, positions, sequences}; }
};

struct SchedulerStats {
  int32_t blocks_total;
  int32_t blocks_used;
  int32_t running;  // paused ones included
  int32_t waiting;
  int64_t prefill_tokens_queued;  // known tokens still to be computed, of those waiting or prefilling
  int64_t decode_kv_tokens;       // context of the decoding sequences
  uint64_t preemptions;           // since the start
};

class Scheduler {
 public:
  // Throws std::invalid_argument for limits that make no sense.
  explicit Scheduler(const SchedulerConfig& config);

  // Prompt and output together: the model's context window or the whole pool, whichever is smaller. Known before the
  // first request, so a caller can announce it.
  int32_t sequence_tokens_max() const { return sequence_tokens_max_; }

  // Puts a request in the queue, or says why not.
  std::optional<SubmitError> submit(Request request);
  // Ends a sequence with reason cancelled. Unknown ids are ignored: the end may have crossed the cancellation.
  void cancel(uint64_t id);
  void cancel_all();
  void add_credit(uint64_t id, uint64_t tokens);

  // Ends what is past its deadline and chooses the rows of the next step. An empty plan means there is nothing that can
  // run until a request, credit, cancellation or deadline arrives; an empty plan needs no apply().
  const StepPlan& plan(int64_t now_ms);
  // One token for each of plan.sampling, in order; nullopt where the model gave no usable result.
  void apply(std::span<const std::optional<int32_t>> sampled);
  // Instead of apply() when the step could not be computed: everything in it ends with reason internal.
  void abandon_step();

  // Moves the ends since the last call to `out`, which is cleared first.
  void take_finished(std::vector<Finished>& out);

  // A time at or before the earliest deadline; nullopt = no deadline.
  std::optional<int64_t> next_deadline_ms() const { return next_deadline_ms_; }
  bool idle() const { return sequences_.empty(); }
  SchedulerStats stats() const;
  // Throws std::logic_error when blocks or counters do not add up. Walks everything: for tests and idle moments.
  void check_integrity() const;

 private:
  void expire(int64_t now_ms);
  void plan_decodes(int32_t& budget_tokens);
  void plan_prefills(int32_t& budget_tokens);
  void admit(int32_t& budget_tokens);
  bool make_room(const Sequence& sequence, int32_t blocks_wanted);
  void add_rows(Sequence& sequence, int32_t rows);
  Sequence* victim_for(const Sequence& sequence);
  Sequence* last_paused();
  void preempt(Sequence& sequence);
  void finish(Sequence& sequence, FinishReason reason);
  void finish_all(std::vector<Sequence*>& sequences, FinishReason reason);
  void note_deadline(const Sequence& sequence);
  void clear_plan();

  SchedulerConfig config_;
  int32_t sequence_tokens_max_;
  BlockPool pool_;
  WaitingQueue waiting_;
  std::vector<Sequence*> running_;  // in order of rank
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  std::vector<Finished> finished_;
  StepPlan plan_;
  std::vector<Sequence*> order_;  // scratch: the running ones at the start of a pass
  std::optional<int64_t> next_deadline_ms_;
  uint64_t arrivals_ = 0;
  uint64_t preemptions_ = 0;
  bool preempted_in_step_ = false;
};

}  // namespace penstock
