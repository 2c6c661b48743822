// What a scheduler does for K and V that move between engines: reservations on the side that gets them, sequences whose
// blocks are being read on the side that computes them. See scheduler.h and reservation.h.
#include <algorithm>
#include <stdexcept>

#include "sched/scheduler.h"

namespace penstock {

std::variant<const Reservation*, ReserveError> Scheduler::reserve(uint64_t id, uint64_t salt,
                                                                  std::span<const int32_t> tokens) {
  if (!plan_.empty()) throw std::logic_error("reserve() in the middle of a step");
  if (reservations_.contains(id)) return ReserveError::DuplicateId;
  if (tokens.size() >= static_cast<size_t>(sequence_tokens_max_)) return ReserveError::TooLong;
  if (reservations_.size() >= static_cast<size_t>(config_.reservations_max)) return ReserveError::NoRoom;
  Reservation made;
  made.id = id;
  made.salt = salt;
  made.tokens.assign(tokens.begin(), tokens.end());
  cache_.extend_hashes(salt, made.tokens, made.hashes);
  made.blocks.reserve(made.hashes.size() + 1);
  cache_.match({salt, made.tokens, made.hashes}, made.whole(), made.blocks);
  made.cached = static_cast<int32_t>(made.blocks.size());
  // The rest alone is not worth a transfer.
  if (made.cached == made.whole()) made.tokens.resize(made.hashes.size() * kBlockTokens);
  const int32_t most = config_.reserved_blocks_max > 0 ? config_.reserved_blocks_max : config_.blocks_total / 2;
  // A block of headroom for each sequence that is growing, as for a newcomer.
  const int32_t room = cache_.blocks_available() - static_cast<int32_t>(running_.size());
  const auto missing_blocks = [&] {
    return static_cast<int32_t>((made.tokens.size() + kBlockTokens - 1) / kBlockTokens) - made.cached;
  };
  // Nor is it worth the whole blocks before it, where there is no block for it.
  if (const int32_t all = missing_blocks(); filling_blocks_ + all > most || all > room)
    made.tokens.resize(made.hashes.size() * kBlockTokens);
  const int32_t missing = missing_blocks();
  if (filling_blocks_ + missing > most || missing > room) {
    pool_.release(made.blocks);
    // What is over the cap alone would be asked for again and again.
    return missing > most ? ReserveError::TooLong : ReserveError::NoRoom;
  }
  cache_.allocate(missing, made.blocks);
  filling_blocks_ += missing;
  made.order = reservations_made_++;
  given_up_.reserve(given_up_.size() + reservations_.size() + 1);  // so that a step allocates nothing
  return &reservations_.emplace(id, std::move(made)).first->second;
}

void Scheduler::commit(uint64_t id) {
  if (!plan_.empty()) throw std::logic_error("commit() in the middle of a step");
  const auto found = reservations_.find(id);
  if (found == reservations_.end() || found->second.state != ReservationState::Filling)
    throw std::logic_error("commit() of a reservation that is not being filled");
  Reservation& made = found->second;
  const auto blocks = static_cast<int32_t>(made.blocks.size());
  // What came into the cache meanwhile takes the place of its equal here.
  for (int32_t index = made.cached; index < made.whole(); ++index)
    cache_.store({made.salt, made.tokens, made.hashes}, index, made.blocks);
  filling_blocks_ -= blocks - made.cached;
  made.state = ReservationState::Committed;
}

void Scheduler::drop(uint64_t id) {
  if (!plan_.empty()) throw std::logic_error("drop() in the middle of a step");
  const auto found = reservations_.find(id);
  if (found == reservations_.end()) return;
  const Reservation& made = found->second;
  if (made.state == ReservationState::Filling)
    filling_blocks_ -= static_cast<int32_t>(made.blocks.size()) - made.cached;
  pool_.release(made.blocks);
  reservations_.erase(found);
}

const Reservation* Scheduler::reservation(uint64_t id) const {
  const auto found = reservations_.find(id);
  return found == reservations_.end() ? nullptr : &found->second;
}

void Scheduler::take_given_up(std::vector<uint64_t>& out) {
  out.assign(given_up_.begin(), given_up_.end());
  given_up_.clear();
}

// The oldest committed one: whoever it was for is late. Its blocks stay in the cache until their memory is needed.
bool Scheduler::give_up_reservation() {
  const Reservation* oldest = nullptr;
  for (const auto& [id, made] : reservations_) {
    if (made.state == ReservationState::Committed && (oldest == nullptr || made.order < oldest->order)) oldest = &made;
  }
  if (oldest == nullptr) return false;
  const uint64_t id = oldest->id;
  given_up_.push_back(id);
  pool_.release(oldest->blocks);
  reservations_.erase(id);
  return true;
}

// The reservation whose last block, of which the tokens fill a part, the sequence may have for its own: it has the whole blocks
// before it already, `cached` of them.
Reservation* Scheduler::lender_of(const Sequence& sequence, int32_t cached) {
  if (!sequence.request.takes_over.has_value()) return nullptr;
  const auto [id, order] = *sequence.request.takes_over;
  const auto found = reservations_.find(id);
  if (found == reservations_.end()) return nullptr;
  Reservation& made = found->second;
  const bool lends = made.order == order && made.state == ReservationState::Committed && made.has_rest() &&
                     made.whole() == cached && made.salt == sequence.request.salt &&
                     made.tokens.size() <= sequence.tokens.size() &&
                     std::equal(made.tokens.begin(), made.tokens.end(), sequence.tokens.begin());
  return lends ? &made : nullptr;
}

void Scheduler::hand_over_ended(uint64_t id, bool arrived) {
  if (!plan_.empty()) throw std::logic_error("hand_over_ended() in the middle of a step");
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  Sequence& sequence = *found->second;
  if (!sequence.hands_over()) throw std::logic_error("hand_over_ended() of a sequence that hands nothing over");
  if (sequence.ending.has_value()) return end(sequence, *sequence.ending);
  end(sequence, arrived && sequence.remaining() == 0 ? FinishReason::Stop : FinishReason::Transfer);
}

const Sequence* Scheduler::sequence(uint64_t id) const {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

void Scheduler::take_ending(std::vector<uint64_t>& out) {
  out.assign(ending_.begin(), ending_.end());
  ending_.clear();
}

}  // namespace penstock
