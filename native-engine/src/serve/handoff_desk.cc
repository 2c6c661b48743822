// Leases and pushes. See handoff_desk.h.
#include "serve/handoff_desk.h"

#include <algorithm>
#include <utility>

#include "kv/checksum.h"
#include "serve/log.h"

namespace penstock {
namespace {

// Of addresses and ids alike: what is refused is named.
frame::Rejected invalid(uint64_t id, const std::string& message) { return {id, frame::RejectCode::Invalid, message}; }

constexpr size_t kAddressBytesMax = 256;

// Both engines make it from what their agent tells them: K and V of which tokens, from which block on.
uint64_t content_of(std::span<const int32_t> tokens, uint32_t first_block) {
  Checksum sum;
  sum.update(std::as_bytes(std::span(&first_block, 1)));
  sum.update(std::as_bytes(tokens));
  return sum.value();
}

}  // namespace

HandoffDesk::HandoffDesk(Runner& runner, Scheduler& scheduler, Inbox& inbox, HandoffOptions options)
    : scheduler_(scheduler),
      vocab_size_(runner.info().vocab_size),
      table_([&inbox](uint64_t id, uint64_t generation, bool complete) {
        inbox.post(event::TransferEnded{id, generation, complete});
      }),
      sender_(
          runner.kv(), runner.info().kv_fingerprint,
          [&inbox](uint64_t id, bool arrived, const std::string& error) {
            inbox.post(event::PushEnded{id, arrived, error});
          },
          options.silence_max) {
  if (options.listen.has_value())
    receiver_ = std::make_unique<KvReceiver>(runner.kv(), runner.info().kv_fingerprint, table_, *options.listen,
                                             ReceiverOptions{.silence_max = options.silence_max});
}

TransferSecret HandoffDesk::new_secret() {
  TransferSecret secret;
  for (uint8_t& byte : secret) byte = static_cast<uint8_t>(random_());
  return secret;
}

frame::Reserved HandoffDesk::reserve(const frame::Reserve& asked, int64_t now_ms) {
  frame::Reserved answer{.id = asked.id, .grant = {}};
  const auto refuse = [&](frame::ReserveCode code) {
    answer.code = code;
    return answer;
  };
  const auto in_vocabulary = [&](uint32_t token) { return token < static_cast<uint32_t>(vocab_size_); };
  if (receiver_ == nullptr || asked.tokens.size() < kBlockTokens || asked.lease_ms == 0 ||
      !std::all_of(asked.tokens.begin(), asked.tokens.end(), in_vocabulary))
    return refuse(frame::ReserveCode::Invalid);
  const std::vector<int32_t> tokens(asked.tokens.begin(), asked.tokens.end());
  const auto made = scheduler_.reserve(asked.id, asked.salt, tokens);
  if (const auto* error = std::get_if<ReserveError>(&made)) {
    switch (*error) {
      case ReserveError::DuplicateId:
        return refuse(frame::ReserveCode::Invalid);
      case ReserveError::TooLong:
        return refuse(frame::ReserveCode::TooLong);
      case ReserveError::NoRoom:
        return refuse(frame::ReserveCode::NoRoom);
    }
  }
  const Reservation& reservation = *std::get<const Reservation*>(made);
  answer.grant = {asked.id, ++generations_, new_secret()};
  answer.blocks = static_cast<uint32_t>(reservation.blocks.size());
  answer.cached_blocks = static_cast<uint32_t>(reservation.cached);
  leases_[asked.id] = {.generation = answer.grant.generation, .until_ms = now_ms + std::min(asked.lease_ms, kLeaseMsMax)};
  std::vector<int32_t> missing(reservation.blocks.begin() + reservation.cached, reservation.blocks.end());
  if (missing.empty())
    scheduler_.commit(asked.id);
  else
    table_.open(answer.grant, content_of(reservation.tokens, answer.cached_blocks), std::move(missing));
  return answer;
}

void HandoffDesk::renew(const frame::Renew& renewal, int64_t now_ms) {
  const auto found = leases_.find(renewal.id);
  if (found == leases_.end() || found->second.closing) return;
  found->second.until_ms = now_ms + std::min(renewal.lease_ms, kLeaseMsMax);
}

void HandoffDesk::release(uint64_t id) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return;
  found->second.wanted = false;
  if (!table_.close(id)) {
    found->second.closing = true;
    receiver_->look();
    return;
  }
  // What the writer has said on leaving may still be on its way: its generation is then unknown.
  scheduler_.drop(id);
  leases_.erase(found);
}

HandoffDesk::Claim HandoffDesk::claim(uint64_t id) const {
  const auto found = leases_.find(id);
  return {id, found == leases_.end() ? 0 : found->second.generation};
}

void HandoffDesk::release(const Claim& claim) {
  const auto found = leases_.find(claim.id);
  if (found != leases_.end() && found->second.generation == claim.generation) release(claim.id);
}

