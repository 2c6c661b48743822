// What a prompt that is handed over leaves behind its last step: how much later than the step its K and V are at the other engine, told
// when the step is over, or in groups of layers while it goes on. Owns what is measured and its table. The other engine is a process of
// its own, since one process cannot map its own memory a second time.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "model/runner.h"

namespace penstock::cuda::bench {

// Hands a prompt of `tokens` over `rounds` times each way, computed `step_tokens` at a time, and prints a row for each way.
void print_handoff(Runner& runner, int32_t tokens, int32_t step_tokens, int32_t rounds);

// The other engine, started by print_handoff(): says where it listens, and ends when it has received what the flags say.
void receive_handoffs(const std::map<std::string, std::string>& flags);

}  // namespace penstock::cuda::bench
