// Leases and pushes. See handoff_desk.h.
#include "serve/handoff_desk.h"

#include <algorithm>
#include <utility>

#include "kv/checksum.h"
#include "kv/layer_groups.h"
#include "serve/log.h"

namespace penstock {
namespace {

// Of addresses and ids alike: what is refused is named.
frame::Rejected invalid(uint64_t id, const std::string& message) { return {id, frame::RejectCode::Invalid, message}; }

constexpr size_t kAddressBytesMax = 256;

size_t blocks_of(size_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

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
      kv_(runner.kv()),
      layers_at_a_time_(options.layers_at_a_time),
      table_([&inbox](uint64_t id, uint64_t generation, bool complete, TransferNote note) {
        inbox.post(event::TransferEnded{id, generation, complete, std::move(note)});
      }),
      sender_(
          runner.kv(), runner.info().kv_fingerprint,
          [&inbox](uint64_t id, bool arrived, const std::string& error) {
            inbox.post(event::PushEnded{id, arrived, error});
          },
          {.silence_max = options.silence_max}) {
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
  firsts_.erase(id);
  let_go(id);
}

void HandoffDesk::let_go(uint64_t id) {
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
  if (found != leases_.end() && found->second.generation == claim.generation) let_go(claim.id);
}

std::optional<Sampled> HandoffDesk::take_first(uint64_t id, uint64_t key) {
  const auto found = firsts_.find(id);
  if (found == firsts_.end()) return std::nullopt;
  std::vector<FirstToken>& tokens = found->second.tokens;
  const auto token = std::find_if(tokens.begin(), tokens.end(), [&](const FirstToken& each) { return each.key == key; });
  if (token == tokens.end()) return std::nullopt;
  std::optional<Sampled> taken = std::move(token->sampled);
  tokens.erase(token);
  if (tokens.empty()) firsts_.erase(found);
  return taken;
}

std::optional<frame::Transferred> HandoffDesk::ended(const event::TransferEnded& end, int64_t now_ms) {
  const auto found = leases_.find(end.id);
  if (found == leases_.end() || found->second.generation != end.generation) return std::nullopt;
  const bool wanted = found->second.wanted;
  const bool complete = end.complete && !found->second.closing;
  if (complete) {
    scheduler_.commit(end.id);
    if (auto tokens = first_tokens_in(end.note); wanted && !tokens.empty())
      firsts_[end.id] = {std::move(tokens), now_ms + kLeaseMsMax};
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
  std::erase_if(firsts_, [&](const auto& each) { return each.second.until_ms <= now_ms; });
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

std::variant<Request, frame::Rejected> HandoffDesk::push(const frame::Push& push, const SubmitLimits& limits,
                                                         int64_t now_ms) {
  if (push.tokens.empty()) return invalid(push.id, "there are no tokens");
  if (push.first_block >= blocks_of(push.tokens.size())) return invalid(push.id, "first_block is behind the last one");
  if (push.address.empty() || push.address.size() > kAddressBytesMax) return invalid(push.id, "address is empty or too long");
  for (const uint32_t token : push.tokens) {
    if (token >= static_cast<uint32_t>(vocab_size_)) return invalid(push.id, "tokens are not all of the vocabulary");
  }
  if (pushes_.contains(push.id)) return invalid(push.id, "id belongs to a sequence that has not ended");
  if (push.draw.has_value()) {
    if (const auto error = draw_error(push, limits)) return invalid(push.id, *error);
  }
  Request request;
  request.id = push.id;
  request.prompt.assign(push.tokens.begin(), push.tokens.end());
  request.hands_over = true;
  request.priority = push.priority;
  if (push.deadline_ms.has_value()) request.deadline_ms = now_ms + *push.deadline_ms;
  request.tenant = push.tenant;
  request.salt = push.salt;
  const auto first = static_cast<int32_t>(push.first_block);
  const auto blocks = static_cast<uint32_t>(blocks_of(push.tokens.size())) - push.first_block;
  Outgoing& outgoing = pushes_[push.id];
  outgoing.push = {push.id, push.address, push.grant, content_of(request.prompt, push.first_block), blocks};
  outgoing.first_block = outgoing.told = first;
  if (push.draw.has_value()) {
    const frame::Draw& draw = *push.draw;
    request.sampling = sampling_of(draw, 0, vocab_size_);
    request.draw_seeds = draw.seeds;
    request.draw_prompt_tokens = static_cast<int32_t>(draw.prompt_tokens);
    const std::span<const int32_t> tokens(request.prompt);
    const auto prompt = tokens.first(draw.prompt_tokens), output = tokens.subspan(draw.prompt_tokens);
    for (const uint64_t seed : draw.seeds)
      outgoing.draw_keys.push_back(draw_key(request.sampling, seed, draw.grammar, prompt, output));
  }
  return request;
}

void HandoffDesk::drawn(uint64_t id, std::vector<std::optional<Sampled>> firsts) {
  const auto found = pushes_.find(id);
  if (found == pushes_.end()) return;
  std::vector<FirstToken> tokens;
  for (size_t i = 0; i < std::min(firsts.size(), found->second.draw_keys.size()); ++i)
    if (firsts[i].has_value()) tokens.push_back({found->second.draw_keys[i], std::move(*firsts[i])});
  found->second.note = note_of(tokens);
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
    // Complete blocks are entries of the prefix cache and are not replaced any more; nor is the last one, which nobody fills.
    const bool done = sequence->remaining() == 0;
    const int32_t complete = done ? static_cast<int32_t>(sequence->blocks.size()) : sequence->computed / kBlockTokens;
    if (complete > outgoing.told) {
      sender_.extend(id, std::span(sequence->blocks)
                             .subspan(static_cast<size_t>(outgoing.told), static_cast<size_t>(complete - outgoing.told)));
      outgoing.told = complete;
    }
    if (done) {
      sender_.finish(id, std::move(outgoing.note));
      outgoing.finished = true;
    }
  }
}

StepWatch* HandoffDesk::watch(const StepPlan& plan) {
  early_.clear();
  if (pushes_.empty()) return nullptr;
  for (size_t i = 0; i < plan.owners.size(); ++i) {
    const Sequence& sequence = *plan.owners[i];
    if (!sequence.hands_over()) continue;
    const auto found = pushes_.find(sequence.request.id);
    if (found == pushes_.end() || !found->second.begun) continue;
    const int32_t told = found->second.told, count = scheduler_.blocks_settled(i) - told;
    if (count <= 0) continue;
    const auto from = sequence.blocks.begin() + told;
    early_.push_back({.id = sequence.request.id,
                      .first = told,
                      .blocks = {from, from + count},
                      .layers_at_a_time = layers_at_a_time_.value_or(layers_per_group(count * kv_.bytes_per_block(), kv_.layers))});
  }
  return early_.empty() ? nullptr : this;
}

// With any runner the same groups: each begins at a multiple of its size.
bool HandoffDesk::wants(int32_t layers) const {
  return std::any_of(early_.begin(), early_.end(), [&](const Early& early) { return layers % early.layers_at_a_time == 0; });
}

void HandoffDesk::layers_stored(int32_t layers) {
  for (Early& early : early_) {
    const int32_t count = layers - early.layers_told;
    const bool all = layers == kv_.layers;
    if (count < early.layers_at_a_time && !all) continue;
    Outgoing& outgoing = pushes_.at(early.id);
    sender_.extend(early.id, static_cast<uint32_t>(early.first - outgoing.first_block), early.blocks, {early.layers_told, count});
    early.layers_told = layers;
    if (all) outgoing.told = early.first + static_cast<int32_t>(early.blocks.size());
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
  firsts_.clear();
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
