#include "simt/shared.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "simt/block.h"
#include "simt/pages.h"
#include "simt/poison.h"
#include "simt/report.h"

namespace simt {
namespace {
constexpr size_t kSharedAlignment = 16;
// Between arrays: an access a little beside one lands here.
constexpr size_t kGapBytes = 64;
// The 48 KB that a kernel may declare, and gaps for more arrays than any kernel has.
constexpr size_t kStaticAreaBytes = kStaticSharedBytesMax + 6 * kPageBytes;
constexpr size_t kDynamicAreaBytes = (kSharedBytesMax + kPageBytes - 1) / kPageBytes * kPageBytes;
constexpr size_t kMemoryBytes = kPageBytes + kStaticAreaBytes + kPageBytes + kDynamicAreaBytes + kPageBytes;

// For ThreadSanitizer not even memset may be seen: the filling is no access of a thread.
void fill(std::byte* at, size_t bytes) {
#if SIMT_TSAN && defined(__x86_64__)
  asm volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(static_cast<int>(kSharedPoison)) : "memory");
#else
  std::memset(at, kSharedPoison, bytes);
#endif
}

std::atomic<int32_t> sites{0};
}  // namespace

SharedMemory::SharedMemory() {
  void* const memory = mmap(nullptr, kMemoryBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("simt: no shared memory");
    std::abort();
  }
  memory_ = static_cast<std::byte*>(memory);
  static_ = memory_ + kPageBytes;
  dynamic_end_ = memory_ + kMemoryBytes - kPageBytes;
  dynamic_ = dynamic_end_;
  mprotect(static_, kStaticAreaBytes, PROT_READ | PROT_WRITE);
  mprotect(dynamic_end_ - kDynamicAreaBytes, kDynamicAreaBytes, PROT_READ | PROT_WRITE);
}

SharedMemory::~SharedMemory() {
  SIMT_UNPOISON(static_, kStaticAreaBytes);
  SIMT_UNPOISON(dynamic_end_ - kDynamicAreaBytes, kDynamicAreaBytes);
  munmap(memory_, kMemoryBytes);
}

