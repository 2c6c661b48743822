// Sizes in whole pages. Owns the page's size and the rounding.
#pragma once

#include <cstddef>

namespace simt {

inline constexpr size_t kPageBytes = 4096;

constexpr size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

}  // namespace simt
