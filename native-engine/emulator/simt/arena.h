// Device memory: a range of addresses that the host cannot touch, except for the emulator while it copies, and kernels while
// they run. Owns what is allocated where; the names of CUDA are memory.cc, sharing with other processes is ipc.cc.
//
// Every allocation ends, but for the rounding to 256 bytes, where a page begins that nobody can touch, and addresses are not
// used again while there are others: an access beyond the end or after the free stops at once. The rounding is watched: what a
// kernel writes there is found when it ends (AddressSanitizer finds reads too). New memory is 0xFF, NaN to every type.
// With memory protection keys (x86) opening costs two instructions and concerns one OS thread; without, mprotect does it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace simt {

enum class Residence : uint8_t { device, pool, imported, pinned };

struct Allocation {
  std::byte* data;
  size_t bytes;         // as asked for
  std::byte* mapped;    // whole pages
  size_t mapped_bytes;
  Residence residence;
  int device;
  int file = -1;        // the memfd it lies in since another process may open it
  uint64_t number = 0;  // in order of allocation, for reports
};

class Arena {
 public:
  static Arena& instance();

  // nullptr: no room. Device memory counts against the device's size elsewhere (memory.cc).
  std::byte* allocate(size_t bytes, Residence residence, int device);
  // A file of another process, mapped as an allocation.
  std::byte* import(int file, size_t bytes, size_t offset_in_mapping, size_t mapped_bytes, int device);
  bool release(void* data);
  // The allocation's pages move into a file that others can map; its descriptor, or -1.
  int share(void* data);

  // The live allocation that these bytes lie in.
  bool find(const void* address, size_t bytes, Allocation& found);
  // The same without details, cheap enough for every access that a kernel's instruction makes.
  bool contains(const void* address, size_t bytes);
  bool owns(const void* address) const;
  // A sentence about an address, for reports.
  std::string describe(const void* address, bool& freed);
  // After a kernel: reports what was written between an allocation and its page's end.
  void check_ends(const void* kernel);

  // The host's access, nested: a kernel runs, or the emulator copies.
  void open();
  void close();
  // Off: the host may read device memory at any time, as under a debugger.
  void set_protected(bool is_protected);

 private:
  Arena();
  std::byte* take_range(size_t bytes);
  bool find_locked(const void* address, size_t bytes, Allocation& found) const;
  void map(std::byte* at, size_t bytes);

  std::mutex mutex_;
  std::byte* base_ = nullptr;
  std::byte* next_ = nullptr;
  std::byte* end_ = nullptr;
  int key_ = -1;
  int opened_ = 0;  // without keys: how many have it open
  bool protected_ = true;
  uint64_t allocations_made_ = 0;
  uint64_t version_ = 1;  // changes with every allocation and release
  std::map<uintptr_t, Allocation> live_;     // by data
  std::map<uintptr_t, Allocation> pinned_;
  std::vector<Allocation> freed_;
};

class ArenaAccess {
 public:
  ArenaAccess() { Arena::instance().open(); }
  ~ArenaAccess() { Arena::instance().close(); }
  ArenaAccess(const ArenaAccess&) = delete;
  ArenaAccess& operator=(const ArenaAccess&) = delete;
};

}  // namespace simt
