// The step loop. See loop.h.
#include "serve/loop.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "model/device.h"
#include "serve/log.h"
#include "serve/submit.h"

namespace penstock {
namespace {

// Often enough for a router to see load change, rarely enough to cost nothing beside a step.
constexpr auto kStatsWhileSteppingEvery = std::chrono::milliseconds(50);
constexpr auto kStatsEvery = std::chrono::seconds(1);
// An agent that has this much to read gains nothing from knowing how old its news is.
constexpr size_t kStatsOutboxBytesMax = 64 * 1024;
// Block events in one frame: 1.1 MB, far below what a frame may have. More than that waits for the next frame.
constexpr int32_t kBlockEventsPerFrame = 64 * 1024;
double seconds_of(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}

uint32_t saturated_us(std::chrono::steady_clock::duration time) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(us, 0, std::numeric_limits<uint32_t>::max()));
}

}  // namespace

int64_t StepLoop::milliseconds(Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

StepLoop::StepLoop(Runner& runner, const SchedulerConfig& config, Inbox& inbox, Outbox& outbox, HandoffOptions handoff)
    : runner_(runner),
      inbox_(inbox),
      outbox_(outbox),
      scheduler_(config),
      grammars_(runner.info().vocab_size, config.sequences_max, [this] { inbox_.post(event::GrammarsCompiled{}); }),
      handoff_(runner, scheduler_, inbox, std::move(handoff)),
      sampler_(runner, grammars_.masks(), config.sequences_max),
      pooled_(config.sequences_max, runner.info().embedding_dims) {
  const auto sequences = static_cast<size_t>(config.sequences_max);
  logits_.resize(sequences * static_cast<size_t>(runner.info().vocab_size));
  sampled_.reserve(sequences);
  unusable_.reserve(sequences);
  tokens_.tokens.reserve(sequences);
  embedding_.values.reserve(static_cast<size_t>(runner.info().embedding_dims));
  admitted_.hashes.reserve(static_cast<size_t>(scheduler_.sequence_tokens_max() / kBlockTokens));
  blocks_.events.reserve(static_cast<size_t>(std::min(config.blocks_total, kBlockEventsPerFrame)) + 1);
  finished_.reserve(sequences);
}

void StepLoop::run() {
  try {
    serve();
  } catch (const DeviceFailure& error) {
    log_line(LogLevel::Error, "device_failed", {{"reason", error.what()}});
    end_with("the device failed, the engine stops: " + std::string(error.what()));
    throw;
  } catch (const std::exception& error) {
    log_line(LogLevel::Error, "step_loop_failed", {{"reason", error.what()}});
    end_with("internal error: the engine stops");
    throw;
  }
  outbox_.close();
}

void StepLoop::end_with(std::string message) {
  if (connection_.has_value()) outbox_.append(*connection_, frame::Fatal{std::move(message)});
  outbox_.close();
}

void StepLoop::serve() {
  bool stepped = false;  // in the last turn, or blocks came or went with a transfer
  for (;;) {
    const bool waits = !stepped && let_go_.empty();
    inbox_.take(events_, waits ? wake_at() : std::optional(Clock::time_point{}));
    for (Event& event : events_) {
      handle(event);
      stepped |= std::holds_alternative<event::TransferEnded>(event) || std::holds_alternative<event::PushEnded>(event);
    }
    if (shutdown_) return end_transfers();
    const auto now = Clock::now();
    grammars_.expire(milliseconds(now), held_);
    finish_held(FinishReason::Deadline);
    for (const HandoffDesk::Claim& claim : let_go_) handoff_.release(claim);
    let_go_.clear();
    handoff_.expire(milliseconds(now), transferred_);
    send_transferred();
    StepPlan& plan = scheduler_.plan(milliseconds(now));
    handoff_.follow(&plan);
    send_finished();
    if (plan.empty()) send_admitted(plan);  // what hands over only what was there
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

// What is left when everything has been cancelled: sequences whose blocks are being read. The transport has been told to
// stop, and nothing that it waits for takes long.
void StepLoop::end_transfers() {
  for (;;) {
    send_finished();
    if (scheduler_.idle()) return;
    inbox_.take(events_, std::nullopt);
    for (Event& event : events_) handle(event);
  }
}

// When there is something to do without being told; nullopt = never.
std::optional<StepLoop::Clock::time_point> StepLoop::wake_at() const {
  std::optional<Clock::time_point> at;
  if (connection_.has_value()) at = stats_at_ + kStatsEvery;
  for (const auto deadline_ms :
       {scheduler_.next_deadline_ms(), grammars_.next_deadline_ms(), handoff_.next_deadline_ms()}) {
    if (!deadline_ms.has_value()) continue;
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
          scheduler_.resync_block_events();
          blocks_.sequence = 0;
          send_stats(Clock::now());
        } else if constexpr (std::is_same_v<Body, event::Disconnected>) {
          const SchedulerStats stats = scheduler_.stats();
          log_line(LogLevel::Info, "agent_gone", {{"cancelled", stats.running + stats.waiting}});
          connection_.reset();
          grammars_.clear();
          handoff_.clear();
          claims_.clear();
          scheduler_.cancel_all();
          handoff_.follow(nullptr);
          scheduler_.take_finished(finished_);  // there is nobody to tell
        } else if constexpr (std::is_same_v<Body, event::Shutdown>) {
          shutdown_ = true;
          grammars_.clear(&held_);
          finish_held(FinishReason::Cancelled);
          scheduler_.cancel_all();
          handoff_.follow(nullptr);
        } else if constexpr (std::is_same_v<Body, frame::Submit>) {
          submit(body);
        } else if constexpr (std::is_same_v<Body, frame::Cancel>) {
          if (!cancel_held(body.id)) scheduler_.cancel(body.id);
        } else if constexpr (std::is_same_v<Body, frame::Vocabulary>) {
          if (grammars_available()) grammars_.set_vocabulary(body);
        } else if constexpr (std::is_same_v<Body, event::GrammarsCompiled>) {
          take_compiled();
        } else if constexpr (std::is_same_v<Body, frame::Reserve>) {
          if (connection_.has_value())
            outbox_.append(*connection_, handoff_.reserve(body, milliseconds(Clock::now())));
        } else if constexpr (std::is_same_v<Body, frame::Renew>) {
          handoff_.renew(body, milliseconds(Clock::now()));
        } else if constexpr (std::is_same_v<Body, frame::Release>) {
          handoff_.release(body.id);
        } else if constexpr (std::is_same_v<Body, frame::Push>) {
          push(body);
        } else if constexpr (std::is_same_v<Body, event::TransferEnded>) {
          if (const auto told = handoff_.ended(body, milliseconds(Clock::now())); told.has_value() && connection_.has_value())
            outbox_.append(*connection_, *told);
        } else if constexpr (std::is_same_v<Body, event::PushEnded>) {
          handoff_.ended(body);
        } else {
          static_assert(std::is_same_v<Body, frame::Credit>);
          if (!grammars_.add_credit(body.id, body.tokens)) scheduler_.add_credit(body.id, body.tokens);
        }
      },
      event);
}

void StepLoop::reject(frame::Rejected rejected) {
  log_line(LogLevel::Debug, "rejected", {{"id", rejected.id}, {"reason", rejected.message}});
  if (connection_.has_value()) outbox_.append(*connection_, std::move(rejected));
}

void StepLoop::submit(const frame::Submit& submit) {
  if (shutdown_) return reject({submit.id, frame::RejectCode::Draining, "the engine is shutting down"});
  auto checked = check_submit(submit, submit_limits(), milliseconds(Clock::now()));
  if (auto* rejected = std::get_if<frame::Rejected>(&checked)) return reject(std::move(*rejected));
  Request& request = std::get<Request>(checked);
  if (grammars_.holds(request.id) || scheduler_.sequence(request.id) != nullptr)
    return reject({submit.id, frame::RejectCode::Invalid, "id belongs to a sequence that has not ended"});
  const std::optional<HandoffDesk::Claim> incomplete = claim(submit, request);
  bool accepted = false;
  if (!submit.grammar.has_value())
    accepted = schedule(std::move(request));
  else if (!(accepted = grammars_.hold(std::move(request), *submit.grammar)))
    reject({submit.id, frame::RejectCode::QueueFull, "too many grammars wait to be compiled"});
  if (!accepted)
    claims_.erase(submit.id);
  else if (incomplete.has_value())
    let_go_.push_back(*incomplete);
}

SubmitLimits StepLoop::submit_limits() const {
  return {runner_.info().vocab_size, scheduler_.sequence_tokens_max(), grammars_available()};
}

// What is rejected leaves its reservation as it is: the agent may try again.
bool StepLoop::schedule(Request request) {
  const uint64_t id = request.id;
  if (request.pooling != Pooling::none) pooled_.prepare();
  std::optional<Beginning> beginning = begin(request);
  if (beginning.has_value() && beginning->end.has_value()) {
    finish_at_first(request, *beginning);
    return true;
  }
  const std::optional<SubmitError> error = scheduler_.submit(std::move(request));
  if (!error.has_value()) {
    if (beginning.has_value()) send_first(id, *beginning);
    return true;
  }
  switch (*error) {
    case SubmitError::DuplicateId:
      reject({id, frame::RejectCode::Invalid, "id belongs to a sequence that has not ended"});
      break;
    case SubmitError::TooLong:
      reject({id, frame::RejectCode::TooLong, "prompt does not fit the context"});
      break;
    case SubmitError::QueueFull:
      reject({id, frame::RejectCode::QueueFull, "the waiting queue is full"});
      break;
  }
  return false;
}

void StepLoop::take_compiled() {
  grammars_.take(compiled_);
  for (GrammarDesk::Answer& answer : compiled_) {
    const uint64_t id = answer.request.id;
    if (answer.request.hands_over) {
      // What cannot be drawn here may be drawn there.
      if (answer.request.grammar == nullptr) answer.request.draw_seeds.clear();
      if (!schedule(std::move(answer.request))) handoff_.forget_push(id);
      continue;
    }
    if (answer.complete) {
      // It ended where it was before, and only that is not known yet.
      held_.push_back(std::move(answer.request));
      finish_held(FinishReason::Stop);
      continue;
    }
    const bool compiled = answer.request.grammar != nullptr;
    if (!compiled) reject({id, frame::RejectCode::Invalid, answer.error});
    if (!compiled || !schedule(std::move(answer.request))) claims_.erase(id);
  }
  compiled_.clear();
}

bool StepLoop::cancel_held(uint64_t id) {
  std::optional<Request> request = grammars_.cancel(id);
  if (!request.has_value()) return false;
  held_.push_back(std::move(*request));
  finish_held(FinishReason::Cancelled);
  return true;
}

// Of held_, which never came to the scheduler: they end as those do that wait in its queue.
void StepLoop::finish_held(FinishReason reason) {
  for (const Request& request : held_) {
    let_go_of_reservation(request.id);
    handoff_.forget_push(request.id);
    const auto prompt_tokens = static_cast<int32_t>(request.prompt.size());
    const auto output_tokens = static_cast<int32_t>(request.output.size());
    if (connection_.has_value())
      outbox_.append(*connection_, Finished{request.id, reason, prompt_tokens, 0, output_tokens});
  }
  held_.clear();
}

void StepLoop::step(StepPlan& plan) {
  const auto start = Clock::now();
  const RunnerInfo& info = runner_.info();
  const std::span<float> logits = std::span(logits_).first(plan.sampling.size() * static_cast<size_t>(info.vocab_size));
  const double memory_bytes = static_cast<double>(info.weight_bytes) +
                              static_cast<double>(plan.kv_tokens) * static_cast<double>(info.kv_bytes_per_token);
  const double macs = step_macs(info.work, plan.sequences);
  const int32_t prefill_tokens = plan.prefill_tokens, decode_tokens = plan.decode_tokens;
  send_admitted(plan);
  pooled_.attach(plan);
  bool computed = false;
  try {
    // Where tokens are drawn on a device, logits come here only for rows that need more than a token.
    StepBatch batch = plan.batch();
    batch.watch = handoff_.watch(plan);
    runner_.forward(batch, runner_.device_sampler() == nullptr ? logits : std::span<float>());
    sample(plan);
    computed = true;
  } catch (const DeviceFailure&) {
    throw;  // no later step could be computed either
  } catch (const std::exception& error) {
    log_line(LogLevel::Error, "step_failed",
             {{"step", steps_}, {"sequences", plan.sequences.size()}, {"reason", error.what()}});
  }
  if (computed) {
    if (!tokens_.tokens.empty()) send(tokens_);
    embed(plan);
    scheduler_.apply(sampled_, unusable_);
  } else {
    scheduler_.abandon_step();
  }
  handoff_.follow(nullptr);
  send_finished();
  ++steps_;
  const auto end = Clock::now();
  const auto took = end - start;
  if (computed)
    meter_.record({.seconds = std::chrono::duration<double>(took).count(),
                   .prefill_tokens = prefill_tokens,
                   .decode_tokens = decode_tokens,
                   .memory_bytes = memory_bytes,
                   .macs = macs,
                   .ended_at = seconds_of(end)});
  last_step_.step_us = saturated_us(took);
  last_step_.step_prefill_tokens = static_cast<uint32_t>(prefill_tokens);
  last_step_.step_decode_tokens = static_cast<uint32_t>(decode_tokens);
}

// Draws a token for each row with logits into sampled_, and collects what the agent is to see of them in tokens_.
void StepLoop::sample(const StepPlan& plan) {
  const auto vocab = static_cast<size_t>(runner_.info().vocab_size);
  const std::span<SampledRow> rows =
      sampler_.sample(plan.sampling, std::span(logits_).first(plan.sampling.size() * vocab));
  sampled_.clear();
  tokens_.tokens.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    const Sequence& sequence = *plan.sampling[i];
    SampledRow& row = rows[i];
    sampled_.push_back(row.drawn);
    if (sequence.hands_over()) {
      handoff_.drawn(sequence.request.id, std::move(row.firsts));
      continue;
    }
    if (const auto* reason = std::get_if<FinishReason>(&row.drawn)) {
      log_line(*reason == FinishReason::Grammar ? LogLevel::Warn : LogLevel::Error, "no_token",
               {{"id", sequence.request.id}, {"position", sequence.total()}, {"reason", row.error}});
      continue;
    }
    if (!row.shown) continue;
    const auto* last = std::get_if<LastToken>(&row.drawn);
    const int32_t token = last != nullptr ? last->token : std::get<int32_t>(row.drawn);
    tokens_.tokens.push_back(shown_token(sequence.request.id, token, row));
  }
}

