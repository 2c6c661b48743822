// Priority levels, each a list of preempted sequences and a ring of tenants. See queue.h.
#include "sched/queue.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace penstock {

void WaitingQueue::push(Sequence* sequence) {
  auto& ring = levels_[sequence->request.priority].ring;
  auto tenant =
      std::find_if(ring.begin(), ring.end(), [&](const Tenant& t) { return t.tenant == sequence->request.tenant; });
  if (tenant == ring.end()) tenant = ring.insert(ring.end(), Tenant{sequence->request.tenant, {}});
  tenant->sequences.push_back(sequence);
  ++size_;
}

void WaitingQueue::push_preempted(Sequence* sequence) {
  auto& preempted = levels_[sequence->request.priority].preempted;
  const auto at = std::find_if(preempted.begin(), preempted.end(),
                               [&](const Sequence* other) { return sequence->arrival < other->arrival; });
  preempted.insert(at, sequence);
  ++size_;
}

Sequence* WaitingQueue::next() const {
  const auto ready = [](const Sequence* sequence) { return sequence->has_credit(); };
  for (const auto& [priority, level] : levels_) {
    const auto preempted = std::find_if(level.preempted.begin(), level.preempted.end(), ready);
    if (preempted != level.preempted.end()) return *preempted;
    for (const Tenant& tenant : level.ring) {
      const auto found = std::find_if(tenant.sequences.begin(), tenant.sequences.end(), ready);
      if (found != tenant.sequences.end()) return *found;
    }
  }
  return nullptr;
}

void WaitingQueue::take(Sequence* sequence) { erase(sequence, true); }
void WaitingQueue::remove(Sequence* sequence) { erase(sequence, false); }

void WaitingQueue::erase(Sequence* sequence, bool uses_turn) {
  const auto level_at = levels_.find(sequence->request.priority);
  if (level_at == levels_.end()) throw std::logic_error("sequence is not in the waiting queue");
  Level& level = level_at->second;
  if (std::erase(level.preempted, sequence) == 0) {
    const auto tenant = std::find_if(level.ring.begin(), level.ring.end(),
                                     [&](const Tenant& t) { return t.tenant == sequence->request.tenant; });
    if (tenant == level.ring.end() || std::erase(tenant->sequences, sequence) == 0)
      throw std::logic_error("sequence is not in the waiting queue");
    if (tenant->sequences.empty()) {
      level.ring.erase(tenant);
    } else if (uses_turn) {
      Tenant moved = std::move(*tenant);
      level.ring.erase(tenant);
      level.ring.push_back(std::move(moved));
    }
  }
  if (level.preempted.empty() && level.ring.empty()) levels_.erase(level_at);
  --size_;
}

}  // namespace penstock
