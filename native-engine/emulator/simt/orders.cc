#include "simt/orders.h"

#include <algorithm>
#include <mutex>

namespace simt {
namespace {
std::mutex mutex;
Order current{};

std::string hex(const std::byte* bytes, size_t count) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = count; i-- > 0;) {  // as a little-endian number is read
    text += kDigits[std::to_integer<unsigned>(bytes[i]) >> 4];
    text += kDigits[std::to_integer<unsigned>(bytes[i]) & 15u];
  }
  return text;
}
}  // namespace

Order order() {
  const std::lock_guard lock(mutex);
  return current;
}
void set_order(Order order) {
  const std::lock_guard lock(mutex);
  current = order;
}

std::string describe(Order order) {
  switch (order.kind) {
    case Order::Kind::forward:
      return "forward";
    case Order::Kind::reverse:
      return "reverse";
    case Order::Kind::shuffled:
      return "shuffled, seed " + std::to_string(order.seed);
  }
  return "?";
}

std::string difference(const std::vector<std::byte>& first, const std::vector<std::byte>& other, size_t element_bytes) {
  if (first.size() != other.size())
    return std::to_string(other.size()) + " bytes instead of " + std::to_string(first.size());
  const size_t count = first.size() / element_bytes;
  size_t different = 0, at = 0;
  for (size_t i = 0; i < count; ++i) {
    if (std::memcmp(&first[i * element_bytes], &other[i * element_bytes], element_bytes) == 0) continue;
    if (different++ == 0) at = i;
  }
  if (different == 0) return "";
  const size_t shown = std::min<size_t>(element_bytes, 16);
  return std::to_string(different) + " of " + std::to_string(count) + " elements, the first is " + std::to_string(at) +
         ": 0x" + hex(&other[at * element_bytes], shown) + " instead of 0x" + hex(&first[at * element_bytes], shown);
}

}  // namespace simt
