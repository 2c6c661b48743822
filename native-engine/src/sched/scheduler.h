// Who computes what in the next step. Owns sequences, their blocks and credits, and the rules of admission, preemption
// and ending. Knows no tensor, socket, thread or clock: now_ms is an argument.
//
// A step is plan → run → apply:
//   StepPlan& plan = scheduler.plan(now_ms);         // data: which rows of which sequence
//   runner.forward(plan.batch(), logits);            // effects, elsewhere
//   scheduler.apply(drawn);                          // counters move, computed blocks enter the prefix cache
// Between the steps come submit(), cancel(), add_credit(). Ended sequences are collected with take_finished().
//
// Why no mix of requests gets stuck:
//  - No sequence outgrows the pool: it ends with reason length at sequence_tokens_max(), which always fits when alone.
//  - A sequence gets the blocks of all its tokens when admitted, so prefill never waits for memory.
//  - Blocks that only the prefix cache knows count as free, for they are given up on demand. Blocks found in the cache
//    are held before anything is given up for the same admission, so it cannot lose what it counted on; if the rest
//    does not fit they are let go again.
//  - A decoding sequence short of a block takes it from a paused one, else from one that ranks after it. A victim may
//    free nothing when others share its blocks, and then the next one follows; with all of them gone, what is not free
//    is the sequence's own. The first in rank can therefore always take a step, and ends after a bounded number of
//    them. A sequence that finds nobody to take from keeps its blocks and waits, which costs nothing, where preempting
//    itself would cost a recomputation.
//  - A waiting sequence takes blocks and slots from paused ones, so a slow reader cannot hold the engine. From those
//    who can run it takes nothing, whatever its priority: that decides who is next, not who is thrown out.
//  - Reservations hold blocks for sequences that come later. Committed ones are given up before anybody is preempted or
//    kept waiting; those being filled cannot be, so together they hold at most reserved_blocks_max, and whoever made them
//    drops them at the end of their lease at the latest. The same goes for sequences that hand over: nobody takes their
//    blocks while they are read, and they are ended at their deadline.
//  - A waiting sequence whose next block is just being computed by another (the same prompt several times at once, a
//    system prompt in common) lets one step pass and then finds it in the cache. That is decided anew in every step
//    from the plan of that very step: it waits only for rows that are about to be computed, remembers nobody, and
//    whatever becomes of the other one (cancelled, preempted, paused, ended, its step abandoned), the next plan finds
//    the block in the cache or nobody computing it. Each such step completes a block of its prompt.
//
// What a step costs here: O(running) for decoding and prefill, O(blocks of the prompt) for the one sequence that is
// next in the queue; nothing depends on how many wait. Nothing between plan() and the end of apply() allocates:
// submit() reserves what a sequence will ever need.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "model/batch.h"
#include "sched/block_pool.h"
#include "sched/prefix_cache.h"
#include "sched/queue.h"
#include "sched/request.h"
#include "sched/reservation.h"

namespace penstock {

// Requests that may wait. A caller with more work than this is better told so at once.
inline constexpr int32_t kQueueMax = 1024;
// Known tokens that may wait, which is what a queue costs in memory: at most 9 bytes each, 18 MiB in all. 256 prompts
// of 8,192 tokens; a single one of any length is let in.
inline constexpr int64_t kQueueTokensMax = 2 * 1024 * 1024;

// Reservations at a time, whose blocks may all be in the cache: bounds the tokens they remember and what a step spends on
// looking through them.
inline constexpr int32_t kReservationsMax = 256;

struct SchedulerConfig {
  int32_t blocks_total = 0;       // KV blocks, >= 1
  int32_t context_tokens = 0;     // longest sequence of the model, >= 2
  int32_t sequences_max = 32;     // running at once, paused ones included
  int32_t step_tokens_max = 128;  // rows of one step, >= sequences_max so that every decoding sequence fits
  // Rows of prompts in a step that also decodes, >= 1: readers wait for the whole step. Absent: step_tokens_max.
  std::optional<int32_t> prefill_tokens_max = std::nullopt;
  int32_t queue_max = kQueueMax;
  int64_t queue_tokens_max = kQueueTokensMax;
  int32_t reserved_blocks_max = 0;  // of reservations that are being filled; 0: half of blocks_total
  int32_t reservations_max = kReservationsMax;
  uint64_t hash_seed = 0;  // of the block hashes, see PrefixCache
  BlockHash block_hash = hash_block;
};

enum class SubmitError : uint8_t { DuplicateId, TooLong, QueueFull };

// One step as flat arrays. Valid until the next call of a method that changes the scheduler.
struct StepPlan {
  std::vector<int32_t> token_ids;       // [rows]
  std::vector<int32_t> positions;       // [rows]
  std::vector<StepSequence> sequences;  // block tables point into the sequences; `pooled` is for the caller to fill in
  std::vector<Sequence*> owners;        // [sequences]
  std::vector<Sequence*> sampling;      // those with wants_logits, in order
  std::vector<Sequence*> embedding;     // those whose embedding is complete after this step, in order
  std::vector<const Sequence*> admitted;  // those that run for the first time
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
  int64_t kv_tokens = 0;  // sum of context lengths: what attention reads

