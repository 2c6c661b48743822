// Where sequences wait for their turn. Owns the order among those who wait: priority, then the preempted, then tenants
// in turn. Knows nothing of blocks; whether the first one fits is the scheduler's question.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <unordered_map>

#include "sched/request.h"

namespace penstock {

// Holds pointers to sequences owned by the scheduler.
//
// Within one priority: preempted sequences first, in order of arrival, since their tokens are already paid for and
// partly sent. Then round robin over the tenants who wait: a tenant joins at the end of the ring and returns to the end
// after each turn, so nobody is passed more than once by each other tenant, however many requests these hold. Within a
// tenant, first come first served. A tenant with nothing waiting is forgotten: the ring is bounded by the queue.
//
// Sequences without credit cannot run: they are counted here and stand in no line until credited() is told, and then
// take the place of their arrival. So next() costs the same whatever waits, and only push() and credited() allocate;
// what a step does (next, take, remove, push_preempted) does not.
class WaitingQueue {
 public:
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Known tokens of everything that waits, with or without credit.
  int64_t tokens() const { return tokens_; }

  void push(Sequence* sequence);
  void push_preempted(Sequence* sequence);
  // A waiting sequence that had no credit now has some.
  void credited(Sequence* sequence);
  // The next in turn that has credit; nullptr when there is none. Changes nothing.
  Sequence* next() const;
  // Takes the sequence that next() named; its tenant's turn is used up.
  void take(Sequence* sequence);
  // Takes a sequence that leaves for another reason; turns stay as they are.
  void remove(Sequence* sequence);

 private:
  // Linked through the sequences themselves; ordered by the caller's rule.
  struct Line {
    Sequence* first = nullptr;
    Sequence* last = nullptr;
    // In front of the first from the back that does not go before it.
    template <typename GoesBefore>
    void insert(Sequence* sequence, const GoesBefore& goes_before);
    void erase(Sequence* sequence);
  };
  struct Tenant {
    uint64_t tenant;
    Line line;  // never empty; by arrival
  };
  struct Level {
    std::list<Tenant> ring;  // front is next; never empty
    std::unordered_map<uint64_t, std::list<Tenant>::iterator> by_tenant;
  };

  void join(Sequence* sequence);
  void leave(Sequence* sequence, bool uses_turn);

  std::map<int32_t, Level, std::greater<>> levels_;  // by priority; those that have not run yet
  Line preempted_;                                   // by rank: priority, then arrival
  size_t size_ = 0;
  int64_t tokens_ = 0;
};

}  // namespace penstock
