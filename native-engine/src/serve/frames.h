// Wire 5, agent ↔ engine, as bytes. Owns encoding and decoding of frames; protocol/engine-frames.md is the
// specification and protocol/engine-frames.ts the other implementation. What a frame means is socket.h and loop.h.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "kv/transfer_table.h"
#include "model/sampler.h"
#include "ops/arithmetic.h"
#include "sched/block_event.h"
#include "sched/request.h"

namespace penstock {

inline constexpr uint32_t kEngineProtocol = 5;
inline constexpr size_t kFrameHeaderBytes = 8;
// A prompt of four million tokens: far above any context window, far below what would hurt.
inline constexpr size_t kFrameBodyBytesMax = 16 * 1024 * 1024;

// A peer that breaks the frame format; later bytes have no meaning, so the connection must end.
class FrameError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace frame {

// --- Agent → engine ---

struct Hello {
  uint32_t protocol;
};
struct Bias {
  uint32_t id;
  float bias;
};
enum class GrammarKind : uint8_t { JsonSchema = 1, Regex = 2, Lark = 3 };
struct Grammar {
  GrammarKind kind;
  std::string text;
  bool operator==(const Grammar&) const = default;
};
// How a token is drawn, but for the seed.
struct Sampling {
  float temperature = 0.0f;
  float top_p = 1.0f;
  uint32_t top_k = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::optional<uint8_t> logprobs_top;  // number of alternatives
  std::vector<Bias> bias;
  std::optional<Grammar> grammar;
};
struct Submit : Sampling {
  uint64_t id = 0;
  std::vector<uint32_t> prompt;
  uint32_t max_new_tokens = 1;
  uint32_t credit_tokens = 0;
  uint64_t seed = 0;
  std::vector<uint32_t> stop_ids;
  int32_t priority = 0;
  std::optional<uint32_t> deadline_ms;  // from its arrival
  uint64_t tenant = 0;
  uint64_t salt = 0;
  Pooling pooling = Pooling::none;
  uint64_t reservation = 0;      // whose blocks and first token it takes over; 0: none
  std::vector<uint32_t> output;  // sampled in an earlier life of the sequence, in another engine
};
struct Cancel {
  uint64_t id;
};
struct Credit {
  uint64_t id;
  uint32_t tokens;
};
// Sets blocks aside for a prompt that another engine computes.
struct Reserve {
  uint64_t id = 0;
  std::vector<uint32_t> tokens;
  uint64_t salt = 0;
  uint32_t lease_ms = 0;  // from its arrival
};
struct Renew {
  uint64_t id;
  uint32_t lease_ms;
};
struct Release {
  uint64_t id;
};
// Draws a token behind what is pushed for each of the seeds, as a sequence that begins with its first prompt_tokens and goes on
// with the rest would.
struct Draw : Sampling {
  uint32_t prompt_tokens = 0;
  std::vector<uint64_t> seeds;
};
// Computes a prompt and hands K and V of its blocks from first_block on to another engine, and first tokens where they are wanted.
struct Push {
  uint64_t id = 0;  // of a sequence
  std::vector<uint32_t> tokens;
  uint32_t first_block = 0;
  std::string address;
  TransferGrant grant;
  int32_t priority = 0;
  std::optional<uint32_t> deadline_ms;  // from its arrival
  uint64_t tenant = 0;
  uint64_t salt = 0;
  std::optional<Draw> draw;
};
struct Ping {
  uint64_t nonce;
};
struct Shutdown {};
struct VocabularyToken {
  bool control;
  std::vector<uint8_t> bytes;
};
struct Vocabulary {
  std::vector<VocabularyToken> tokens;  // by id
  std::vector<uint32_t> end_ids;
};

// --- Engine → agent ---

struct Ready {
  uint32_t protocol = kEngineProtocol;
  uint64_t epoch = 0;
  std::string arch;
  std::string model_name;
  uint32_t vocab_size = 0;
  uint32_t context_tokens = 0;
  uint32_t block_tokens = 0;
  uint32_t blocks_total = 0;
  uint32_t sequences_max = 0;
  uint32_t step_tokens_max = 0;
  uint32_t threads = 0;
  std::string kv_fingerprint;
  uint64_t memory_bytes_per_second_max = 0;  // 0 = not measured
  MacType mac_type = MacType::unknown;
  uint64_t macs_per_second_max = 0;  // 0 = not measured
  uint32_t embedding_dims = 0;
  bool grammars = false;  // SUBMIT may carry one
  std::string kv_address;  // where PUSH of other engines may go; empty: nowhere
};
struct Token {
  uint64_t id;
  uint32_t token;
  float logprob;
  std::vector<TokenLogprob> top;
};
struct Tokens {
  std::vector<Token> tokens;
};
enum class RejectCode : uint8_t { Invalid = 1, TooLong = 2, QueueFull = 3, Draining = 4 };
struct Rejected {
  uint64_t id;
  RejectCode code;
  std::string message;
};
struct Stats {
  uint64_t step = 0;
  uint32_t blocks_total = 0;
  uint32_t blocks_used = 0;
  uint32_t blocks_cached = 0;
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t prefill_tokens_queued = 0;
  uint64_t decode_kv_tokens = 0;
  uint32_t step_us = 0;
  uint32_t step_prefill_tokens = 0;
  uint32_t step_decode_tokens = 0;
  float prefill_tokens_per_second = 0.0f;
  float decode_tokens_per_second = 0.0f;
  float memory_bytes_per_second = 0.0f;
  float macs_per_second = 0.0f;
  float busy_share = 0.0f;
  uint64_t preemptions = 0;  // these three since the start
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
};
struct Pong {
  uint64_t nonce;
};
enum class ReserveCode : uint8_t { Ok = 0, Invalid = 1, TooLong = 2, NoRoom = 3, Draining = 4 };
struct Reserved {
  uint64_t id = 0;
  ReserveCode code = ReserveCode::Ok;
  TransferGrant grant;         // its id is the reservation's; unused unless Ok
  uint32_t blocks = 0;         // in all
  uint32_t cached_blocks = 0;  // of those, here already: the first ones
};
// The reservation is complete, or gone.
struct Transferred {
  uint64_t id;
  bool complete;
};
struct Fatal {
  std::string message;
};
struct Embedding {
  uint64_t id;
  std::vector<float> values;
};
struct Blocks {
  uint64_t sequence = 0;
  std::vector<BlockEvent> events;
};
struct Admitted {
  uint64_t id;
  uint32_t cached_tokens;
  std::vector<uint64_t> hashes;
};

}  // namespace frame

// FINISHED carries the scheduler's Finished as it is.
using Frame =
    std::variant<frame::Hello, frame::Submit, frame::Cancel, frame::Credit, frame::Ping, frame::Shutdown, frame::Vocabulary,
                 frame::Ready, frame::Tokens, Finished, frame::Rejected, frame::Stats, frame::Pong, frame::Fatal,
                 frame::Embedding, frame::Blocks, frame::Admitted, frame::Reserve, frame::Renew, frame::Release, frame::Push,
                 frame::Reserved, frame::Transferred>;

// Appends one frame, header included. Throws FrameError for what the wire cannot carry: a number that is not finite, a
// body over the limit; `out` is then unchanged.
void append_frame(std::vector<uint8_t>& out, const Frame& frame);

// Splits a stream of bytes into frames. Feed it whatever arrives; it keeps what is incomplete, at most one frame.
class FrameDecoder {
 public:
  void push(std::span<const uint8_t> bytes);
  // The next complete frame, or nullopt when more bytes are needed. Throws FrameError on a malformed one.
  std::optional<Frame> next();

 private:
  std::vector<uint8_t> pending_;
  size_t consumed_bytes_ = 0;  // of pending_
};

}  // namespace penstock