// Sends the embeddings that are complete with this step; unusable_ are those that are not numbers.
void StepLoop::embed(const StepPlan& plan) {
  unusable_.clear();
  for (const Sequence* sequence : plan.embedding) {
    std::span<const float> values;
    if (!pooled_.complete(*sequence, values)) {
      log_line(LogLevel::Error, "embedding_unusable", {{"id", sequence->request.id}, {"tokens", sequence->total()}});
      unusable_.push_back(sequence);
      continue;
    }
    embedding_.id = sequence->request.id;
    embedding_.values.assign(values.begin(), values.end());
    send(embedding_);
  }
}

void StepLoop::send_admitted(const StepPlan& plan) {
  for (const Sequence* sequence : plan.admitted) {
    admitted_.id = sequence->request.id;
    admitted_.cached_tokens = static_cast<uint32_t>(sequence->prompt_cached_tokens.value_or(0));
    // Nothing has been sampled here yet, so what is known is the prompt and output of an earlier life.
    admitted_.hashes.assign(sequence->block_hashes.begin(), sequence->block_hashes.end());
    send(admitted_);
    let_go_of_reservation(sequence->request.id);
  }
}

// A frame that keeps its lists for the next time: they move into the variant and back, so nothing is copied.
template <typename Body>
void StepLoop::send(Body& body) {
  if (!connection_.has_value()) return;
  Frame frame(std::move(body));
  outbox_.append(*connection_, frame);
  body = std::move(std::get<Body>(frame));
}

