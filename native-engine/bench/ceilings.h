// What this machine can do at best: read memory, multiply int8, multiply f32. Owns the probes; who compares against them
// is the caller's business. A probe repeats its shortest useful piece and keeps the best, since noise only slows it down.
#pragma once

#include <cstdint>
#include <optional>

#include "ops/memory.h"

namespace penstock::bench {

// Each with all `threads` at work at once.
struct Ceilings {
  double read_bytes_per_second;
  // Absent where this processor has no AVX2: no kernel of the engine would run at such a rate either.
  std::optional<double> int8_macs_per_second;  // maddubs + madd + add, operands in registers
  std::optional<double> f32_macs_per_second;   // fused multiply-add, operands in registers
};

class CeilingProbe {
 public:
  // Takes memory several times the last-level cache and touches all of it. Throws std::bad_alloc.
  explicit CeilingProbe(int32_t threads);

  // Takes about a third of a second.
  Ceilings measure() const;

 private:
  int32_t threads_;
  PageMemory memory_;
};

}  // namespace penstock::bench
