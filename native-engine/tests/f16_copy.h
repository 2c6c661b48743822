// A GGUF file's weights as F16, for comparisons in which quantised activations would drown the differences sought. Reads
// what it needs by itself, independent of the code under test; bench/engine/requantize.ts writes the same bytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "gguf_writer.h"
#include "ops/half.h"

namespace penstock::testing {

namespace f16_copy {

inline constexpr uint64_t kAlignment = 32;
inline constexpr size_t kBlock = 32;
enum Type : uint32_t { f32 = 0, f16 = 1, q4_1 = 3, q8_0 = 8 };

// Reads a valid file front to back; std::vector::at answers for one that is not.
class Cursor {
 public:
  explicit Cursor(const std::vector<uint8_t>& file) : file_(file) {}
  template <typename T>
  T take() {
    T value;
    (void)file_.at(at_ + sizeof value - 1);
    std::memcpy(&value, &file_[at_], sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string text() {
    const auto size = take<uint64_t>();
    (void)file_.at(at_ + size - 1);
    at_ += size;
    return {file_.begin() + static_cast<int64_t>(at_ - size), file_.begin() + static_cast<int64_t>(at_)};
  }
  void skip_value(uint32_t type) {
    static constexpr uint64_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) {
      text();
    } else if (type == 9) {
      const auto element = take<uint32_t>();
      for (auto left = take<uint64_t>(); left > 0; --left) skip_value(element);
    } else {
      at_ += kBytes[type];
    }
  }
  uint64_t at() const { return at_; }

 private:
  const std::vector<uint8_t>& file_;
  uint64_t at_ = 0;
};

inline float half_at(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof half);
  return half_to_float(half);
}

// bytes: blocks of `type`. Returns `values` halves.
inline std::vector<uint16_t> halves(const uint8_t* bytes, uint32_t type, uint64_t values) {
  std::vector<uint16_t> out(values);
  for (uint64_t block = 0; block < values / kBlock; ++block) {
    uint16_t* const to = &out[block * kBlock];
    if (type == q8_0) {
      const uint8_t* const from = bytes + block * 34;
      for (size_t i = 0; i < kBlock; ++i)
        to[i] = float_to_half(half_at(from) * static_cast<float>(static_cast<int8_t>(from[2 + i])));
      continue;
    }
    const uint8_t* const from = bytes + block * 20;
    const auto value = [&](int nibble) { return half_at(from) * static_cast<float>(nibble) + half_at(from + 2); };
    for (size_t i = 0; i < kBlock / 2; ++i) {
      to[i] = float_to_half(value(from[4 + i] & 15));
      to[i + kBlock / 2] = float_to_half(value(from[4 + i] >> 4));
    }
  }
  return out;
}

}  // namespace f16_copy

// source: a GGUF file of version 3 whose matrices are Q4_1 or Q8_0. Throws std::runtime_error for another.
inline void write_f16_copy(const std::vector<uint8_t>& source, std::ostream& out) {
  using namespace f16_copy;
  struct Tensor {
    std::string name;
    std::vector<uint64_t> extent;
    uint32_t type;
    uint64_t offset;
    uint64_t values;
    bool stays() const { return type == f32; }
    uint64_t bytes() const { return values * (stays() ? 4 : 2); }
  };
  Cursor cursor(source);
  (void)cursor.take<uint64_t>();  // magic and version
  const auto tensor_count = cursor.take<uint64_t>();
  for (auto left = cursor.take<uint64_t>(); left > 0; --left) {
    (void)cursor.text();
    cursor.skip_value(cursor.take<uint32_t>());
  }
  const uint64_t metadata_end = cursor.at();
  std::vector<Tensor> tensors(tensor_count);
  for (Tensor& tensor : tensors) {
    tensor.name = cursor.text();
    tensor.extent.resize(cursor.take<uint32_t>());
    tensor.values = 1;
    for (uint64_t& extent : tensor.extent) tensor.values *= extent = cursor.take<uint64_t>();
    tensor.type = cursor.take<uint32_t>();
    tensor.offset = cursor.take<uint64_t>();
    if (tensor.type != f32 && tensor.type != q4_1 && tensor.type != q8_0) throw std::runtime_error(tensor.name);
  }
  const auto aligned = [](uint64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; };
  const uint64_t data_start = aligned(cursor.at());

  ByteWriter head;
  head.append({source.begin(), source.begin() + static_cast<int64_t>(metadata_end)});
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    head.text(tensor.name).raw(static_cast<uint32_t>(tensor.extent.size()));
    for (uint64_t extent : tensor.extent) head.raw(extent);
    head.raw(tensor.stays() ? uint32_t{f32} : uint32_t{f16}).raw(offset);
    offset = aligned(offset + tensor.bytes());
  }
  head.pad_to(kAlignment);
  const auto write = [&](const void* data, uint64_t bytes) {
    out.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
    const std::vector<char> padding(aligned(bytes) - bytes);
    out.write(padding.data(), static_cast<std::streamsize>(padding.size()));
  };
  write(head.bytes().data(), head.size());
  for (const Tensor& tensor : tensors) {
    const uint8_t* const data = &source.at(data_start + tensor.offset);
    if (tensor.stays())
      write(data, tensor.bytes());
    else
      write(halves(data, tensor.type, tensor.values).data(), tensor.bytes());
  }
}

}  // namespace penstock::testing