void StepLoop::send_finished() {
  scheduler_.take_finished(finished_);
  for (const Finished& finished : finished_) {
    let_go_of_reservation(finished.id);
    handoff_.forget_push(finished.id);
    // Its agent is gone; the one of now has never heard of it.
    const bool orphan = handoff_.take_orphan(finished.id);
    if (!orphan && connection_.has_value()) outbox_.append(*connection_, finished);
  }
}

void StepLoop::send_stats(Clock::time_point now) {
  stats_at_ = now;
  if (!connection_.has_value() || outbox_.waiting_bytes() > kStatsOutboxBytesMax) return;
  const SchedulerStats scheduled = scheduler_.stats();
  frame::Stats stats = last_step_;
  stats.step = steps_;
  stats.blocks_total = static_cast<uint32_t>(scheduled.blocks_total);
  stats.blocks_used = static_cast<uint32_t>(scheduled.blocks_used);
  stats.blocks_cached = static_cast<uint32_t>(scheduled.blocks_cached);
  stats.running = static_cast<uint32_t>(scheduled.running);
  stats.waiting = static_cast<uint32_t>(scheduled.waiting);
  stats.prefill_tokens_queued = static_cast<uint64_t>(scheduled.prefill_tokens_queued);
  stats.decode_kv_tokens = static_cast<uint64_t>(scheduled.decode_kv_tokens);
  stats.prefill_tokens_per_second = meter_.prefill_tokens_per_second();
  stats.decode_tokens_per_second = meter_.decode_tokens_per_second();
  stats.memory_bytes_per_second = meter_.memory_bytes_per_second(seconds_of(now));
  stats.macs_per_second = meter_.macs_per_second(seconds_of(now));
  stats.busy_share = meter_.busy_share(seconds_of(now));
  stats.preemptions = scheduled.preemptions;
  stats.prompt_tokens = scheduled.prompt_tokens;
  stats.cached_tokens = scheduled.cached_tokens;
  outbox_.append(*connection_, stats);
  send_blocks();
}

// Beside STATS, so as often at most; the first frame of a connection comes even where there is nothing to list.
void StepLoop::send_blocks() {
  scheduler_.take_block_events(blocks_.events, kBlockEventsPerFrame);
  if (blocks_.events.empty()) return;
  ++blocks_.sequence;
  send(blocks_);
}

}  // namespace penstock
