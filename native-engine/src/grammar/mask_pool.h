// Masks made beside the model's forward pass. Owns the threads that compute them and, for each sequence, whose turn it
// is: the mask of the next token needs only the tokens so far, so it is begun as soon as one has been sampled.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "grammar/matcher.h"

namespace penstock {

// A grammar with the mask of a sequence's next token.
//
//   none ──begin()──▶ queued ──claim by a pool thread, or by mask()──▶ working ──▶ ready ──consume()──▶ none
//
// The matcher belongs to whoever is in `working`, else to the step thread. Recomputing a preempted sequence does not
// move it: it stands behind the last sampled token, whatever the cache holds.
class SequenceGrammar {
 public:
  // vocab_size: of the model, which may have more rows than the vocabulary has tokens.
  SequenceGrammar(GrammarMatcher matcher, int32_t vocab_size);

  // Moves on by tokens that were sampled elsewhere, from the start of the text; failed as soon as one of them may not come
  // next, whose index is then `at`. No masks are made on the way, so it costs microseconds a token.
  GrammarMatcher::State replay(std::span<const int32_t> tokens, size_t& at);
  // Computes the mask now; for the first one, on the thread that compiled the grammar.
  void prepare();
  // [ceil(vocab_size / 32)] the tokens that may come next, or an empty span where none may or the matcher failed. Waits
  // for a thread that is at it; computes here where none has begun.
  std::span<const uint32_t> mask();
  // Moves on by a token of that mask.
  GrammarMatcher::State consume(int32_t token);
  bool is_end(int32_t token) const { return matcher_.is_end(token); }
  std::string error() const { return matcher_.error(); }

 private:
  friend class MaskPool;
  enum Turn : int32_t { kNone, kQueued, kWorking, kReady };
  bool claim();
  void compute();

  GrammarMatcher matcher_;
  std::vector<uint32_t> mask_;
  bool possible_ = false;  // mask_ has a token
  std::atomic<int32_t> turn_{kNone};
};

class MaskPool {
 public:
  // threads >= 1; sequences_max bounds what may be queued.
  MaskPool(int32_t threads, int32_t sequences_max);
  ~MaskPool();
  MaskPool(const MaskPool&) = delete;
  MaskPool& operator=(const MaskPool&) = delete;

  // Has the next mask of each computed, on any thread. A sequence may end at any time; its grammar lives until a thread
  // is done with it.
  void begin(std::span<const std::shared_ptr<SequenceGrammar>> grammars);

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<std::shared_ptr<SequenceGrammar>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace penstock
