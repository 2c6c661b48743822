// Checksum of bytes on their way between engines. Owns nothing else. It finds what cables, buffers and bugs do; whoever
// may write at all is decided by a secret (transfer_table.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace penstock {

// XXH64 with seed 0, in pieces (Yann Collet's xxHash specification, version 0.1.1, "XXH64 algorithm description").
class Checksum {
 public:
  void update(std::span<const std::byte> bytes);
  // Copies `from` to `to` and takes it in, in one pass over the memory. What is taken in is what was written, also where
  // somebody changes `from` meanwhile: every byte is read once.
  void copy(std::byte* to, std::span<const std::byte> from);
  // Takes in bytes of which the processor has only `sum`, which the device has made of them and of how many came before
  // (ops/cuda/byte_sum.cu): both sides cut them as they like.
  void take_sum(uint64_t sum, uint64_t bytes) {
    device_sum_ += sum;
    device_bytes_ += bytes;
  }
  uint64_t device_bytes() const { return device_bytes_; }
  uint64_t value() const;

 private:
  static constexpr size_t kStripe = 32;
  static constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87;
  static constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4F;

  // Of up to a stripe, what is missing of one: how many bytes, which then lie at the end of pending_.
  size_t fill(std::span<const std::byte> bytes);

  uint64_t lanes_[4] = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
  uint64_t length_ = 0;
  uint64_t device_sum_ = 0;
  uint64_t device_bytes_ = 0;
  std::byte pending_[kStripe] = {};
  size_t pending_bytes_ = 0;
};

}  // namespace penstock
