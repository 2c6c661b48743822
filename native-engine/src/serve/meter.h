// How fast the engine is. Owns the rates derived from measured steps; the measuring of a step is loop.cc.
#pragma once

#include <algorithm>
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
    double macs = 0;      // 0 = not known
    double ended_at = 0;  // seconds of a clock that never goes back
  };

  void record(const Step& step) {
    const double rows = step.prefill_tokens + step.decode_tokens;
    if (rows <= 0 || step.seconds <= 0) return;
    // Prefill pays for its share of the rows: a prompt chunk is bound by arithmetic, and that is spread evenly over
    // them. Decode is measured where it is alone: beside a chunk of prompt a step lasts many times longer, which says
    // how much prefill there was and not how fast decoding is. So it is with what bounds each of them: memory is
    // measured where it is the limit, arithmetic where that is.
    if (step.prefill_tokens > 0) {
      prefill_.add(step.prefill_tokens, step.seconds * step.prefill_tokens / rows);
      if (step.macs > 0) macs_.add(step.macs, step.seconds, step.ended_at);
    } else {
      decode_.add(step.decode_tokens, step.seconds);
      memory_.add(step.memory_bytes, step.seconds, step.ended_at);
    }
    busy_.pass(step.ended_at, step.seconds);
  }

  // 0 until measured. Routing predicts by these two, so they stay as they are while nothing runs.
  float prefill_tokens_per_second() const { return prefill_.rate(); }
  float decode_tokens_per_second() const { return decode_.rate(); }
  // Of steps that only decode, and of those that compute prompts: while it does that. 0 too where the last one is long over.
  float memory_bytes_per_second(double now) const { return memory_.rate(now); }
  float macs_per_second(double now) const { return macs_.rate(now); }
  // Of the last seconds, how much was spent in steps.
  float busy_share(double now) const {
    Busy until_now = busy_;
    until_now.pass(now, 0);
    return until_now.share();
  }

 private:
  // Long enough to smooth over one odd step, short enough that a router sees a change of load within seconds.
  static constexpr double kHalfLifeSeconds = 2.0;
  // A rate that is older says nothing about the engine of now.
  static constexpr double kGaugeSeconds = 10.0;

  struct Rate {
    double amount = 0.0;
    double seconds = 0.0;
    double last_at = 0.0;
    void add(double amount_, double seconds_, double at = 0.0) {
      const double kept = std::exp2(-seconds_ / kHalfLifeSeconds);
      amount = amount * kept + amount_;
      seconds = seconds * kept + seconds_;
      last_at = at;
    }
    float rate() const { return seconds > 0.0 ? static_cast<float>(amount / seconds) : 0.0f; }
    float rate(double now) const { return now - last_at > kGaugeSeconds ? 0.0f : rate(); }
  };

  // The same over time as it passes.
  struct Busy {
    double in_steps = 0.0;
    double passed = 0.0;
    double last_at = 0.0;
    bool begun = false;
    void pass(double at, double seconds) {
      const double since = begun ? std::max(0.0, at - last_at) : seconds;
      const double kept = std::exp2(-since / kHalfLifeSeconds);
      in_steps = in_steps * kept + std::min(seconds, since);
      passed = passed * kept + since;
      last_at = at;
      begun = begun || seconds > 0;
    }
    float share() const { return passed > 0.0 ? static_cast<float>(in_steps / passed) : 0.0f; }
  };

  Rate prefill_, decode_, memory_, macs_;
  Busy busy_;
};

}  // namespace penstock
