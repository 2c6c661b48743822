// Reads JSON text (RFC 8259) front to back without building more than is asked for. Owns syntax and bounds; what a
// document means is its reader's business (huggingface_config.cc, safetensors.cc, shards.cc). Input is hostile: depth,
// numbers and nesting are bounded, and what is wrong is reported with its offset.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/file_error.h"

namespace penstock {

// Deeper than any model file nests (tokenizers reach 6), shallow enough for the call stack.
inline constexpr int32_t kJsonDepthMax = 64;
// Values of one tree: a thousand times the largest config, and 100 MB of memory at worst.
inline constexpr int64_t kJsonTreeValuesMax = 1 << 20;

enum class JsonKind : uint8_t { null, boolean, number, string, array, object };

// A cursor. Every function throws ModelFileError for broken syntax and when the value is of another kind.
//   reader.object([&](std::string_view key) { if (key == "a") a = reader.integer(0, 9); else reader.skip(); });
class JsonReader {
 public:
  // `text` must outlive the reader. `base_offset_bytes` is where it begins in its file: offsets in messages count from
  // the file's start. `path` is used in messages only.
  JsonReader(std::string path, std::span<const std::byte> text, uint64_t base_offset_bytes = 0);

  // Of the value at the cursor.
  JsonKind kind();
  uint64_t offset_bytes();

  void null();
  bool boolean();
  double number();
  // A number without fraction and exponent within [min, max].
  int64_t integer(int64_t min, int64_t max);
  std::string string();
  // Calls member(key), which must read exactly one value; a key that occurs twice is refused.
  template <typename Member>
  void object(const Member& member) {
    expect_kind(JsonKind::object);
    enter();
    std::vector<std::string> keys;
    for (bool more = begin_items('}'); more; more = next_item('}')) {
      keys.push_back(member_key());
      member(std::string_view(keys.back()));
    }
    check_distinct(keys);
    leave();
  }
  // Calls item(), which must read exactly one value.
  template <typename Item>
  void array(const Item& item) {
    expect_kind(JsonKind::array);
    enter();
    for (bool more = begin_items(']'); more; more = next_item(']')) item();
    leave();
  }
  // Reads a value of any kind and forgets it. Its syntax is checked, its keys are not compared.
  void skip();
  // After the last value: nothing but white space may follow.
  void end();

  [[noreturn]] void fail(const std::string& reason) { fail_at(at_, reason); }
  [[noreturn]] void fail_at(uint64_t at, const std::string& reason) const {
    throw ModelFileError(path_, base_offset_bytes_ + at, reason);
  }

 private:
  void space();
  void expect_kind(JsonKind kind);
  void literal(std::string_view word);
  std::string_view number_text();
  void unescape(std::string* out);
  uint32_t hex4();
  void enter();
  void leave() { --depth_; }
  bool begin_items(char close);
  bool next_item(char close);
  std::string member_key();
  void check_distinct(std::vector<std::string>& keys) const;

  std::string path_;
  std::string_view text_;
  uint64_t base_offset_bytes_;
  size_t at_ = 0;
  int32_t depth_ = 0;
};

// A small document as a tree.
struct Json {
  JsonKind kind = JsonKind::null;
  bool boolean = false;
  double number = 0;
  std::optional<int64_t> integer;  // of a number without fraction and exponent that fits
  uint64_t offset_bytes = 0;       // in the file
  std::string text;
  std::vector<std::string> keys;  // of an object, in the order of the file
  std::vector<Json> items;        // of an array; of an object, items[i] belongs to keys[i]

  // nullptr when this is no object or has no such member.
  const Json* find(std::string_view key) const;
};

// The whole text is one value. Throws ModelFileError.
Json parse_json(std::string path, std::span<const std::byte> text);

}  // namespace penstock
