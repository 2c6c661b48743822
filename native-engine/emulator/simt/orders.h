// The order in which the threads of a block, and the blocks of a grid, run. A kernel whose result depends on it has a race: a
// test runs it in several orders and compares bits.
//   forward, reverse: by index, each warp until it waits; the strict orders, which show one side of a race each
//   shuffled: at every wait another lane, at times of another warp, drawn from the seed
// Owns the choice and the comparison; block.cc and launch.cc follow it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

namespace simt {

struct Order {
  enum class Kind : uint8_t { forward, reverse, shuffled };
  Kind kind = Kind::forward;
  uint64_t seed = 0;
  bool operator==(const Order&) const = default;
};

Order order();
// For the launches from now on.
void set_order(Order order);
std::string describe(Order order);

// What every kernel test runs: both strict orders and two shuffles.
inline constexpr Order kOrders[] = {
    {Order::Kind::forward, 0}, {Order::Kind::reverse, 0}, {Order::Kind::shuffled, 1}, {Order::Kind::shuffled, 2}};

// The bytes of a result, whatever it is: a vector, or something that is copied like memory.
template <class T>
std::vector<std::byte> bytes_of(const T& value) {
  std::vector<std::byte> bytes;
  if constexpr (requires { value.data(), value.size(); }) {
    static_assert(std::is_trivially_copyable_v<std::remove_cvref_t<decltype(*value.data())>>);
    bytes.resize(value.size() * sizeof(*value.data()));
    if (!bytes.empty()) std::memcpy(bytes.data(), value.data(), bytes.size());
  } else {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes.resize(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
  }
  return bytes;
}

// Says where results differ, "" where they do not.
std::string difference(const std::vector<std::byte>& first, const std::vector<std::byte>& other, size_t element_bytes);

struct OrderResult {
  bool same = true;
  std::string message;  // the first difference, with the order that shows it
  explicit operator bool() const { return same; }
};

// Runs the body in every order; it returns what it has computed. The order afterwards is the one before.
template <class Body>
OrderResult for_each_order(Body&& body) {
  const Order before = order();
  OrderResult result;
  std::vector<std::byte> expected;
  for (const Order& each : kOrders) {
    set_order(each);
    const auto computed = body();
    std::vector<std::byte> bytes = bytes_of(computed);
    if (each == kOrders[0]) {
      expected = std::move(bytes);
      continue;
    }
    size_t element_bytes = sizeof(computed);
    if constexpr (requires { *computed.data(); }) element_bytes = sizeof(*computed.data());
    const std::string found = difference(expected, bytes, element_bytes);
    if (found.empty() || !result.same) continue;
    result.same = false;
    result.message = "order " + describe(each) + " differs from " + describe(kOrders[0]) + ": " + found;
  }
  set_order(before);
  return result;
}

}  // namespace simt
