#include "model/gguf.h"

#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

namespace penstock {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place and is little endian");

namespace {

// Far above real files (a few thousand at most), low enough that a hostile count cannot fill memory.
constexpr uint64_t kEntriesMax = 1 << 16;
// The format's own limit for keys; tensor names are at most 64 bytes, with room for other writers.
constexpr uint64_t kKeyBytesMax = 65535;
constexpr uint64_t kTensorNameBytesMax = 1024;
constexpr uint64_t kAlignmentDefault = 32;
constexpr uint64_t kAlignmentMax = 1 << 20;

// Bytes of a scalar; 0 for strings, arrays and unknown types.
uint64_t scalar_bytes(uint32_t type) {
  switch (static_cast<GgufType>(type)) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    default:
      return 0;
  }
}

template <typename T>
T load(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace

// Walks the file front to back; `at_` never passes the end.
class GgufParser {
 public:
  GgufParser(std::string path, std::span<const std::byte> bytes) : bytes_(bytes) { file_.path_ = std::move(path); }

  GgufFile parse() {
    const auto magic = take(4, "the magic number");
    if (std::memcmp(magic.data(), "GGUF", 4) != 0) fail(0, "not a GGUF file: the first four bytes are not \"GGUF\"");
    file_.version_ = read<uint32_t>("the version");
    if (file_.version_ != 2 && file_.version_ != 3) {
      const bool swapped = file_.version_ == 0x02000000u || file_.version_ == 0x03000000u;
      fail(4, swapped ? "a big-endian GGUF file; only little-endian files are supported"
                      : "GGUF version " + std::to_string(file_.version_) + "; versions 2 and 3 are supported");
    }
    const uint64_t tensor_count = read_count("tensor count", kEntriesMax);
    const uint64_t value_count = read_count("metadata count", kEntriesMax);
    for (uint64_t i = 0; i < value_count; ++i) read_entry();
    const uint64_t alignment = read_alignment();
    offsets_.reserve(tensor_count);
    for (uint64_t i = 0; i < tensor_count; ++i) read_tensor(alignment);
    locate_tensors(alignment);
    return std::move(file_);
  }

 private:
  [[noreturn]] void fail(uint64_t offset, const std::string& reason) const {
    throw ModelFileError(file_.path_, offset, reason);
  }

  std::span<const std::byte> take(uint64_t count, const char* what) {
    if (count > bytes_.size() - at_) {
      fail(at_, std::string("the file ends inside ") + what + ": " + std::to_string(count) + " bytes needed, " +
                    std::to_string(bytes_.size() - at_) + " left");
    }
    const auto taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }

  template <typename T>
  T read(const char* what) {
    return load<T>(take(sizeof(T), what));
  }

  uint64_t read_count(const char* what, uint64_t max) {
    const uint64_t offset = at_;
    const auto count = read<uint64_t>(what);
    if (count > max)
      fail(offset, std::string(what) + " is " + std::to_string(count) + ", more than " + std::to_string(max));
    return count;
  }

  std::string_view read_string(const char* what, uint64_t max = std::numeric_limits<uint64_t>::max()) {
    const uint64_t offset = at_;
    const auto length = read<uint64_t>(what);
    if (length > max)
      fail(offset, std::string(what) + " has " + std::to_string(length) + " bytes, more than " + std::to_string(max));
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  void read_entry() {
    const uint64_t offset = at_;
    const std::string_view key = read_string("a metadata key", kKeyBytesMax);
    if (key.empty()) fail(offset, "an empty metadata key");
    const uint64_t type_offset = at_;
    const auto type = read<uint32_t>("a metadata type");
    const uint64_t value_offset = at_;
    GgufValue value{static_cast<GgufType>(type), static_cast<GgufType>(type), 1, {}, value_offset};
    if (value.type == GgufType::array) {
      read_array(key, value);
    } else if (value.type == GgufType::string) {
      const std::string_view text = read_string("a metadata string");
      value.bytes = std::as_bytes(std::span(text));
    } else {
      const uint64_t size = scalar_bytes(type);
      if (size == 0)
        fail(type_offset, "metadata \"" + printable(key) + "\" has the unknown type " + std::to_string(type));
      value.bytes = take(size, "a metadata value");
      check_boolean(key, value.type, value.bytes, value_offset);
    }
    if (!file_.values_.emplace(key, value).second) fail(offset, "duplicate metadata key \"" + printable(key) + "\"");
  }

  void read_array(std::string_view key, GgufValue& value) {
    const uint64_t type_offset = at_;
    const auto type = read<uint32_t>("an array type");
    value.element_type = static_cast<GgufType>(type);
    if (value.element_type == GgufType::array)
      fail(type_offset, "metadata \"" + printable(key) + "\" is a nested array");
    const uint64_t count_offset = at_;
    value.count = read<uint64_t>("an array count");
    const uint64_t start = at_;
    if (value.element_type == GgufType::string) {
      // Each string takes at least its 8-byte length, so a false count ends at the end of the file.
      if (value.count > (bytes_.size() - at_) / 8) fail_count(key, value.count, count_offset);
      for (uint64_t i = 0; i < value.count; ++i) read_string("a string of an array");
    } else {
      const uint64_t size = scalar_bytes(type);
      if (size == 0)
        fail(type_offset, "metadata \"" + printable(key) + "\" has the unknown element type " + std::to_string(type));
      if (value.count > (bytes_.size() - at_) / size) fail_count(key, value.count, count_offset);
      check_boolean(key, value.element_type, take(value.count * size, "an array"), start);
    }
    value.bytes = bytes_.subspan(start, at_ - start);
  }

  [[noreturn]] void fail_count(std::string_view key, uint64_t count, uint64_t offset) const {
    fail(offset,
         "metadata \"" + printable(key) + "\" claims " + std::to_string(count) + " elements, more than the file holds");
  }

  void check_boolean(std::string_view key, GgufType type, std::span<const std::byte> bytes, uint64_t offset) const {
    if (type != GgufType::boolean) return;
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i] > std::byte{1})
        fail(offset + i, "metadata \"" + printable(key) + "\" holds a boolean that is neither 0 nor 1");
    }
  }

