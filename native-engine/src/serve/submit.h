// From a SUBMIT frame to a request the scheduler may trust. Owns the limits of every field; whether there is room is
// the scheduler's question.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "sched/request.h"
#include "serve/frames.h"

namespace penstock {

struct SubmitLimits {
  int32_t vocab_size;
  int32_t context_tokens;  // prompt and output so far must be shorter: at least one token has to fit
  bool grammars = false;   // this build can compile them
};

// A pure function of its arguments. A refusal names the field. `now_ms` is when the frame arrived. The grammar is only
// bounded here; compiling it is grammar_desk.h.
std::variant<Request, frame::Rejected> check_submit(const frame::Submit& submit, const SubmitLimits& limits,
                                                    int64_t now_ms);

// What is wrong with PUSH.draw, which is there.
std::optional<std::string> draw_error(const frame::Push& push, const SubmitLimits& limits);
// Of what has been checked.
SamplingParams sampling_of(const frame::Sampling& asked, uint64_t seed, int32_t vocab_size);

}  // namespace penstock
