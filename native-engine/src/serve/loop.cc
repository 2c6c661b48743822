// The step loop. See loop.h.
#include "serve/loop.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "serve/log.h"
#include "serve/submit.h"

namespace penstock {
namespace {

// Often enough for a router to see load change, rarely enough to cost nothing beside a step.
constexpr auto kStatsWhileSteppingEvery = std::chrono::milliseconds(50);
constexpr auto kStatsEvery = std::chrono::seconds(1);
// An agent that has this much to read gains nothing from knowing how old its news is.
constexpr size_t kStatsOutboxBytesMax = 64 * 1024;
// In place of minus infinity, which the wire does not carry: what a forbidden token gets.
constexpr float kLogprobMin = -9999.0f;

int64_t milliseconds(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

float finite_logprob(float logprob) { return std::max(logprob, kLogprobMin); }

uint32_t saturated_us(std::chrono::steady_clock::duration time) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(us, 0, std::numeric_limits<uint32_t>::max()));
}

}  // namespace

StepLoop::StepLoop(Runner& runner, const SchedulerConfig& config, Inbox& inbox, Outbox& outbox)
    : runner_(runner), inbox_(inbox), outbox_(outbox), scheduler_(config) {
  const auto sequences = static_cast<size_t>(config.sequences_max);
  logits_.resize(sequences * static_cast<size_t>(runner.info().vocab_size));
  sampled_.reserve(sequences);
  tokens_.tokens.reserve(sequences);
}

void StepLoop::run() {
  try {
    serve();
  } catch (const std::exception& error) {
    log_line(LogLevel::Error, "step_loop_failed", {{"reason", error.what()}});
    if (connection_.has_value()) outbox_.append(*connection_, frame::Fatal{"internal error: the engine stops"});
    outbox_.close();
    throw;
  }
  outbox_.close();
}

void StepLoop::serve() {
  bool stepped = false;  // in the last turn
  for (;;) {
    inbox_.take(events_, stepped ? std::optional(Clock::time_point{}) : wake_at());
    for (Event& event : events_) handle(event);
    if (shutdown_) return;
    const auto now = Clock::now();
    const StepPlan& plan = scheduler_.plan(milliseconds(now));
    send_finished();
    if (!plan.empty()) {
      step(plan);
      stepped = true;
      if (Clock::now() - stats_at_ >= kStatsWhileSteppingEvery) send_stats(Clock::now());
      continue;
    }
    if (std::exchange(stepped, false)) {
      scheduler_.check_integrity();
      send_stats(now);
    } else if (now - stats_at_ >= kStatsEvery) {
      send_stats(now);
    }
  }
}

// When there is something to do without being told; nullopt = never.
std::optional<StepLoop::Clock::time_point> StepLoop::wake_at() const {
  std::optional<Clock::time_point> at;
  if (connection_.has_value()) at = stats_at_ + kStatsEvery;
  if (const auto deadline_ms = scheduler_.next_deadline_ms(); deadline_ms.has_value()) {
    const Clock::time_point deadline{std::chrono::milliseconds(*deadline_ms)};
    at = std::min(at.value_or(deadline), deadline);
  }
  return at;
}

void StepLoop::handle(Event& event) {
  std::visit(
      [&](auto& body) {
        using Body = std::remove_reference_t<decltype(body)>;
        if constexpr (std::is_same_v<Body, event::Connected>) {
          connection_ = body.connection;
          send_stats(Clock::now());
        } else if constexpr (std::is_same_v<Body, event::Disconnected>) {
          const SchedulerStats stats = scheduler_.stats();
          log_line(LogLevel::Info, "agent_gone", {{"cancelled", stats.running + stats.waiting}});
          connection_.reset();
          scheduler_.cancel_all();
          scheduler_.take_finished(finished_);  // there is nobody to tell
        } else if constexpr (std::is_same_v<Body, event::Shutdown>) {
          shutdown_ = true;
          scheduler_.cancel_all();
          send_finished();
        } else if constexpr (std::is_same_v<Body, frame::Submit>) {
          submit(body);
        } else if constexpr (std::is_same_v<Body, frame::Cancel>) {
          scheduler_.cancel(body.id);
        } else if constexpr (std::is_same_v<Body, frame::Vocabulary>) {
          vocabulary(body);
        } else {
          static_assert(std::is_same_v<Body, frame::Credit>);
          scheduler_.add_credit(body.id, body.tokens);
        }
      },
      event);
}

void StepLoop::vocabulary(const frame::Vocabulary&) {}