  uint64_t read_alignment() const {
    const GgufValue* value = file_.value("general.alignment");
    if (value == nullptr) return kAlignmentDefault;
    const auto alignment = static_cast<uint64_t>(*file_.integer("general.alignment", 1, kAlignmentMax));
    if (!std::has_single_bit(alignment)) {
      fail(value->offset_bytes, "general.alignment is " + std::to_string(alignment) + ", not a power of two");
    }
    return alignment;
  }

  void read_tensor(uint64_t alignment) {
    GgufTensor tensor{};
    tensor.info_offset_bytes = at_;
    tensor.name = read_string("a tensor name", kTensorNameBytesMax);
    const std::string name = "tensor \"" + printable(tensor.name) + "\"";
    if (tensor.name.empty()) fail(tensor.info_offset_bytes, "an empty tensor name");
    const uint64_t dims_offset = at_;
    const auto dims = read<uint32_t>("a tensor's dimension count");
    if (dims < 1 || dims > kGgufDimsMax) {
      fail(dims_offset,
           name + " has " + std::to_string(dims) + " dimensions, not 1 to " + std::to_string(kGgufDimsMax));
    }
    tensor.dims = static_cast<int32_t>(dims);
    uint64_t values = 1;
    for (int32_t i = 0; i < kGgufDimsMax; ++i) {
      tensor.extent[i] = 1;
      if (i >= tensor.dims) continue;
      const uint64_t offset = at_;
      const auto extent = read<uint64_t>("a tensor's dimension");
      // A product under 2^56 keeps every later byte count inside 64 bits: a value takes at most 4 bytes.
      constexpr uint64_t kValuesMax = uint64_t{1} << 56;
      if (extent == 0) fail(offset, name + " has an empty dimension");
      if (extent > kValuesMax / values) fail(offset, name + " has more values than a file can hold");
      values *= extent;
      tensor.extent[i] = static_cast<int64_t>(extent);
    }
    const uint64_t type_offset = at_;
    const auto type_id = read<uint32_t>("a tensor's type");
    const auto type = tensor_type_of(type_id);
    if (!type) {
      fail(type_offset, name + " has the type " + std::to_string(type_id) + ", which this engine does not compute");
    }
    tensor.type = *type;
    const TensorTypeFacts facts = tensor_type_facts(*type);
    if (tensor.extent[0] % facts.block_values != 0) {
      fail(type_offset, name + " has rows of " + std::to_string(tensor.extent[0]) + " values, not a multiple of " +
                            std::to_string(facts.block_values) + " as " + facts.name + " needs");
    }
    const uint64_t offset_offset = at_;
    const auto offset = read<uint64_t>("a tensor's offset");
    if (offset % alignment != 0) {
      fail(offset_offset, name + " starts at " + std::to_string(offset) + ", not a multiple of the alignment " +
                              std::to_string(alignment));
    }
    if (!file_.tensor_index_.emplace(tensor.name, file_.tensors_.size()).second) {
      fail(tensor.info_offset_bytes, "duplicate " + name);
    }
    file_.tensors_.push_back(tensor);
    offsets_.push_back({offset, values / facts.block_values * facts.block_bytes, offset_offset});
  }

