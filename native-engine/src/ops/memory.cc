#include "ops/memory.h"

#include <sys/mman.h>

#include <new>
#include <utility>

namespace penstock {

PageMemory::PageMemory(int64_t bytes) {
  if (bytes < 0) throw std::bad_alloc();
  if (bytes == 0) return;
  void* mapped = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  (void)madvise(mapped, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a hint: refusal costs speed only
#endif
  data_ = static_cast<std::byte*>(mapped);
  bytes_ = bytes;
}

PageMemory::~PageMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

PageMemory::PageMemory(PageMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PageMemory& PageMemory::operator=(PageMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace penstock
