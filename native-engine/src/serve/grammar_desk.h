// Requests whose grammar is being compiled: accepted, not yet with the scheduler. Owns their credits, deadlines and
// cancellation in the meantime, and the two thread pools behind grammars; everything here is called by the step thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "grammar/compiler.h"
#include "grammar/mask_pool.h"
#include "sched/request.h"
#include "serve/frames.h"

namespace penstock {

class GrammarDesk {
 public:
  struct Answer {
    Request request;        // with its grammar, where it can go on
    bool complete = false;  // nothing may follow its output: it is over
    std::string error;      // why it is refused
  };

  // on_compiled: called on another thread when there is something to take().
  GrammarDesk(int32_t vocab_size, int32_t sequences_max, std::function<void()> on_compiled);

  MaskPool& masks() { return masks_; }

  void set_vocabulary(frame::Vocabulary& vocabulary);
  // False when too many wait already; the id must not be held().
  bool hold(Request request, const frame::Grammar& grammar);
  bool holds(uint64_t id) const { return held_.contains(id); }
  // The request of this id, which is held no more; nullopt: none was.
  std::optional<Request> cancel(uint64_t id);
  bool add_credit(uint64_t id, uint64_t tokens);
  // Moves the requests that are past their deadline to `out`, which is cleared first.
  void expire(int64_t now_ms, std::vector<Request>& out);
  std::optional<int64_t> next_deadline_ms() const;
  // Drops everything, and the vocabulary. The requests that were held go to `out` where it is given.
  void clear(std::vector<Request>* out = nullptr);
  void take(std::vector<Answer>& out);

  size_t size() const { return held_.size(); }

 private:
  struct Held {
    uint64_t ticket;
    Request request;
  };

  GrammarCompiler compiler_;
  MaskPool masks_;
  std::map<uint64_t, Held> held_;       // by id
  std::map<uint64_t, uint64_t> id_of_;  // ticket → id: ids may come again, tickets do not
  uint64_t next_ticket_ = 1;
  std::vector<CompiledGrammar> compiled_;  // scratch of take()
};

}  // namespace penstock
