// The bench as a worker: one command per line on standard input, one line of JSON per answer. Owns this small language,
// so that scripts/bench-engine.ts can alternate between this engine and another within seconds of each other.
#pragma once

#include <cstdint>
#include <istream>
#include <ostream>

#include "model/runner.h"

namespace penstock::bench {

struct WorkerLimits {
  int32_t threads;
  int32_t sequences;        // most of them at once
  int32_t batch_tokens;     // tokens that each of `sequences` may hold
  int32_t context_tokens;   // tokens that a single one may hold
  int32_t step_tokens_max;  // rows of one prefill step
};

//   prefill TOKENS                    {"seconds":S,"cpuSeconds":S}
//   extend CONTEXT TOKENS             {"seconds":S,"cpuSeconds":S}   TOKENS computed behind CONTEXT others
//   decode CONTEXT STEPS SEQUENCES    {"seconds":S,"cpuSeconds":S}
//   ceilings                          {"read":BYTES_PER_S,"int8":MACS_PER_S,"f32":MACS_PER_S}
//   perplexity FILE                   {"perplexity":P}   FILE: lines `window ID ID ...`, other lines are ignored
//   memory                            {"rss":BYTES,"peak":BYTES}; a figure that the system does not tell is left out
// A command that fails answers {"error":MESSAGE}. Returns at the end of input.
void serve_commands(Runner& runner, const WorkerLimits& limits, std::istream& in, std::ostream& out);

}  // namespace penstock::bench
