#include "model/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace penstock {

namespace {

// The longest decimal form of a double has some 770 digits; a longer number is no number that a model file means.
constexpr size_t kNumberCharsMax = 1024;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

const char* kind_name(JsonKind kind) {
  switch (kind) {
    case JsonKind::null:
      return "null";
    case JsonKind::boolean:
      return "true or false";
    case JsonKind::number:
      return "a number";
    case JsonKind::string:
      return "a string";
    case JsonKind::array:
      return "an array";
    case JsonKind::object:
      return "an object";
  }
  return "";
}

// PRECOND: text is a number by JSON's grammar.
std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

double real_number(std::string_view text) {
  return std::strtod(std::string(text).c_str(), nullptr);  // the process keeps the "C" locale
}

}  // namespace

JsonReader::JsonReader(std::string path, std::span<const std::byte> text, uint64_t base_offset_bytes)
    : path_(std::move(path)),
      text_(reinterpret_cast<const char*>(text.data()), text.size()),
      base_offset_bytes_(base_offset_bytes) {}

void JsonReader::space() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
    ++at_;
  }
}

JsonKind JsonReader::kind() {
  space();
  if (at_ == text_.size()) fail("JSON ends where a value should begin");
  switch (const char c = text_[at_]; c) {
    case 'n':
      return JsonKind::null;
    case 't':
    case 'f':
      return JsonKind::boolean;
    case '"':
      return JsonKind::string;
    case '[':
      return JsonKind::array;
    case '{':
      return JsonKind::object;
    default:
      if (c == '-' || is_digit(c)) return JsonKind::number;
  }
  fail("this begins no JSON value");
}

uint64_t JsonReader::offset_bytes() {
  space();
  return base_offset_bytes_ + at_;
}

void JsonReader::expect_kind(JsonKind wanted) {
  const JsonKind found = kind();
  if (found != wanted) fail(std::string("JSON has ") + kind_name(found) + " here, not " + kind_name(wanted));
}

void JsonReader::literal(std::string_view word) {
  if (text_.substr(at_, word.size()) != word) fail("this begins no JSON value");
  at_ += word.size();
}

void JsonReader::null() {
  expect_kind(JsonKind::null);
  literal("null");
}

bool JsonReader::boolean() {
  expect_kind(JsonKind::boolean);
  const bool value = text_[at_] == 't';
  literal(value ? "true" : "false");
  return value;
}

std::string_view JsonReader::number_text() {
  expect_kind(JsonKind::number);
  const size_t start = at_;
  const auto peek = [&] { return at_ < text_.size() ? text_[at_] : '\0'; };
  const auto digits = [&] {
    if (!is_digit(peek())) fail("a JSON number lacks a digit here");
    while (is_digit(peek())) ++at_;
  };
  if (peek() == '-') ++at_;
  if (peek() == '0') {
    ++at_;
    if (is_digit(peek())) fail("a JSON number has a leading zero");
  } else {
    digits();
  }
  if (peek() == '.') {
    ++at_;
    digits();
  }
  if (peek() == 'e' || peek() == 'E') {
    ++at_;
    if (peek() == '+' || peek() == '-') ++at_;
    digits();
  }
  if (at_ - start > kNumberCharsMax) fail_at(start, "a JSON number has too many digits");
  return text_.substr(start, at_ - start);
}

double JsonReader::number() {
  const double value = real_number(number_text());
  if (!std::isfinite(value)) fail("a JSON number is too large");
  return value;
}

int64_t JsonReader::integer(int64_t min, int64_t max) {
  space();
  const size_t start = at_;
  const std::string_view text = number_text();
  const auto value = whole_number(text);
  if (!value || *value < min || *value > max) {
    fail_at(start, printable(text, 40) + " is not a whole number within " + std::to_string(min) + " to " +
                       std::to_string(max));
  }
  return *value;
}

std::string JsonReader::string() {
  expect_kind(JsonKind::string);
  std::string out;
  unescape(&out);
  return out;
}

// From the opening quote behind the closing one; `out` may be nullptr. Bytes above 127 pass as they are: whether they
// are UTF-8 matters to none of the readers, which compare names byte by byte.
void JsonReader::unescape(std::string* out) {
  const size_t start = at_++;
  while (true) {
    const size_t plain = at_;
    while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' && static_cast<uint8_t>(text_[at_]) >= 0x20) {
      ++at_;
    }
    if (out != nullptr) out->append(text_.substr(plain, at_ - plain));
    if (at_ == text_.size()) fail_at(start, "a JSON string has no end");
    if (text_[at_] == '"') break;
    if (text_[at_] != '\\') fail("a JSON string holds a control character");
    if (++at_ == text_.size()) fail_at(start, "a JSON string has no end");
    const char escape = text_[at_++];
    constexpr std::string_view kFrom = "\"\\/bfnrt";
    constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
    if (const size_t found = kFrom.find(escape); found != std::string_view::npos) {
      if (out != nullptr) *out += kTo[found];
      continue;
    }
    if (escape != 'u') fail_at(at_ - 1, "an unknown escape in a JSON string");
    uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xE000) {
      if (code >= 0xDC00 || text_.substr(at_, 2) != "\\u") fail("half a surrogate pair in a JSON string");
      at_ += 2;
      const uint32_t low = hex4();
      if (low < 0xDC00 || low >= 0xE000) fail("half a surrogate pair in a JSON string");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (out != nullptr) append_utf8(*out, code);
  }
  ++at_;
}

