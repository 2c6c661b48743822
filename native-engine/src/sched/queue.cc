// A line of preempted sequences and, for each priority, a ring of tenants. See queue.h.
#include "sched/queue.h"

#include <stdexcept>

namespace penstock {

// From the back, where nearly all belong: who joins arrived last.
template <typename GoesBefore>
void WaitingQueue::Line::insert(Sequence* sequence, const GoesBefore& goes_before) {
  Sequence* before = last;
  while (before != nullptr && goes_before(*sequence, *before)) before = before->queue_before;
  sequence->queue_before = before;
  sequence->queue_behind = before == nullptr ? first : before->queue_behind;
  (before == nullptr ? first : before->queue_behind) = sequence;
  (sequence->queue_behind == nullptr ? last : sequence->queue_behind->queue_before) = sequence;
}

void WaitingQueue::Line::erase(Sequence* sequence) {
  (sequence->queue_before == nullptr ? first : sequence->queue_before->queue_behind) = sequence->queue_behind;
  (sequence->queue_behind == nullptr ? last : sequence->queue_behind->queue_before) = sequence->queue_before;
  sequence->queue_before = sequence->queue_behind = nullptr;
}

void WaitingQueue::push(Sequence* sequence) {
  if (sequence->place != QueuePlace::None) throw std::logic_error("sequence is in the waiting queue already");
  sequence->place = QueuePlace::Uncredited;
  ++size_;
  tokens_ += sequence->total();
  if (sequence->has_credit()) join(sequence);
}

void WaitingQueue::push_preempted(Sequence* sequence) {
  sequence->preempted = true;
  push(sequence);
}

void WaitingQueue::credited(Sequence* sequence) {
  if (sequence->place == QueuePlace::Uncredited && sequence->has_credit()) join(sequence);
}

void WaitingQueue::join(Sequence* sequence) {
  sequence->place = QueuePlace::InLine;
  if (sequence->preempted) return preempted_.insert(sequence, ranks_before);
  Level& level = levels_[sequence->request.priority];
  const auto [found, is_new] = level.by_tenant.try_emplace(sequence->request.tenant);
  if (is_new) found->second = level.ring.insert(level.ring.end(), Tenant{sequence->request.tenant, {}});
  found->second->line.insert(sequence, [](const Sequence& a, const Sequence& b) { return a.arrival < b.arrival; });
}

Sequence* WaitingQueue::next() const {
  const bool fresh = !levels_.empty();
  if (preempted_.first != nullptr && (!fresh || preempted_.first->request.priority >= levels_.begin()->first))
    return preempted_.first;
  return fresh ? levels_.begin()->second.ring.front().line.first : nullptr;
}

void WaitingQueue::take(Sequence* sequence) { leave(sequence, true); }
void WaitingQueue::remove(Sequence* sequence) { leave(sequence, false); }

void WaitingQueue::leave(Sequence* sequence, bool uses_turn) {
  if (sequence->place == QueuePlace::None) throw std::logic_error("sequence is not in the waiting queue");
  --size_;
  tokens_ -= sequence->total();
  const QueuePlace place = sequence->place;
  sequence->place = QueuePlace::None;
  if (place == QueuePlace::Uncredited) return;
  if (sequence->preempted) return preempted_.erase(sequence);
  const auto level_at = levels_.find(sequence->request.priority);
  Level& level = level_at->second;
  const auto found = level.by_tenant.find(sequence->request.tenant);
  const auto tenant = found->second;
  tenant->line.erase(sequence);
  if (tenant->line.first != nullptr) {
    if (uses_turn) level.ring.splice(level.ring.end(), level.ring, tenant);
    return;
  }
  level.ring.erase(tenant);
  level.by_tenant.erase(found);
  if (level.ring.empty()) levels_.erase(level_at);
}

}  // namespace penstock
