// The bytes of a frame's body: a little-endian writer and a bounds-checked reader. Owns how numbers, strings and lists lie on
// the wire; which fields a frame has is frames.cc and frames_handoff.cc.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "serve/frames.h"

namespace penstock {

class FrameWriter {
 public:
  explicit FrameWriter(std::vector<uint8_t>& out) : out_(out) {}

  void u8(uint8_t value) { out_.push_back(value); }
  void u32(uint32_t value) { little_endian(value); }
  void u64(uint64_t value) { little_endian(value); }
  void i32(int32_t value) { u32(static_cast<uint32_t>(value)); }
  void f32(float value) {
    if (!std::isfinite(value)) throw FrameError("frame would hold a number that is not finite");
    u32(std::bit_cast<uint32_t>(value));
  }
  void str(const std::string& value) {
    count(value.size());
    out_.insert(out_.end(), value.begin(), value.end());
  }
  template <typename T, typename Write>
  void list(const std::vector<T>& items, Write write) {
    count(items.size());
    for (const T& item : items) write(item);
  }

 private:
  void count(size_t value) {
    if (value > kFrameBodyBytesMax) throw FrameError("frame would be over the limit");
    u32(static_cast<uint32_t>(value));
  }
  template <typename T>
  void little_endian(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  std::vector<uint8_t>& out_;
};

// Braced initialisers evaluate from left to right, so structures below are read in the order of their fields.
class FrameReader {
 public:
  explicit FrameReader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  uint8_t u8() { return take(1)[0]; }
  uint32_t u32() { return little_endian<uint32_t>(); }
  uint64_t u64() { return little_endian<uint64_t>(); }
  int32_t i32() { return static_cast<int32_t>(u32()); }
  float f32() {
    const auto value = std::bit_cast<float>(u32());
    if (!std::isfinite(value)) throw FrameError("frame holds a number that is not finite");
    return value;
  }
  std::string str() {
    const auto bytes = take(u32());
    return {bytes.begin(), bytes.end()};
  }
  // Checks the count against the bytes that are there before anything is allocated.
  template <typename T, typename Read>
  std::vector<T> list(size_t item_bytes_min, Read read) {
    const size_t count = u32();
    if (count > bytes_.size() / item_bytes_min)
      throw FrameError("list of " + std::to_string(count) + " items does not fit its frame");
    std::vector<T> items;
    items.reserve(count);
    for (size_t i = 0; i < count; ++i) items.push_back(read());
    return items;
  }
  void end() const {
    if (!bytes_.empty()) throw FrameError(std::to_string(bytes_.size()) + " bytes left over in frame");
  }

 private:
  std::span<const uint8_t> take(size_t count) {
    if (count > bytes_.size())
      throw FrameError("frame body has " + std::to_string(bytes_.size()) + " bytes left, field needs " +
                       std::to_string(count));
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  template <typename T>
  T little_endian() {
    const auto bytes = take(sizeof(T));
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(static_cast<T>(bytes[i]) << (8 * i));
    return value;
  }
  std::span<const uint8_t> bytes_;
};

}  // namespace penstock
