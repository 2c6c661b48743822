#include "model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "model/json.h"

namespace penstock {

static_assert(std::endian::native == std::endian::little, "safetensors is read in place and is little endian");

namespace {

// The format's own limit.
constexpr uint64_t kHeaderBytesMax = 100'000'000;
// Far above real files, low enough that a hostile header cannot fill memory.
constexpr size_t kTensorsMax = 1 << 16;
constexpr size_t kDimsMax = 8;
constexpr uint64_t kLengthBytes = 8;

struct Dtype {
  std::string_view name;
  uint64_t bytes;
  std::optional<TensorType> type;
};
constexpr Dtype kDtypes[] = {
    {"F32", 4, TensorType::f32}, {"F16", 2, TensorType::f16},  {"BF16", 2, TensorType::bf16}, {"F64", 8, std::nullopt},
    {"I64", 8, std::nullopt},    {"U64", 8, std::nullopt},     {"I32", 4, std::nullopt},      {"U32", 4, std::nullopt},
    {"I16", 2, std::nullopt},    {"U16", 2, std::nullopt},     {"I8", 1, std::nullopt},       {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt},   {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt},
};

class Parser {
 public:
  Parser(const std::string& path, std::span<const std::byte> file) : path_(path), file_(file) {}

  std::vector<SafetensorsTensor> read() {
    if (file_.size() < kLengthBytes) fail(0, "the file ends inside the length of its header");
    uint64_t length;
    std::memcpy(&length, file_.data(), sizeof length);
    if (length > kHeaderBytesMax) {
      fail(0, "a header of " + std::to_string(length) + " bytes, more than " + std::to_string(kHeaderBytesMax) +
                  ": not a safetensors file");
    }
    if (length > file_.size() - kLengthBytes) {
      fail(0, "a header of " + std::to_string(length) + " bytes in a file of " + std::to_string(file_.size()));
    }
    data_start_ = kLengthBytes + length;
    data_bytes_ = file_.size() - data_start_;
    // Writers pad the header with spaces, which end() passes over.
    JsonReader reader(path_, file_.subspan(kLengthBytes, length), kLengthBytes);
    reader.object([&](std::string_view name) {
      if (name == "__metadata__") {
        reader.object([&](std::string_view) { reader.string(); });
        return;
      }
      if (tensors_.size() == kTensorsMax) reader.fail("more than " + std::to_string(kTensorsMax) + " tensors");
      read_tensor(std::string(name), reader);
    });
    reader.end();
    check_layout();
    return std::move(tensors_);
  }

 private:
  [[noreturn]] void fail(uint64_t offset, const std::string& reason) const {
    throw ModelFileError(path_, offset, reason);
  }

  void read_tensor(std::string name, JsonReader& reader) {
    constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
    SafetensorsTensor tensor{};
    tensor.name = std::move(name);
    tensor.info_offset_bytes = reader.offset_bytes();
    const std::string shown = "tensor \"" + printable(tensor.name) + "\"";
    if (tensor.name.empty()) fail(tensor.info_offset_bytes, "a tensor without a name");
    uint64_t value_bytes = 0;
    bool has_shape = false;
    std::vector<uint64_t> offsets;
    reader.object([&](std::string_view key) {
      const uint64_t at = reader.offset_bytes();
      if (key == "dtype") {
        const std::string dtype = reader.string();
        const auto found = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                        [&](const Dtype& known) { return known.name == dtype; });
        if (found == std::end(kDtypes)) fail(at, shown + " has the unknown dtype \"" + printable(dtype) + "\"");
        tensor.dtype = found->name;
        tensor.type = found->type;
        value_bytes = found->bytes;
      } else if (key == "shape") {
        has_shape = true;
        reader.array([&] {
          if (tensor.shape.size() == kDimsMax) reader.fail(shown + " has too many dimensions");
          tensor.shape.push_back(reader.integer(1, kMax));
        });
      } else if (key == "data_offsets") {
        reader.array([&] {
          if (offsets.size() == 2) reader.fail(shown + " has more than two data_offsets");
          offsets.push_back(static_cast<uint64_t>(reader.integer(0, kMax)));
        });
        if (offsets.size() != 2) fail(at, shown + " has not two data_offsets");
      } else {
        fail(at, shown + " has the unknown field \"" + printable(key) + "\"");
      }
    });
    const uint64_t at = tensor.info_offset_bytes;
    if (tensor.dtype.empty() || !has_shape || offsets.empty()) fail(at, shown + " lacks dtype, shape or data_offsets");
    uint64_t size = value_bytes;
    for (int64_t extent : tensor.shape) {
      if (size > data_bytes_ / static_cast<uint64_t>(extent)) fail(at, shown + " has more values than the file holds");
      size *= static_cast<uint64_t>(extent);
    }
    if (offsets[0] > offsets[1] || offsets[1] > data_bytes_) {
      fail(at, shown + " needs bytes " + std::to_string(offsets[0]) + " to " + std::to_string(offsets[1]) +
                   " of the data, which has " + std::to_string(data_bytes_) +
                   ": the file is cut off or its header is false");
    }
    if (offsets[1] - offsets[0] != size) {
      fail(at, shown + " has " + std::to_string(offsets[1] - offsets[0]) + " bytes; its shape calls for " +
                   std::to_string(size));
    }
    tensor.offset_bytes = data_start_ + offsets[0];
    tensor.size_bytes = size;
    tensors_.push_back(std::move(tensor));
  }

  // The format allows no overlap and no gap: a byte that no tensor owns could be anything, one that two own makes a
  // small file cost any amount of work.
  void check_layout() {
    std::sort(tensors_.begin(), tensors_.end(),
              [](const auto& a, const auto& b) { return a.offset_bytes < b.offset_bytes; });
    uint64_t next = data_start_;
    for (const SafetensorsTensor& tensor : tensors_) {
      const std::string shown = "tensor \"" + printable(tensor.name) + "\"";
      if (tensor.offset_bytes < next) fail(tensor.info_offset_bytes, shown + " overlaps another one");
      if (tensor.offset_bytes > next) fail(tensor.info_offset_bytes, shown + " leaves a gap before it");
      next += tensor.size_bytes;
    }
    if (next != file_.size()) fail(next, std::to_string(file_.size() - next) + " bytes behind the last tensor");
  }

  const std::string& path_;
  std::span<const std::byte> file_;
  uint64_t data_start_ = 0;
  uint64_t data_bytes_ = 0;
  std::vector<SafetensorsTensor> tensors_;
};

}  // namespace

std::vector<SafetensorsTensor> read_safetensors(const std::string& path, std::span<const std::byte> file) {
  return Parser(path, file).read();
}

}  // namespace penstock

#if defined(PENSTOCK_FUZZ_ENTRY)
// libFuzzer: anything but tensors that lie in the file or a ModelFileError is a finding.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    volatile unsigned sink = 0;
    for (const auto& tensor : penstock::read_safetensors("fuzz", std::as_bytes(std::span(data, size)))) {
      for (uint64_t i = 0; i < tensor.size_bytes; ++i) sink = sink + data[tensor.offset_bytes + i];
    }
  } catch (const penstock::ModelFileError&) {
  }
  return 0;
}
#endif