void SharedMemory::begin_block(size_t dynamic_bytes) {
#if SIMT_TSAN
  // What the last block did to the same bytes is no race with this one: new memory has no history.
  mmap(static_, kStaticAreaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  mmap(dynamic_end_ - kDynamicAreaBytes, kDynamicAreaBytes, PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
  for (const Array& array : arrays_) by_number_[static_cast<size_t>(array.site->number)] = nullptr;
  arrays_.clear();
  static_bytes_ = declared_bytes_ = 0;
  SIMT_POISON(static_, kStaticAreaBytes);
  // It ends where the page that cannot be touched begins, but for the last bytes of 16.
  SIMT_UNPOISON(dynamic_end_ - kDynamicAreaBytes, kDynamicAreaBytes);
  dynamic_bytes_ = dynamic_bytes;
  dynamic_ = dynamic_end_ - round_up(dynamic_bytes, kSharedAlignment);
  fill(dynamic_, static_cast<size_t>(dynamic_end_ - dynamic_));
  // In front of it a page can be read: it has the same poison, and is looked at when the block ends.
  fill(dynamic_ - kGapBytes, kGapBytes);
  SIMT_POISON(dynamic_end_ - kDynamicAreaBytes, static_cast<size_t>(dynamic_ - (dynamic_end_ - kDynamicAreaBytes)));
  SIMT_POISON(dynamic_ + dynamic_bytes, static_cast<size_t>(dynamic_end_ - dynamic_) - dynamic_bytes);
}

void SharedMemory::end_block() {
  SIMT_UNPOISON(static_, kStaticAreaBytes);
  SIMT_UNPOISON(dynamic_end_ - kDynamicAreaBytes, kDynamicAreaBytes);
  const auto check = [](const std::byte* gap, size_t bytes, const char* name, ptrdiff_t offset) {
    for (size_t i = 0; i < bytes; ++i)
      if (gap[i] != std::byte{kSharedPoison})
        fail(Fault::shared_out_of_bounds, "the block has written at offset %td of shared array %s",
             offset + static_cast<ptrdiff_t>(i), name);
  };
  for (const Array& array : arrays_) {
    const size_t bytes = array.site->bytes;
    check(static_ + array.offset + bytes, kGapBytes, array.site->name, static_cast<ptrdiff_t>(bytes));
  }
  check(dynamic_ + dynamic_bytes_, static_cast<size_t>(dynamic_end_ - dynamic_) - dynamic_bytes_, "(dynamic)",
        static_cast<ptrdiff_t>(dynamic_bytes_));
  if (dynamic_bytes_ > 0) check(dynamic_ - kGapBytes, kGapBytes, "(dynamic)", -static_cast<ptrdiff_t>(kGapBytes));
}

std::byte* SharedMemory::at(SharedSite& site) {
  const Unobserved unobserved;
  int32_t number = __atomic_load_n(&site.number, __ATOMIC_RELAXED);
  if (number < 0) {
    int32_t expected = -1;
    number = sites.fetch_add(1);
    if (!__atomic_compare_exchange_n(&site.number, &expected, number, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      number = expected;
  }
  const size_t slot = static_cast<size_t>(number);
  if (slot >= by_number_.size()) by_number_.resize(slot + 1, nullptr);
  if (by_number_[slot] != nullptr) return by_number_[slot];

  declared_bytes_ = round_up(declared_bytes_, kSharedAlignment) + site.bytes;
  const Kernel& kernel = *current_block->kernel();
  if (declared_bytes_ > kStaticSharedBytesMax)
    fail(Fault::shared_limit, "with %s (%s:%u) the kernel declares %zu bytes of shared memory, of at most %zu", site.name,
         site.file, site.line, declared_bytes_, kStaticSharedBytesMax);
  const size_t limit = kernel.shared_allowed > 0 ? kernel.shared_limit : kStaticSharedBytesMax;
  if (declared_bytes_ + dynamic_bytes_ > limit)
    fail(Fault::shared_limit, "%zu bytes of shared arrays and %zu of dynamic shared memory are more than %zu",
         declared_bytes_, dynamic_bytes_, limit);
  const size_t offset = static_bytes_;
  static_bytes_ = round_up(offset + site.bytes + kGapBytes, kSharedAlignment);
  if (static_bytes_ > kStaticAreaBytes)
    fail(Fault::shared_limit, "a kernel with so many shared arrays has no room in the emulator");
  std::byte* const address = static_ + offset;
  SIMT_UNPOISON(address, site.bytes + kGapBytes);
  fill(address, site.bytes + kGapBytes);
  SIMT_POISON(address + site.bytes, kGapBytes);
  arrays_.push_back({&site, offset});
  by_number_[slot] = address;
  return address;
}

bool SharedMemory::contains(const void* address, size_t bytes) const {
  const std::byte* const at = static_cast<const std::byte*>(address);
  if (at >= dynamic_ && at + bytes <= dynamic_ + dynamic_bytes_) return true;
  for (const Array& array : arrays_)
    if (at >= static_ + array.offset && at + bytes <= static_ + array.offset + array.site->bytes) return true;
  return false;
}

bool SharedMemory::guards(const void* address) const {
  const std::byte* const at = static_cast<const std::byte*>(address);
  return at >= memory_ && at < memory_ + kMemoryBytes;
}

bool SharedMemory::find(const void* address, const char*& name, ptrdiff_t& offset) const {
  const std::byte* const at = static_cast<const std::byte*>(address);
  if (!guards(address)) return false;
  name = "(dynamic)";
  offset = at - dynamic_;
  if (at >= dynamic_) return true;
  for (const Array& array : arrays_) {
    if (at < static_ + array.offset) break;
    name = array.site->name;
    offset = at - (static_ + array.offset);
  }
  return true;
}

std::byte* shared_array(SharedSite& site) { return current_block->shared.at(site); }
void* dynamic_shared() { return current_block->shared.dynamic(); }

}  // namespace simt
