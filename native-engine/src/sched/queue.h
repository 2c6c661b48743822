// Where sequences wait for their turn. Owns the order among those who wait: priority, then the preempted, then tenants
// in turn. Knows nothing of blocks; whether the first one fits is the scheduler's question.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "sched/request.h"

namespace penstock {

// Holds pointers to sequences owned by the scheduler.
//
// Within one priority: preempted sequences first, in order of arrival, since their tokens are already paid for and
// partly sent. Then round robin over the tenants who wait: a tenant joins at the end of the ring and returns to the end
// after each turn, so nobody is passed more than once by each other tenant, however many requests these hold. Within a
// tenant, first come first served. A tenant with nothing waiting is forgotten: the ring is bounded by the queue.
//
// Sequences without credit cannot run, so they are passed over and keep their place.
class WaitingQueue {
 public:
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  void push(Sequence* sequence);
  void push_preempted(Sequence* sequence);
  // The next in turn that has credit; nullptr when there is none. Changes nothing.
  Sequence* next() const;
  // Takes the sequence that next() named; its tenant's turn is used up.
  void take(Sequence* sequence);
  // Takes a sequence that leaves for another reason; turns stay as they are.
  void remove(Sequence* sequence);

 private:
  struct Tenant {
    uint64_t tenant;
    std::deque<Sequence*> sequences;  // never empty
  };
  struct Level {
    std::vector<Sequence*> preempted;  // by arrival
    std::deque<Tenant> ring;           // front is next
  };

  void erase(Sequence* sequence, bool uses_turn);

  std::map<int32_t, Level, std::greater<>> levels_;  // by priority; no level is empty
  size_t size_ = 0;
};

}  // namespace penstock
