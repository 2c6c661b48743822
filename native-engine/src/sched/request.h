// One sequence on its way from prompt to output. Owns the shape of a request and the counters of a sequence; which
// sequence runs when is scheduler.h, where it waits is queue.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "model/batch.h"
#include "model/sampler.h"
#include "sched/reservation.h"

namespace penstock {

class SequenceGrammar;

// Why a sequence ended. The numbers are those of the wire.
enum class FinishReason : uint8_t {
  Stop = 1,
  Length = 2,
  Cancelled = 3,
  Deadline = 4,
  Internal = 5,
  Grammar = 6,
  Transfer = 7,  // its K and V could not be handed over
};

// What a caller asks for. Checked by whoever makes it: ids below the vocabulary, max_new_tokens >= 1, output shorter than
// that.
struct Request {
  uint64_t id = 0;                           // unique among live sequences
  std::vector<int32_t> prompt;               // [1..] token ids
  std::vector<int32_t> output;               // sampled in an earlier life, elsewhere: output like what is sampled here
  int32_t max_new_tokens = 1;                // >= 1, of output in all
  uint64_t credit_tokens = 0;                // tokens that may be sampled before more credit is granted
  std::vector<int32_t> stop_ids;             // any of these ends the sequence
  int32_t priority = 0;                      // higher goes first
  std::optional<int64_t> deadline_ms;        // on the clock of now_ms
  uint64_t tenant = 0;                       // opaque, for fairness only
  uint64_t salt = 0;                         // only requests with equal salts share cached blocks
  Pooling pooling = Pooling::none;           // other than none: an embedding of the prompt, no output
  bool hands_over = false;                   // no output: K and V of the prompt go to another engine
  // Of one that hands over: behind its prompt a token is drawn for each of them, as the other engine would draw it for a sequence
  // with that seed. To the sampler, the prompt ends at draw_prompt_tokens, and what follows is output.
  std::vector<uint64_t> draw_seeds;
  int32_t draw_prompt_tokens = 0;
  std::optional<Sampled> first;              // drawn by the engine that computed the prompt, for this sequence
  std::optional<ReservationName> takes_over;  // whose last block it gets, where it is there when it is admitted
  SamplingParams sampling;                   // carried for the sampler; the scheduler never reads it
  std::shared_ptr<SequenceGrammar> grammar;  // likewise; null: any text

  bool stops_at(int32_t token) const { return std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end(); }
};

// A sequence ends by leaving the scheduler, so there is no state for having ended.
//
//                  submit()              admit()
//      (request) ───────────▶ Waiting ──────────────▶ Running
//                               ▲                        │
//                               └────── preempt() ───────┤
//      from either state: cancel(), expire()             │
//      from Running: apply() ── stop, length, internal ──┴──▶ (gone, one Finished; an embedding ends with stop)
//
// Waiting  in the queue; holds no block; computed == 0.
// A sequence that hands over stays Running when all is computed, until hand_over_ended(): its blocks are being read. When
// it is to end before that, `ending` says why, and it is neither planned nor preempted until then.
//
// Running  in Scheduler::running_; holds at least ceil(computed / kBlockTokens) blocks. The full ones that are computed
//          are entries of the prefix cache, perhaps shared; the others are its own. Without credit it is paused: not
//          planned, but it keeps its blocks until somebody who can run needs them.
enum class SequenceState : uint8_t { Waiting, Running };

// Where the waiting queue has a sequence: not at all, counted only, or in a line.
enum class QueuePlace : uint8_t { None, Uncredited, InLine };

// One counter instead of phases: computed tokens catch up with the known ones, many at once in prefill, one in decode.
struct Sequence {
  Request request;
  SequenceState state = SequenceState::Waiting;
  uint64_t arrival = 0;                         // order of submission, unique; kept through preemption
  std::vector<int32_t> tokens;                  // prompt, then output
  int32_t computed = 0;                         // tokens whose K and V are in the cache, <= tokens.size()
  uint64_t credit_tokens = 0;                   // left
  std::vector<int32_t> blocks;                  // block ids in order of position
  std::vector<uint64_t> block_hashes;           // [total / kBlockTokens] of the full blocks of tokens, see PrefixCache
  std::optional<int32_t> prompt_cached_tokens;  // of the prompt, found in the cache when first admitted; absent before
  std::optional<int32_t> slot;                  // while running: a number below sequences_max that no other has
  uint32_t preemptions = 0;
  std::optional<FinishReason> ending;           // of one that hands over: ends so as soon as nobody reads its blocks

  // The waiting queue's own.
  Sequence* queue_before = nullptr;
  Sequence* queue_behind = nullptr;
  QueuePlace place = QueuePlace::None;
  bool preempted = false;  // has run before, so it waits among those who have

  int32_t total() const { return static_cast<int32_t>(tokens.size()); }
  int32_t remaining() const { return total() - computed; }
  int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
  int32_t output_tokens() const { return total() - prompt_tokens(); }
  std::span<const int32_t> output() const { return std::span(tokens).subspan(request.prompt.size()); }

  bool embeds() const { return request.pooling != Pooling::none; }
  bool hands_over() const { return request.hands_over; }
  bool samples() const { return !embeds() && !hands_over(); }
  // For whoever gets its blocks.
  bool draws() const { return hands_over() && !request.draw_seeds.empty(); }
  // Who samples nothing needs none.
  bool has_credit() const { return credit_tokens > 0 || !samples(); }
  bool decoding() const { return computed > 0 && remaining() == 1; }
  // Whether a step can bring it further.
  bool can_compute() const { return remaining() > 0 && has_credit() && !ending.has_value(); }
};

// A token after which the sequence ends with reason stop, whatever the counts say: its grammar is complete.
struct LastToken {
  int32_t token;
};

// What became of a row with logits: the token drawn, or why the sequence ends without one.
using Drawn = std::variant<int32_t, FinishReason, LastToken>;

// Rank among running sequences: higher priority first, then the earlier arrival. Total, because arrivals are unique.
inline bool ranks_before(const Sequence& a, const Sequence& b) {
  if (a.request.priority != b.request.priority) return a.request.priority > b.request.priority;
  return a.arrival < b.arrival;
}

// The last word about a sequence.
struct Finished {
  uint64_t id;
  FinishReason reason;
  int32_t prompt_tokens;
  int32_t cached_tokens;  // prompt tokens found in the cache when first admitted; preemption does not change it
  int32_t output_tokens;  // every sampled token, the stop token and those of an earlier life included
};

}  // namespace penstock
