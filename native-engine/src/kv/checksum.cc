// XXH64 in pieces. See checksum.h.
#include "kv/checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace penstock {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4F;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63;
constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5;

static_assert(std::endian::native == std::endian::little, "words are read as they lie in memory");

uint64_t read64(const std::byte* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

uint32_t read32(const std::byte* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

uint64_t rounded(uint64_t lane, uint64_t word) { return std::rotl(lane + word * kPrime2, 31) * kPrime1; }

void take_stripe(uint64_t* lanes, const std::byte* bytes) {
  for (int lane = 0; lane < 4; ++lane) lanes[lane] = rounded(lanes[lane], read64(bytes + 8 * lane));
}

}  // namespace

size_t Checksum::fill(std::span<const std::byte> bytes) {
  const size_t taken = std::min(bytes.size(), kStripe - pending_bytes_);
  if (taken == 0) return 0;  // an empty span has no address, which memcpy may not be given
  std::memcpy(pending_ + pending_bytes_, bytes.data(), taken);
  pending_bytes_ += taken;
  return taken;
}

void Checksum::update(std::span<const std::byte> bytes) {
  length_ += bytes.size();
  if (pending_bytes_ > 0) {
    bytes = bytes.subspan(fill(bytes));
    if (pending_bytes_ < kStripe) return;
    take_stripe(lanes_, pending_);
    pending_bytes_ = 0;
  }
  for (; bytes.size() >= kStripe; bytes = bytes.subspan(kStripe)) take_stripe(lanes_, bytes.data());
  fill(bytes);
}

void Checksum::copy(std::byte* to, std::span<const std::byte> from) {
  length_ += from.size();
  // From pending_, which nobody else can write to.
  const auto copy_pending = [&] {
    const size_t taken = fill(from);
    if (taken > 0) std::memcpy(to, pending_ + pending_bytes_ - taken, taken);
    to += taken;
    from = from.subspan(taken);
  };
  if (pending_bytes_ > 0) {
    copy_pending();
    if (pending_bytes_ < kStripe) return;
    take_stripe(lanes_, pending_);
    pending_bytes_ = 0;
  }
  uint64_t lanes[4] = {lanes_[0], lanes_[1], lanes_[2], lanes_[3]};
  for (; from.size() >= kStripe; from = from.subspan(kStripe), to += kStripe) {
    for (int lane = 0; lane < 4; ++lane) {
      uint64_t word = read64(from.data() + 8 * lane);
      // The compiler may not read it again: it no longer knows that it is what lies in `from`.
      asm volatile("" : "+r"(word));
      std::memcpy(to + 8 * lane, &word, sizeof word);
      lanes[lane] = rounded(lanes[lane], word);
    }
  }
  std::copy(lanes, lanes + 4, lanes_);
  copy_pending();
}

uint64_t Checksum::value() const {
  uint64_t hash = kPrime5;
  if (length_ >= kStripe) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) hash = (hash ^ rounded(0, lane)) * kPrime1 + kPrime4;
  }
  hash += length_;
  size_t at = 0;
  for (; at + 8 <= pending_bytes_; at += 8)
    hash = std::rotl(hash ^ rounded(0, read64(pending_ + at)), 27) * kPrime1 + kPrime4;
  if (at + 4 <= pending_bytes_) {
    hash = std::rotl(hash ^ (read32(pending_ + at) * kPrime1), 23) * kPrime2 + kPrime3;
    at += 4;
  }
  for (; at < pending_bytes_; ++at) hash = std::rotl(hash ^ (static_cast<uint64_t>(pending_[at]) * kPrime5), 11) * kPrime1;
  if (device_bytes_ > 0) hash = (hash ^ rounded(device_bytes_, device_sum_)) * kPrime1 + kPrime4;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace penstock
