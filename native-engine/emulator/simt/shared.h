// Shared memory of the block that runs: static arrays, which register themselves, and one dynamic piece. Filled with 0xFF, which
// is NaN to every floating type, before each block, since on a device it holds whatever the last block left. What lies between
// arrays is checked when the block ends, or by AddressSanitizer at once; behind the dynamic piece is a page that cannot be
// touched. The limits of the device are checked here as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace simt {

inline constexpr unsigned char kSharedPoison = 0xFF;
// Static and dynamic together: no device has more.
inline constexpr size_t kSharedBytesMax = 227 * 1024;
inline constexpr size_t kStaticSharedBytesMax = 48 * 1024;

// One declaration in a kernel; the address of it in a block is SharedMemory::at.
struct SharedSite {
  const char* name;
  const char* file;
  uint32_t line;
  size_t bytes;
  int32_t number = -1;  // given on first use
};

class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void begin_block(size_t dynamic_bytes);
  void end_block();  // reports what was written between the arrays
  std::byte* at(SharedSite& site);
  std::byte* dynamic() const { return dynamic_; }
  // Whether the bytes belong to one of this block's arrays, or to the dynamic piece.
  bool contains(const void* address, size_t bytes) const;
  bool guards(const void* address) const;
  // A name for an address, for reports: "shared array tile + 132".
  bool find(const void* address, const char*& name, ptrdiff_t& offset) const;

 private:
  struct Array {
    const SharedSite* site;
    size_t offset;
  };
  std::byte* memory_ = nullptr;   // guard, static area, guard, dynamic area, guard
  std::byte* static_ = nullptr;
  std::byte* dynamic_ = nullptr;
  std::byte* dynamic_end_ = nullptr;
  size_t dynamic_bytes_ = 0;
  size_t static_bytes_ = 0;       // with what lies between
  size_t declared_bytes_ = 0;     // as a device counts them
  std::vector<Array> arrays_;     // of this block
  std::vector<std::byte*> by_number_;
};

// Of the block that runs.
std::byte* shared_array(SharedSite& site);
void* dynamic_shared();

}  // namespace simt

// type name dimensions, as a reference into the block's shared memory.
#define SIMT_SHARED(type, name, dimensions)                                                                      \
  using name##_shared_type = type dimensions;                                                                    \
  static_assert(std::is_trivially_destructible_v<name##_shared_type>, "shared memory runs no destructors");      \
  static constinit ::simt::SharedSite name##_shared_site{#name, __FILE__, __LINE__, sizeof(name##_shared_type)}; \
  name##_shared_type& name = *reinterpret_cast<name##_shared_type*>(::simt::shared_array(name##_shared_site))
