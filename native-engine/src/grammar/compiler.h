// Grammars compiled away from the step thread, so that a hostile schema delays nobody but whoever waits for a grammar
// too. Owns the thread, its queue, and the cache of what was compiled; what a refusal becomes is the caller's.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "grammar/mask_pool.h"

namespace penstock {

// Grammars waiting to be compiled. Beyond it the last would wait for most of a minute behind hostile ones.
inline constexpr size_t kCompilationsMax = 64;

struct GrammarOrder {
  uint64_t ticket;  // of the caller's choice, unique among those not taken
  GrammarKind kind;
  std::string text;
  uint64_t salt;  // orders share cached grammars only where equal, so that none can tell what another one has asked
  std::vector<int32_t> output = {};  // of the text that is there already, see SequenceGrammar::replay()
};

struct CompiledGrammar {
  uint64_t ticket = 0;
  std::shared_ptr<SequenceGrammar> grammar;  // null where it was refused, or nothing may follow the output
  bool complete = false;                     // nothing may follow the output
  std::optional<size_t> not_allowed;         // index in the output of a token that may not stand there
  std::string error;                         // why the grammar itself was refused
};

class GrammarCompiler {
 public:
  // on_compiled: called on the compiler's thread when there is something to take(). vocab_size: of the model.
  GrammarCompiler(int32_t vocab_size, std::function<void()> on_compiled);
  ~GrammarCompiler();
  GrammarCompiler(const GrammarCompiler&) = delete;
  GrammarCompiler& operator=(const GrammarCompiler&) = delete;

  // From here on orders are compiled against these tokens (see GrammarVocabulary); tokens beyond the model's are
  // dropped.
  void set_vocabulary(std::vector<std::vector<uint8_t>> tokens, std::vector<uint32_t> end_ids);
  // False when kCompilationsMax wait already.
  bool order(GrammarOrder order);
  // Drops what waits under this ticket; a compilation that has begun runs to its end and is dropped then.
  void cancel(uint64_t ticket);
  // Drops everything, the vocabulary too.
  void clear();
  // Moves what is done since the last call to `out`, which is cleared first.
  void take(std::vector<CompiledGrammar>& out);

 private:
  struct Tokens {
    std::vector<std::vector<uint8_t>> bytes;
    std::vector<uint32_t> end_ids;
  };
  struct Clear {};
  using Job = std::variant<Tokens, Clear, GrammarOrder>;
  struct Cached {
    GrammarKind kind;
    uint64_t salt;
    std::string text;
    GrammarMatcher matcher;
  };

  void work();
  CompiledGrammar compile(GrammarOrder& order);
  const GrammarMatcher& matcher_for(GrammarOrder& order);

  const int32_t vocab_size_;
  const std::function<void()> on_compiled_;

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Job> jobs_;
  size_t orders_waiting_ = 0;  // in jobs_
  std::optional<uint64_t> compiling_;
  std::vector<CompiledGrammar> compiled_;
  bool stopping_ = false;

  // Of the compiler's thread alone.
  std::shared_ptr<const GrammarVocabulary> vocabulary_;
  std::string vocabulary_error_;
  std::list<Cached> cache_;  // the last used first

  std::thread thread_;
};

}  // namespace penstock