  bool empty() const { return sequences.empty(); }
  StepBatch batch() const { return {token_ids, positions, sequences}; }
};

struct SchedulerStats {
  int32_t blocks_total;
  int32_t blocks_used;    // held by sequences; one that several share counts once
  int32_t blocks_cached;  // held by nobody, content kept for whoever asks for it
  int32_t running;        // paused ones included
  int32_t waiting;
  int64_t prefill_tokens_queued;  // known tokens still to be computed, of those waiting or prefilling
  int64_t decode_kv_tokens;       // context of the decoding sequences
  uint64_t preemptions;           // these three since the start
  uint64_t prompt_tokens;         // of sequences admitted
  uint64_t cached_tokens;         // of those, found in the prefix cache
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
  // Sets blocks aside for a prompt, those that the cache has included; a rest that fills no block has one too, unless the cache
  // has everything before it. Never takes anything from a sequence. The reservation is valid until it is dropped.
  std::variant<const Reservation*, ReserveError> reserve(uint64_t id, uint64_t salt, std::span<const int32_t> tokens);
  // The blocks of a reservation that is being filled hold what they should: they become entries of the prefix cache.
  void commit(uint64_t id);
  // Nobody writes into its blocks any more. Unknown ids are ignored.
  void drop(uint64_t id);
  const Reservation* reservation(uint64_t id) const;
  // Moves the ids of committed reservations that were given up since the last call to `out`, which is cleared first.
  void take_given_up(std::vector<uint64_t>& out);

  // Of a sequence that hands over: nobody reads its blocks any more, because everything has arrived or nothing will.
  void hand_over_ended(uint64_t id, bool arrived);
  const Sequence* sequence(uint64_t id) const;
  // Of the sequence at `index` of the plan, how many of its first blocks hold all that they ever will as soon as the step is
  // computed, and stay its own in apply(): they may be read while it is computed, layer by layer as they are filled.
  int32_t blocks_settled(size_t index) const;
  // Moves the ids of sequences that hand over and are to end since the last call to `out`, which is cleared first: their
  // blocks must not be read any more, and hand_over_ended() is to follow.
  void take_ending(std::vector<uint64_t>& out);

  // Ends a sequence with reason cancelled. Unknown ids are ignored: the end may have crossed the cancellation.
  void cancel(uint64_t id);
  void cancel_all();
  void add_credit(uint64_t id, uint64_t tokens);

  // Ends what is past its deadline and chooses the rows of the next step. An empty plan means there is nothing that can
  // run until a request, credit, cancellation or deadline arrives; an empty plan needs no apply().
  StepPlan& plan(int64_t now_ms);
  // One result for each of plan.sampling, in order; that of one that hands over means nothing here. `unusable`: those of
  // plan.embedding that have no finite result; they end with reason internal, the others with stop.
  void apply(std::span<const Drawn> drawn, std::span<const Sequence* const> unusable = {});
  // Instead of apply() when the step could not be computed: everything in it ends with reason internal.
  void abandon_step();

  // Moves the ends since the last call to `out`, which is cleared first.
  void take_finished(std::vector<Finished>& out);
  // What the prefix cache gained and lost, see PrefixCache.
  void take_block_events(std::vector<BlockEvent>& out, int32_t events_max) { cache_.take_events(out, events_max); }
  void resync_block_events() { cache_.resync(); }

  // The earliest deadline; nullopt = none.
  std::optional<int64_t> next_deadline_ms() const;
  bool idle() const { return sequences_.empty(); }
  SchedulerStats stats() const;
  // Throws std::logic_error when blocks or counters do not add up. Walks everything: for tests and idle moments.
  void check_integrity() const;

 private:
  using DeadlineKey = std::pair<int64_t, uint64_t>;  // deadline_ms, arrival

  void expire(int64_t now_ms);
  void plan_decodes(int32_t& budget_tokens);
  void plan_prefills(int32_t& budget_tokens);
  void admit(int32_t& budget_tokens);
  bool admit_next(Sequence& sequence);
  bool is_being_computed(const Sequence& sequence, int32_t index) const;
  int32_t blocks_on_demand(bool from_paused);
  bool give_up_reservation();
  Reservation* lender_of(const Sequence& sequence, int32_t cached);
  bool make_room(Sequence& sequence, int32_t blocks_wanted);
  void add_rows(Sequence& sequence, int32_t rows);
  Sequence* victim_for(const Sequence& sequence);
  Sequence* last_paused();
  int32_t paused() const;
  void preempt(Sequence& sequence);
  void leave_running(Sequence& sequence);
  void advance(Sequence& sequence, int32_t rows);
  void accept(Sequence& sequence, const Drawn& drawn);
  void finish(Sequence& sequence, FinishReason reason);
  void end(Sequence& sequence, FinishReason reason);
  void clear_plan();

  SchedulerConfig config_;
  int32_t sequence_tokens_max_;
  BlockPool pool_;
  PrefixCache cache_;
  WaitingQueue waiting_;
  std::vector<Sequence*> running_;  // in order of rank
  std::vector<int32_t> slots_;      // free ones
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  std::unordered_map<uint64_t, Reservation> reservations_;
  int32_t filling_blocks_ = 0;  // of reservations that are being filled, cached ones not counted
  uint64_t reservations_made_ = 0;
  std::vector<uint64_t> given_up_;
  std::vector<uint64_t> ending_;
  std::map<DeadlineKey, Sequence*> deadlines_;
  std::vector<Finished> finished_;
  StepPlan plan_;
  std::vector<Sequence*> order_;         // scratch: the running ones at the start of a pass
  std::vector<int32_t> common_holders_;  // scratch [blocks_total], all 0 between calls
  uint64_t arrivals_ = 0;
  uint64_t preemptions_ = 0;
  uint64_t prompt_tokens_ = 0;
  uint64_t cached_tokens_ = 0;
  bool preempted_in_step_ = false;
};

}  // namespace penstock