uint32_t JsonReader::hex4() {
  uint32_t code = 0;
  const std::string_view digits = text_.substr(at_, 4);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
  if (digits.size() < 4 || error != std::errc() || end != digits.data() + 4) fail("\\u needs four hexadecimal digits");
  at_ += 4;
  return code;
}

void JsonReader::enter() {
  if (++depth_ > kJsonDepthMax) fail("JSON is nested deeper than " + std::to_string(kJsonDepthMax) + " levels");
  ++at_;
}

// Behind the opening bracket: true when there is a first item.
bool JsonReader::begin_items(char close) {
  space();
  if (at_ < text_.size() && text_[at_] == close) {
    ++at_;
    return false;
  }
  return true;
}

// Behind an item: true when there is another one.
bool JsonReader::next_item(char close) {
  space();
  if (at_ == text_.size()) fail("JSON ends inside an array or object");
  const char c = text_[at_];
  if (c != ',' && c != close) fail(std::string("JSON needs ',' or '") + close + "' here");
  ++at_;
  return c == ',';
}

std::string JsonReader::member_key() {
  std::string key = string();
  space();
  if (at_ == text_.size() || text_[at_] != ':') fail("JSON needs ':' here");
  ++at_;
  return key;
}

void JsonReader::check_distinct(std::vector<std::string>& keys) const {
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) fail_at(at_, "the JSON object that ends here has \"" + printable(*twice) + "\" twice");
}

void JsonReader::skip() {
  switch (kind()) {
    case JsonKind::null:
      return null();
    case JsonKind::boolean:
      boolean();
      return;
    case JsonKind::number:
      number_text();
      return;
    case JsonKind::string:
      return unescape(nullptr);
    case JsonKind::array:
      return array([&] { skip(); });
    case JsonKind::object:
      // Not object(): a vocabulary's keys need not be kept to be passed over.
      enter();
      for (bool more = begin_items('}'); more; more = next_item('}')) {
        expect_kind(JsonKind::string);
        unescape(nullptr);
        space();
        if (at_ == text_.size() || text_[at_] != ':') fail("JSON needs ':' here");
        ++at_;
        skip();
      }
      leave();
      return;
  }
}

void JsonReader::end() {
  space();
  if (at_ != text_.size()) fail("something follows the end of the JSON value");
}

const Json* Json::find(std::string_view key) const {
  const auto found = std::find(keys.begin(), keys.end(), key);
  return found == keys.end() ? nullptr : &items[static_cast<size_t>(found - keys.begin())];
}

namespace {

// Up to here every whole number is a double of its own.
constexpr double kExactMax = 9007199254740992.0;

Json read_tree(JsonReader& reader, int64_t& values_left) {
  Json value;
  value.kind = reader.kind();
  value.offset_bytes = reader.offset_bytes();
  if (--values_left < 0) reader.fail("JSON has more than " + std::to_string(kJsonTreeValuesMax) + " values");
  switch (value.kind) {
    case JsonKind::null:
      reader.null();
      break;
    case JsonKind::boolean:
      value.boolean = reader.boolean();
      break;
    case JsonKind::number:
      value.number = reader.number();
      if (std::abs(value.number) <= kExactMax && value.number == std::floor(value.number)) {
        value.integer = static_cast<int64_t>(value.number);
      }
      break;
    case JsonKind::string:
      value.text = reader.string();
      break;
    case JsonKind::array:
      reader.array([&] { value.items.push_back(read_tree(reader, values_left)); });
      break;
    case JsonKind::object:
      reader.object([&](std::string_view key) {
        value.keys.emplace_back(key);
        value.items.push_back(read_tree(reader, values_left));
      });
      break;
  }
  return value;
}

}  // namespace

Json parse_json(std::string path, std::span<const std::byte> text) {
  JsonReader reader(std::move(path), text);
  int64_t values_left = kJsonTreeValuesMax;
  Json value = read_tree(reader, values_left);
  reader.end();
  return value;
}

}  // namespace penstock

#if defined(PENSTOCK_FUZZ_ENTRY)
// libFuzzer: a tree, or a ModelFileError; skipping accepts what the tree accepts.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto text = std::as_bytes(std::span(data, size));
  try {
    penstock::parse_json("fuzz", text);
  } catch (const penstock::ModelFileError&) {
    return 0;
  }
  penstock::JsonReader reader("fuzz", text);
  reader.skip();
  reader.end();
  return 0;
}
#endif
