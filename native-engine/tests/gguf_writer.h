// Writes GGUF files for tests, good ones and, through `raw` pieces, bad ones. Independent of the reader under test.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace penstock::testing {

class ByteWriter {
 public:
  template <typename T>
  ByteWriter& raw(T value) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof value);
    return *this;
  }
  ByteWriter& text(const std::string& value) {
    raw<uint64_t>(value.size());
    bytes_.insert(bytes_.end(), value.begin(), value.end());
    return *this;
  }
  ByteWriter& append(const std::vector<uint8_t>& bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  void pad_to(size_t alignment) { bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment); }
  size_t size() const { return bytes_.size(); }
  std::vector<uint8_t>& bytes() { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

class GgufWriter {
 public:
  GgufWriter& u32(const std::string& key, uint32_t value) { return entry(key, 4, ByteWriter().raw(value).bytes()); }
  GgufWriter& u64(const std::string& key, uint64_t value) { return entry(key, 10, ByteWriter().raw(value).bytes()); }
  GgufWriter& f32(const std::string& key, float value) { return entry(key, 6, ByteWriter().raw(value).bytes()); }
  GgufWriter& string(const std::string& key, const std::string& value) {
    return entry(key, 8, ByteWriter().text(value).bytes());
  }
  GgufWriter& strings(const std::string& key, const std::vector<std::string>& values) {
    ByteWriter bytes;
    bytes.raw<uint32_t>(8).raw<uint64_t>(values.size());
    for (const auto& value : values) bytes.text(value);
    return entry(key, 9, bytes.bytes());
  }
  GgufWriter& entry(const std::string& key, uint32_t type, const std::vector<uint8_t>& value) {
    entries_.text(key).raw(type).append(value);
    ++entry_count_;
    return *this;
  }

  // extent[0] is the contiguous dimension.
  GgufWriter& tensor(const std::string& name, uint32_t type, const std::vector<uint64_t>& extent,
                     const std::vector<uint8_t>& data) {
    tensors_.push_back({name, type, extent, data});
    return *this;
  }
  GgufWriter& tensor_f32(const std::string& name, const std::vector<uint64_t>& extent, std::span<const float> values) {
    std::vector<uint8_t> bytes(values.size_bytes());
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return tensor(name, 0, extent, bytes);
  }

  std::vector<uint8_t> build(uint32_t version = 3, size_t alignment = 32) const {
    ByteWriter out;
    out.append({'G', 'G', 'U', 'F'}).raw(version).raw<uint64_t>(tensors_.size()).raw<uint64_t>(entry_count_);
    out.append(ByteWriter(entries_).bytes());
    uint64_t offset = 0;
    for (const auto& tensor : tensors_) {
      out.text(tensor.name).raw(static_cast<uint32_t>(tensor.extent.size()));
      for (uint64_t extent : tensor.extent) out.raw(extent);
      out.raw(tensor.type).raw(offset);
      offset += (tensor.data.size() + alignment - 1) / alignment * alignment;
    }
    for (const auto& tensor : tensors_) {
      out.pad_to(alignment);
      out.append(tensor.data);
    }
    return out.bytes();
  }

 private:
  struct Tensor {
    std::string name;
    uint32_t type;
    std::vector<uint64_t> extent;
    std::vector<uint8_t> data;
  };
  ByteWriter entries_;
  uint64_t entry_count_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace penstock::testing
