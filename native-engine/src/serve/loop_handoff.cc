// What the step loop does for prompts that another engine computes, or that this one computes for others. Owns what becomes of a
// reservation that a SUBMIT names and of the first token that came with it; leases and transfers are handoff_desk.h, the rest of
// the loop is loop.cc.
#include <algorithm>
#include <array>
#include <utility>

#include "serve/log.h"
#include "serve/loop.h"
#include "serve/submit.h"

namespace penstock {
namespace {

// In place of minus infinity, which the wire does not carry: what a forbidden token gets.
constexpr float kLogprobMin = -9999.0f;

float finite_logprob(float logprob) { return std::max(logprob, kLogprobMin); }

}  // namespace

frame::Token StepLoop::shown_token(uint64_t id, int32_t token, SampledRow& row) {
  for (TokenLogprob& top : row.top) top.logprob = finite_logprob(top.logprob);
  return {id, static_cast<uint32_t>(token), finite_logprob(row.logprob), std::move(row.top)};
}

void StepLoop::push(const frame::Push& push) {
  if (shutdown_) return reject({push.id, frame::RejectCode::Draining, "the engine is shutting down"});
  if (grammars_.holds(push.id) || scheduler_.sequence(push.id) != nullptr)
    return reject({push.id, frame::RejectCode::Invalid, "id belongs to a sequence that has not ended"});
  SubmitLimits limits = submit_limits();
  limits.grammars = true;  // where they are not, only the token is left to the other engine
  auto checked = handoff_.push(push, limits, milliseconds(Clock::now()));
  if (auto* rejected = std::get_if<frame::Rejected>(&checked)) return reject(std::move(*rejected));
  Request& request = std::get<Request>(checked);
  if (push.draw.has_value() && push.draw->grammar.has_value()) {
    if (grammars_.hold(request, *push.draw->grammar)) return;
    request.draw_seeds.clear();
  }
  if (!schedule(std::move(request))) handoff_.forget_push(push.id);
}

// Of transferred_: reservations that are gone without their agent's doing.
void StepLoop::send_transferred() {
  if (!connection_.has_value()) return;
  for (const frame::Transferred& told : transferred_) outbox_.append(*connection_, told);
}

// What the request gets of the reservation that is named. Returns one that is not complete, to be let go of once the request is
// accepted: it would keep the very blocks that the sequence is to compute, perhaps until its lease ends.
std::optional<HandoffDesk::Claim> StepLoop::claim(const frame::Submit& submit, Request& request) {
  if (submit.reservation == 0) return std::nullopt;
  // Without credit it may say nothing yet: it draws for itself.
  if (request.credit_tokens > 0 && request.pooling == Pooling::none)
    request.first = handoff_.take_first(
        submit.reservation, draw_key(request.sampling, submit.seed, submit.grammar, request.prompt, request.output));
  const Reservation* reservation = scheduler_.reservation(submit.reservation);
  if (reservation == nullptr || reservation->state != ReservationState::Committed)
    return handoff_.claim(submit.reservation);
  claims_[submit.id] = handoff_.claim(submit.reservation);
  request.takes_over = ReservationName{reservation->id, reservation->order};
  return std::nullopt;
}

// Moves the request on by its first token, as if it had been drawn here: grammar, output and credit. Nothing where there is none,
// or one that could not have been drawn here: the sequence then draws for itself.
std::optional<StepLoop::Beginning> StepLoop::begin(Request& request) {
  const std::optional<Sampled> first = std::exchange(request.first, std::nullopt);
  const int32_t vocab_size = runner_.info().vocab_size;
  if (!first.has_value() || !is_draw(*first, request.sampling, vocab_size)) return std::nullopt;
  if (!RowSampler::allows(request, first->token, vocab_size)) return std::nullopt;
  Beginning beginning{.token = first->token, .row = {}, .end = std::nullopt};
  SampledRow& row = beginning.row;
  RowSampler::settle(request, first->token, row);
  if (const auto* reason = std::get_if<FinishReason>(&row.drawn)) {
    log_line(LogLevel::Warn, "no_token",
             {{"id", request.id}, {"position", request.prompt.size() + request.output.size()}, {"reason", row.error}});
    beginning.end = *reason;
    return beginning;
  }
  row.logprob = first->logprob;
  row.top = first->top;
  request.output.push_back(first->token);
  --request.credit_tokens;
  const auto output_tokens = static_cast<int32_t>(request.output.size());
  const auto total = static_cast<int32_t>(request.prompt.size()) + output_tokens;
  if (std::holds_alternative<LastToken>(row.drawn) || request.stops_at(first->token))
    beginning.end = FinishReason::Stop;
  else if (output_tokens >= request.max_new_tokens || total >= scheduler_.sequence_tokens_max())
    beginning.end = FinishReason::Length;
  else if (request.grammar != nullptr)
    grammars_.masks().begin(std::array{request.grammar});
  return beginning;
}

void StepLoop::send_first(uint64_t id, Beginning& beginning) {
  if (!connection_.has_value() || !beginning.row.shown) return;
  frame::Tokens tokens;
  tokens.tokens.push_back(shown_token(id, beginning.token, beginning.row));
  outbox_.append(*connection_, std::move(tokens));
}

// Its only token, or none: nothing is left to compute, and the scheduler never hears of it.
void StepLoop::finish_at_first(const Request& request, Beginning& beginning) {
  const auto prompt_tokens = static_cast<int32_t>(request.prompt.size());
  admitted_.id = request.id;
  admitted_.cached_tokens = static_cast<uint32_t>(prompt_tokens);
  admitted_.hashes.clear();
  const auto claimed = claims_.find(request.id);
  const Reservation* reservation = claimed == claims_.end() ? nullptr : scheduler_.reservation(claimed->second.id);
  if (reservation != nullptr) admitted_.hashes.assign(reservation->hashes.begin(), reservation->hashes.end());
  if (connection_.has_value()) outbox_.append(*connection_, admitted_);
  if (!std::holds_alternative<FinishReason>(beginning.row.drawn)) send_first(request.id, beginning);
  let_go_of_reservation(request.id);
  const Finished finished{request.id, *beginning.end, prompt_tokens, prompt_tokens,
                          static_cast<int32_t>(request.output.size())};
  if (connection_.has_value()) outbox_.append(*connection_, finished);
}

// Its blocks are the sequence's by now, or of no use to it. Before the next step, since this one may be planned already.
void StepLoop::let_go_of_reservation(uint64_t sequence_id) {
  const auto found = claims_.find(sequence_id);
  if (found == claims_.end()) return;
  let_go_.push_back(found->second);
  claims_.erase(found);
}

}  // namespace penstock
