// Large zeroed memory straight from the system. Owns mapping and unmapping; what lies in it belongs to the caller.
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock {

// Page aligned, zero filled, supplied lazily, and in huge pages where the system agrees: weights are streamed once per
// step, and 4 KiB pages would miss the TLB on every one of them. Throws std::bad_alloc.
class PageMemory {
 public:
  PageMemory() = default;
  explicit PageMemory(int64_t bytes);
  ~PageMemory();
  PageMemory(PageMemory&& other) noexcept;
  PageMemory& operator=(PageMemory&& other) noexcept;
  PageMemory(const PageMemory&) = delete;
  PageMemory& operator=(const PageMemory&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace penstock