std::optional<frame::Transferred> HandoffDesk::ended(const event::TransferEnded& end) {
  const auto found = leases_.find(end.id);
  if (found == leases_.end() || found->second.generation != end.generation) return std::nullopt;
  const bool wanted = found->second.wanted;
  const bool complete = end.complete && !found->second.closing;
  if (complete) {
    scheduler_.commit(end.id);
  } else {
    scheduler_.drop(end.id);
    leases_.erase(found);
  }
  if (!wanted) return std::nullopt;
  return frame::Transferred{end.id, complete};
}

void HandoffDesk::expire(int64_t now_ms, std::vector<frame::Transferred>& out) {
  out.clear();
  scheduler_.take_given_up(ids_);
  for (const uint64_t id : ids_) {
    leases_.erase(id);
    out.push_back({id, false});
  }
  ids_.clear();
  for (const auto& [id, lease] : leases_) {
    if (!lease.closing && lease.until_ms <= now_ms) ids_.push_back(id);
  }
  for (const uint64_t id : ids_) {
    log_line(LogLevel::Info, "lease_expired", {{"reservation", id}});
    if (leases_.at(id).wanted) out.push_back({id, false});
    release(id);
  }
}

std::optional<int64_t> HandoffDesk::next_deadline_ms() const {
  std::optional<int64_t> next;
  for (const auto& [id, lease] : leases_) {
    if (!lease.closing) next = std::min(next.value_or(lease.until_ms), lease.until_ms);
  }
  return next;
}

std::variant<Request, frame::Rejected> HandoffDesk::push(const frame::Push& push, int64_t now_ms) {
  if (push.tokens.empty() || push.tokens.size() % kBlockTokens != 0)
    return invalid(push.id, "tokens must be whole blocks of " + std::to_string(kBlockTokens));
  if (push.first_block >= push.tokens.size() / kBlockTokens) return invalid(push.id, "first_block is behind the last one");
  if (push.address.empty() || push.address.size() > kAddressBytesMax) return invalid(push.id, "address is empty or too long");
  for (const uint32_t token : push.tokens) {
    if (token >= static_cast<uint32_t>(vocab_size_)) return invalid(push.id, "tokens are not all of the vocabulary");
  }
  if (pushes_.contains(push.id)) return invalid(push.id, "id belongs to a sequence that has not ended");
  Request request;
  request.id = push.id;
  request.prompt.assign(push.tokens.begin(), push.tokens.end());
  request.hands_over = true;
  request.priority = push.priority;
  if (push.deadline_ms.has_value()) request.deadline_ms = now_ms + *push.deadline_ms;
  request.tenant = push.tenant;
  request.salt = push.salt;
  const auto first = static_cast<int32_t>(push.first_block);
  const auto blocks = static_cast<uint32_t>(request.prompt.size() / kBlockTokens) - push.first_block;
  pushes_[push.id] = {.push = {push.id, push.address, push.grant, content_of(request.prompt, push.first_block), blocks},
                      .told = first};
  return request;
}

void HandoffDesk::follow(const StepPlan* plan) {
  if (pushes_.empty()) return;
  if (plan != nullptr) {
    for (const Sequence* sequence : plan->admitted) {
      const auto found = pushes_.find(sequence->request.id);
      if (found == pushes_.end() || !sequence->hands_over()) continue;
      sender_.begin(found->second.push);
      found->second.begun = true;
    }
  }
  scheduler_.take_ending(ids_);
  for (const uint64_t id : ids_) sender_.stop(id);
  for (auto& [id, outgoing] : pushes_) {
    if (!outgoing.begun || outgoing.finished) continue;
    const Sequence* sequence = scheduler_.sequence(id);
    if (sequence == nullptr || sequence->ending.has_value()) continue;
    // Complete blocks are entries of the prefix cache and are not replaced any more.
    const int32_t complete = sequence->computed / kBlockTokens;
    if (complete > outgoing.told) {
      sender_.extend(id, std::span(sequence->blocks)
                             .subspan(static_cast<size_t>(outgoing.told), static_cast<size_t>(complete - outgoing.told)));
      outgoing.told = complete;
    }
    if (sequence->remaining() == 0) {
      sender_.finish(id);
      outgoing.finished = true;
    }
  }
}

void HandoffDesk::ended(const event::PushEnded& end) {
  const auto found = pushes_.find(end.id);
  if (found == pushes_.end() || !found->second.begun) return;
  pushes_.erase(found);
  if (!end.arrived) log_line(LogLevel::Info, "push_failed", {{"id", end.id}, {"reason", end.error}});
  scheduler_.hand_over_ended(end.id, end.arrived);
}

void HandoffDesk::clear() {
  ids_.clear();
  for (const auto& [id, lease] : leases_) ids_.push_back(id);
  for (const uint64_t id : std::vector<uint64_t>(ids_)) release(id);
  for (auto at = pushes_.begin(); at != pushes_.end();) {
    if (at->second.begun) {
      orphans_.insert(at->first);
      ++at;
    } else {
      at = pushes_.erase(at);
    }
  }
}

}  // namespace penstock