  // The data section begins at the first aligned byte behind the descriptions.
  void locate_tensors(uint64_t alignment) {
    const uint64_t data_start = (at_ + alignment - 1) / alignment * alignment;
    const uint64_t available = bytes_.size() > data_start ? bytes_.size() - data_start : 0;
    uint64_t total = 0;
    for (size_t i = 0; i < offsets_.size(); ++i) {
      const auto [offset, size, offset_offset] = offsets_[i];
      if (offset > available || size > available - offset) {
        fail(offset_offset, "tensor \"" + printable(file_.tensors_[i].name) + "\" needs bytes " +
                                std::to_string(offset) + " to " + std::to_string(offset) + " + " +
                                std::to_string(size) + " of the data section, which has " + std::to_string(available) +
                                ": the file is cut off or its description is false");
      }
      // Tensors that share bytes would let a small file cost any amount of work; no writer makes them.
      total += size;
      if (total > available)
        fail(offset_offset, "tensor \"" + printable(file_.tensors_[i].name) + "\" overlaps another one");
      file_.tensors_[i].data = bytes_.subspan(data_start + offset, size);
    }
  }

  struct Extent {
    uint64_t offset;  // from the start of the data section
    uint64_t size;
    uint64_t offset_offset;  // where the file states it
  };

  std::span<const std::byte> bytes_;
  uint64_t at_ = 0;
  std::vector<Extent> offsets_;
  GgufFile file_;
};

GgufFile GgufFile::parse(std::string path, std::span<const std::byte> file) {
  return GgufParser(std::move(path), file).parse();
}

const GgufValue* GgufFile::value(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

const GgufTensor* GgufFile::tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

std::optional<int64_t> GgufFile::integer(std::string_view key, int64_t min, int64_t max) const {
  const GgufValue* value = this->value(key);
  if (value == nullptr) return std::nullopt;
  const auto bytes = value->bytes;
  uint64_t magnitude = 0;
  int64_t number = 0;
  bool is_unsigned = false;
  switch (value->type) {
    case GgufType::u8:
      number = load<uint8_t>(bytes);
      break;
    case GgufType::i8:
      number = load<int8_t>(bytes);
      break;
    case GgufType::u16:
      number = load<uint16_t>(bytes);
      break;
    case GgufType::i16:
      number = load<int16_t>(bytes);
      break;
    case GgufType::u32:
      number = load<uint32_t>(bytes);
      break;
    case GgufType::i32:
      number = load<int32_t>(bytes);
      break;
    case GgufType::i64:
      number = load<int64_t>(bytes);
      break;
    case GgufType::u64:
      magnitude = load<uint64_t>(bytes);
      is_unsigned = true;
      break;
    default:
      throw ModelFileError(path_, value->offset_bytes, "metadata \"" + std::string(key) + "\" is not an integer");
  }
  const bool fits = is_unsigned ? magnitude <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) : true;
  if (is_unsigned && fits) number = static_cast<int64_t>(magnitude);
  if (!fits || number < min || number > max) {
    const std::string shown = is_unsigned ? std::to_string(magnitude) : std::to_string(number);
    throw ModelFileError(path_, value->offset_bytes,
                         "metadata \"" + std::string(key) + "\" is " + shown + ", not within " + std::to_string(min) +
                             " to " + std::to_string(max));
  }
  return number;
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const GgufValue* value = this->value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type == GgufType::f32) return load<float>(value->bytes);
  if (value->type == GgufType::f64) return load<double>(value->bytes);
  const auto whole = integer(key, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  return static_cast<double>(*whole);
}

std::optional<std::string_view> GgufFile::string(std::string_view key) const {
  const GgufValue* value = this->value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::string) {
    throw ModelFileError(path_, value->offset_bytes, "metadata \"" + std::string(key) + "\" is not a string");
  }
  return std::string_view(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
}

std::optional<uint64_t> GgufFile::array_count(std::string_view key) const {
  const GgufValue* value = this->value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::array) {
    throw ModelFileError(path_, value->offset_bytes, "metadata \"" + std::string(key) + "\" is not an array");
  }
  return value->count;
}

}  // namespace penstock

#if defined(PENSTOCK_FUZZ_ENTRY)
// libFuzzer: anything but a parsed file or a ModelFileError is a finding. Every tensor's bytes are touched.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto file = penstock::GgufFile::parse("fuzz", std::as_bytes(std::span(data, size)));
    volatile unsigned sink = 0;
    for (const auto& tensor : file.tensors()) {
      for (std::byte byte : tensor.data) sink = sink + static_cast<unsigned>(byte);
    }
  } catch (const penstock::ModelFileError&) {
  }
  return 0;
}
#endif
