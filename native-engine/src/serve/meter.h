// How fast the engine is. Owns the rates derived from measured steps; the measuring of a step is loop.cc.
#pragma once

#include <cmath>
#include <cstdint>

namespace penstock {

// Totals in which a step counts half after kHalfLifeSeconds of further steps. A ratio of two such totals is steadier
// than an average of ratios: a long step weighs as much as it lasted.
class Meter {
 public:
  struct Step {
    double seconds;
    int32_t prefill_tokens;
    int32_t decode_tokens;
    double memory_bytes;  // weights and KV read
  };

  void record(const Step& step) {
    const double rows = step.prefill_tokens + step.decode_tokens;
    if (rows <= 0 || step.seconds <= 0) return;
    // Prefill pays for its share of the rows: a prompt chunk is bound by arithmetic, and that is spread evenly over
    // them. Decode is measured where it is alone: beside a chunk of prompt a step lasts many times longer, which says
    // how much prefill there was and not how fast decoding is.
    if (step.prefill_tokens > 0) prefill_.add(step.prefill_tokens, step.seconds * step.prefill_tokens / rows);
    if (step.prefill_tokens == 0) decode_.add(step.decode_tokens, step.seconds);
    memory_.add(step.memory_bytes, step.seconds);
  }

  // 0 until measured.
  float prefill_tokens_per_second() const { return prefill_.rate(); }
  float decode_tokens_per_second() const { return decode_.rate(); }
  float memory_bytes_per_second() const { return memory_.rate(); }

 private:
  // Long enough to smooth over one odd step, short enough that a router sees a change of load within seconds.
  static constexpr double kHalfLifeSeconds = 2.0;

  struct Rate {
    double amount = 0.0;
    double seconds = 0.0;
    void add(double amount_, double seconds_) {
      const double kept = std::exp2(-seconds_ / kHalfLifeSeconds);
      amount = amount * kept + amount_;
      seconds = seconds * kept + seconds_;
    }
    float rate() const { return seconds > 0.0 ? static_cast<float>(amount / seconds) : 0.0f; }
  };
  Rate prefill_, decode_, memory_;
};

}  // namespace penstock
