#include "simt/simt.h"

#include "simt/arena.h"
#include "simt/report.h"

namespace simt {

void fence() {
  static char all = 0;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  order_release(&all);
  order_acquire(&all);
}

// Here, so that it is compiled without ThreadSanitizer.
void wait_for_previous() { current_lane->has_waited = true; }

void trap(Site site) { fail(Fault::trap, "__trap at %s:%u", site.file_name(), static_cast<unsigned>(site.line())); }

void named_barrier_sync(int id, int threads, Site site) { current_block->named_barrier(id, threads, true, site); }
void named_barrier_arrive(int id, int threads, Site site) { current_block->named_barrier(id, threads, false, site); }

void set_protection(bool is_on) { Arena::instance().set_protected(is_on); }

}  // namespace simt
