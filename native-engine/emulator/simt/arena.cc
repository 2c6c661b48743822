#include "simt/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "simt/fiber.h"
#include "simt/pages.h"
#include "simt/poison.h"
#include "simt/report.h"
#include "simt/symbols.h"

namespace simt {
namespace {
constexpr size_t kDeviceAlignment = 256;  // what cudaMalloc promises
// Addresses, not memory. More than any test allocates in its life, so that freed ones are not used again.
constexpr size_t kRangeBytes = size_t{SIMT_TSAN ? 8 : 256} << 30;
// Larger allocations are pools of an engine; filling them would make all of their pages real.
constexpr size_t kPoisonBytesMax = size_t{256} << 20;
constexpr int kFill = 0xFF;
// In front of an allocation, as far as is looked for what a kernel has written there.
constexpr size_t kFrontBytes = 64;
// Of what was freed, the newest are remembered for reports.
constexpr size_t kFreedMax = 4096;

size_t rounded(const Allocation& a) { return static_cast<size_t>(a.mapped + a.mapped_bytes - a.data); }

// How often this thread has the arena open; with keys that is all there is to know.
constinit thread_local int opened_here = 0;
}  // namespace

Arena& Arena::instance() {
  static Arena* const arena = new Arena;  // for ever: static objects may free device memory late
  return *arena;
}

Arena::Arena() {
  install_signal_handlers();
  void* const memory =
      mmap(nullptr, kRangeBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("simt: no addresses for device memory");
    std::abort();
  }
  base_ = next_ = static_cast<std::byte*>(memory);
  end_ = base_ + kRangeBytes;
#if defined(__x86_64__)
  if (std::getenv("SIMT_NO_KEYS") == nullptr) key_ = pkey_alloc(0, PKEY_DISABLE_ACCESS);
#endif
}

// A range with a page behind it that stays untouchable; a freed one only when there are no new ones.
std::byte* Arena::take_range(size_t bytes) {
  const size_t wanted = bytes + kPageBytes;
  if (static_cast<size_t>(end_ - next_) >= wanted) {
    std::byte* const at = next_;
    next_ += wanted;
    return at;
  }
  for (size_t i = 0; i < freed_.size(); ++i) {
    if (freed_[i].mapped_bytes < bytes) continue;
    std::byte* const at = freed_[i].mapped;
    freed_.erase(freed_.begin() + static_cast<ptrdiff_t>(i));
    return at;
  }
  return nullptr;
}

void Arena::map(std::byte* at, size_t bytes) {
  const int access = key_ >= 0 || opened_ > 0 || !protected_ ? PROT_READ | PROT_WRITE : PROT_NONE;
  const int result = key_ >= 0 ? pkey_mprotect(at, bytes, access, key_) : mprotect(at, bytes, access);
  if (result != 0) {
    std::perror("simt: device memory");
    std::abort();
  }
}

std::byte* Arena::allocate(size_t bytes, Residence residence, int device) {
  const size_t padded = round_up(bytes == 0 ? 1 : bytes, kDeviceAlignment);
  const size_t mapped_bytes = round_up(padded, kPageBytes);
  Allocation made{};
  if (residence == Residence::pinned) {
    void* const memory =
        mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    std::byte* const at = static_cast<std::byte*>(memory);
    made = {at, bytes, at, mapped_bytes, residence, device};
    const std::lock_guard lock(mutex_);
    made.number = ++allocations_made_;
    ++version_;
    pinned_[reinterpret_cast<uintptr_t>(at)] = made;
    return at;
  }
  {
    const std::lock_guard lock(mutex_);
    std::byte* const at = take_range(mapped_bytes);
    if (at == nullptr) return nullptr;
    map(at, mapped_bytes);
    made = {at + mapped_bytes - padded, bytes, at, mapped_bytes, residence, device};
    made.number = ++allocations_made_;
    ++version_;
    live_[reinterpret_cast<uintptr_t>(made.data)] = made;
  }
  open();
  SIMT_UNPOISON(made.mapped, mapped_bytes);
  if (mapped_bytes <= kPoisonBytesMax) {
    std::memset(made.mapped, kFill, mapped_bytes);
  } else {
    const size_t in_front = std::min(static_cast<size_t>(made.data - made.mapped), kFrontBytes);
    std::memset(made.data - in_front, kFill, in_front);
    std::memset(made.data + bytes, kFill, padded - bytes);
  }
  SIMT_POISON(made.mapped, static_cast<size_t>(made.data - made.mapped));
  SIMT_POISON(made.data + bytes, padded - bytes);
  close();
  return made.data;
}

std::byte* Arena::import(int file, size_t bytes, size_t offset_in_mapping, size_t mapped_bytes, int device) {
  const std::lock_guard lock(mutex_);
  std::byte* const at = take_range(mapped_bytes);
  if (at == nullptr) return nullptr;
  if (mmap(at, mapped_bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) return nullptr;
  map(at, mapped_bytes);
  SIMT_UNPOISON(at, mapped_bytes);
  Allocation made{at + offset_in_mapping, bytes, at, mapped_bytes, Residence::imported, device, -1, ++allocations_made_};
  ++version_;
  live_[reinterpret_cast<uintptr_t>(made.data)] = made;
  return made.data;
}

bool Arena::release(void* data) {
  const std::lock_guard lock(mutex_);
  const uintptr_t key = reinterpret_cast<uintptr_t>(data);
  ++version_;
  if (const auto pinned = pinned_.find(key); pinned != pinned_.end()) {
    munmap(pinned->second.mapped, pinned->second.mapped_bytes);
    pinned_.erase(pinned);
    return true;
  }
  const auto found = live_.find(key);
  if (found == live_.end()) return false;
  const Allocation gone = found->second;
  live_.erase(found);
  mmap(gone.mapped, gone.mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (gone.file >= 0) ::close(gone.file);
  freed_.push_back(gone);
  if (freed_.size() > kFreedMax && end_ - next_ > static_cast<ptrdiff_t>(kPageBytes)) freed_.erase(freed_.begin());
  return true;
}

int Arena::share(void* data) {
  open();
  int file = -1;
  {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(reinterpret_cast<uintptr_t>(data));
    if (found != live_.end() && found->second.residence == Residence::device) {
      Allocation& a = found->second;
      if (a.file < 0) {
        const int made = memfd_create("simt-device-memory", MFD_CLOEXEC);
        if (made >= 0 && ftruncate(made, static_cast<off_t>(a.mapped_bytes)) == 0) {
          SIMT_UNPOISON(a.mapped, a.mapped_bytes);
          size_t written = 0;
          // write() honours protection keys, and they are open here.
          while (written < a.mapped_bytes) {
            const ssize_t some = ::write(made, a.mapped + written, a.mapped_bytes - written);
            if (some <= 0) break;
            written += static_cast<size_t>(some);
          }
          if (written == a.mapped_bytes &&
              mmap(a.mapped, a.mapped_bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, made, 0) != MAP_FAILED) {
            map(a.mapped, a.mapped_bytes);
            a.file = made;
          } else {
            ::close(made);
          }
          SIMT_POISON(a.mapped, static_cast<size_t>(a.data - a.mapped));
          SIMT_POISON(a.data + a.bytes, rounded(a) - a.bytes);
        }
      }
      file = a.file;
    }
  }
  close();
  return file;
}

bool Arena::find_locked(const void* address, size_t bytes, Allocation& found) const {
  const std::byte* const at = static_cast<const std::byte*>(address);
  const auto& table = owns(address) ? live_ : pinned_;
  auto next = table.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == table.begin()) return false;
  const Allocation& candidate = std::prev(next)->second;
  // bytes 0 asks for the allocation that an address belongs to.
  if (at > candidate.data + candidate.bytes || bytes > static_cast<size_t>(candidate.data + candidate.bytes - at))
    return false;
  if (bytes == 0 && at == candidate.data + candidate.bytes && candidate.bytes != 0) return false;
  found = candidate;
  return true;
}

bool Arena::find(const void* address, size_t bytes, Allocation& found) {
  const std::lock_guard lock(mutex_);
  return find_locked(address, bytes, found);
}

bool Arena::contains(const void* address, size_t bytes) {
  struct Last {
    uintptr_t begin, end;
    uint64_t version;
  };
  static constinit thread_local Last last{0, 0, 0};
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const uint64_t version = __atomic_load_n(&version_, __ATOMIC_RELAXED);
  if (last.version == version && at >= last.begin && at + bytes <= last.end) return true;
  Allocation found{};
  if (!find(address, bytes, found)) return false;
  last = {reinterpret_cast<uintptr_t>(found.data), reinterpret_cast<uintptr_t>(found.data) + found.bytes, version};
  return true;
}

bool Arena::owns(const void* address) const { return address >= base_ && address < end_; }

std::string Arena::describe(const void* address, bool& freed) {
  const std::lock_guard lock(mutex_);
  const std::byte* const at = static_cast<const std::byte*>(address);
  freed = false;
  char text[200];
  const Allocation* nearest = nullptr;
  for (const auto& [key, a] : live_)
    if (at >= a.mapped && at < a.mapped + a.mapped_bytes + kPageBytes) nearest = &a;
  if (nearest == nullptr) {
    for (const Allocation& a : freed_)
      if (at >= a.mapped && at < a.mapped + a.mapped_bytes) nearest = &a, freed = true;
  }
  if (nearest == nullptr) {
    std::snprintf(text, sizeof text, "%p is in no allocation of the device", address);
  } else {
    std::snprintf(text, sizeof text, "%p is at offset %td of %s %llu, which %s %zu bytes", address, at - nearest->data,
                  nearest->residence == Residence::imported ? "imported allocation" : "allocation",
                  static_cast<unsigned long long>(nearest->number), freed ? "was freed and had" : "has", nearest->bytes);
  }
  return text;
}

void Arena::check_ends(const void* kernel) {
  const std::lock_guard lock(mutex_);
  for (const auto& [key, a] : live_) {
    if (a.residence == Residence::imported) continue;
    const std::byte* const end = a.data + a.bytes;
    const size_t behind = rounded(a) - a.bytes;
    const size_t in_front = std::min(static_cast<size_t>(a.data - a.mapped), kFrontBytes);
    const auto check = [&](const std::byte* from, size_t bytes) {
      SIMT_UNPOISON(from, bytes);
      for (const std::byte* at = from; at < from + bytes; ++at)
        if (*at != std::byte{kFill})
          fail(Fault::global_out_of_bounds, "kernel %s has written at offset %td of allocation %llu, which has %zu bytes",
               symbol_at(kernel).c_str(), at - a.data, static_cast<unsigned long long>(a.number), a.bytes);
      SIMT_POISON(from, bytes);
    };
    check(a.data - in_front, in_front);
    check(end, behind);
  }
}

void Arena::open() {
  if (opened_here++ > 0 || !protected_) return;
#if defined(__x86_64__)
  if (key_ >= 0) {
    pkey_set(key_, 0);
    return;
  }
#endif
  const std::lock_guard lock(mutex_);
  if (opened_++ > 0) return;
  for (const auto& [key, a] : live_) mprotect(a.mapped, a.mapped_bytes, PROT_READ | PROT_WRITE);
}

void Arena::close() {
  if (--opened_here > 0 || !protected_) return;
#if defined(__x86_64__)
  if (key_ >= 0) {
    pkey_set(key_, PKEY_DISABLE_ACCESS);
    return;
  }
#endif
  const std::lock_guard lock(mutex_);
  if (--opened_ > 0) return;
  for (const auto& [key, a] : live_) mprotect(a.mapped, a.mapped_bytes, PROT_NONE);
}

void Arena::set_protected(bool is_protected) {
  if (is_protected == protected_) return;
  if (is_protected) {
    protected_ = true;
    opened_here = 1, opened_ = 1;
    close();
    opened_here = 0;
  } else {
    open();
    opened_here = 0, opened_ = 0;
    protected_ = false;
  }
}

}  // namespace simt