void StepLoop::submit(const frame::Submit& submit) {
  const auto reject = [&](frame::Rejected rejected) {
    log_line(LogLevel::Debug, "rejected", {{"id", rejected.id}, {"reason", rejected.message}});
    if (connection_.has_value()) outbox_.append(*connection_, std::move(rejected));
  };
  if (shutdown_) return reject({submit.id, frame::RejectCode::Draining, "the engine is shutting down"});
  const SubmitLimits limits{runner_.info().vocab_size, scheduler_.sequence_tokens_max()};
  auto checked = check_submit(submit, limits, milliseconds(Clock::now()));
  if (auto* rejected = std::get_if<frame::Rejected>(&checked)) return reject(std::move(*rejected));
  const std::optional<SubmitError> error = scheduler_.submit(std::move(std::get<Request>(checked)));
  if (!error.has_value()) return;
  switch (*error) {
    case SubmitError::DuplicateId:
      return reject({submit.id, frame::RejectCode::Invalid, "id belongs to a sequence that has not ended"});
    case SubmitError::TooLong:
      return reject({submit.id, frame::RejectCode::TooLong, "prompt does not fit the context"});
    case SubmitError::QueueFull:
      return reject({submit.id, frame::RejectCode::QueueFull, "the waiting queue is full"});
  }
}

void StepLoop::step(const StepPlan& plan) {
  const auto start = Clock::now();
  const RunnerInfo& info = runner_.info();
  const std::span<float> logits = std::span(logits_).first(plan.sampling.size() * static_cast<size_t>(info.vocab_size));
  const double memory_bytes = static_cast<double>(info.weight_bytes) +
                              static_cast<double>(plan.kv_tokens) * static_cast<double>(info.kv_bytes_per_token);
  const int32_t prefill_tokens = plan.prefill_tokens, decode_tokens = plan.decode_tokens;
  bool computed = false;
  try {
    runner_.forward(plan.batch(), logits);
    sample(plan);
    computed = true;
  } catch (const std::exception& error) {
    log_line(LogLevel::Error, "step_failed",
             {{"step", steps_}, {"sequences", plan.sequences.size()}, {"reason", error.what()}});
  }
  if (computed) {
    if (!tokens_.tokens.empty() && connection_.has_value()) outbox_.append(*connection_, tokens_);
    scheduler_.apply(sampled_);
  } else {
    scheduler_.abandon_step();
  }
  send_finished();
  ++steps_;
  const auto took = Clock::now() - start;
  if (computed)
    meter_.record({std::chrono::duration<double>(took).count(), prefill_tokens, decode_tokens, memory_bytes});
  last_step_.step_us = saturated_us(took);
  last_step_.step_prefill_tokens = static_cast<uint32_t>(prefill_tokens);
  last_step_.step_decode_tokens = static_cast<uint32_t>(decode_tokens);
}

// Draws a token for each row with logits into sampled_, and collects what the agent is to see of them in tokens_.
void StepLoop::sample(const StepPlan& plan) {
  const auto vocab = static_cast<size_t>(runner_.info().vocab_size);
  sampled_.clear();
  tokens_.tokens.clear();
  for (size_t i = 0; i < plan.sampling.size(); ++i) {
    const Sequence& sequence = *plan.sampling[i];
    const std::span<float> logits = std::span(logits_).subspan(i * vocab, vocab);
    // A row that cannot be drawn from (a logit that is not a number, parameters without a finite result) ends its own
    // sequence with a typed reason; the others of the step are other callers' and go on.
    Sampled drawn{};
    try {
      drawn = sampler_.sample(logits, sequence.request.sampling, sequence.request.prompt, sequence.output());
    } catch (const SamplingError& error) {
      log_line(LogLevel::Error, "logits_unusable",
               {{"id", sequence.request.id}, {"position", sequence.total()}, {"reason", error.what()}});
      sampled_.emplace_back(std::nullopt);
      continue;
    }
    sampled_.emplace_back(drawn.token);
    if (sequence.stops_at(drawn.token)) continue;
    for (TokenLogprob& top : drawn.top) top.logprob = finite_logprob(top.logprob);
    tokens_.tokens.push_back(
        {sequence.request.id, static_cast<uint32_t>(drawn.token), finite_logprob(drawn.logprob), std::move(drawn.top)});
  }
}

void StepLoop::send_finished() {
  scheduler_.take_finished(finished_);
  if (!connection_.has_value()) return;
  for (const Finished& finished : finished_) outbox_.append(*connection_, finished);
}

void StepLoop::send_stats(Clock::time_point now) {
  stats_at_ = now;
  if (!connection_.has_value() || outbox_.waiting_bytes() > kStatsOutboxBytesMax) return;
  const SchedulerStats scheduled = scheduler_.stats();
  frame::Stats stats = last_step_;
  stats.step = steps_;
  stats.blocks_total = static_cast<uint32_t>(scheduled.blocks_total);
  stats.blocks_used = static_cast<uint32_t>(scheduled.blocks_used);
  stats.blocks_cached = 0;  // nothing outlives its sequence
  stats.running = static_cast<uint32_t>(scheduled.running);
  stats.waiting = static_cast<uint32_t>(scheduled.waiting);
  stats.prefill_tokens_queued = static_cast<uint64_t>(scheduled.prefill_tokens_queued);
  stats.decode_kv_tokens = static_cast<uint64_t>(scheduled.decode_kv_tokens);
  stats.prefill_tokens_per_second = meter_.prefill_tokens_per_second();
  stats.decode_tokens_per_second = meter_.decode_tokens_per_second();
  stats.memory_bytes_per_second = meter_.memory_bytes_per_second();
  outbox_.append(*connection_, stats);
}

}  // namespace penstock
