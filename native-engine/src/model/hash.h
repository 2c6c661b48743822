// A fast hash of a model's bytes. Not cryptographic: it tells apart files that people have, not files made to collide.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace penstock {

// The finisher of SplitMix64 (Steele, Lea, Flood 2014).
inline uint64_t mix_hash(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline uint64_t hash_bytes(std::span<const std::byte> bytes) {
  uint64_t lanes[4] = {1, 2, 3, 4};
  size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32) {
    for (size_t lane = 0; lane < 4; ++lane) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + at + 8 * lane, 8);
      lanes[lane] = std::rotl((lanes[lane] ^ word) * 0x9E3779B97F4A7C15u, 29);
    }
  }
  uint64_t hash = bytes.size();
  for (; at < bytes.size(); ++at) hash = mix_hash(hash ^ static_cast<uint64_t>(bytes[at]));
  for (uint64_t lane : lanes) hash = mix_hash(hash ^ lane);
  return hash;
}

}  // namespace penstock
