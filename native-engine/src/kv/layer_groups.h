// How many layers of blocks are told to the other engine at a time while the step that fills them goes on. Owns the rule. Pure.
//
// A step leaves `bytes` of K and V for a transfer. In n groups, bytes / n of them are left when the step has stored its last
// layer: that is what the transfer takes longer than the step, where the line is faster than the model. Each group costs its
// telling too: two threads are woken, and a head, a payload and a checksum pass two sockets, on cores that compute meanwhile: a fixed
// time in which c bytes could have passed instead. In all, bytes / n + n * c, which is least for n = sqrt(bytes / c). On a slower
// line c is less and more groups would be better; but there groups wait for each other in the sender, which puts them together
// again, and what is left is the line's own time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace penstock {

// Measured with kv-transfer-bench: a group takes both engines together 0.12 to 0.2 ms of their cores, at 1.5 to 2 GB/s. From a GPU,
// where another line is faster and no core computes meanwhile, nothing has been measured, and it is the same.
inline constexpr int64_t kGroupCostBytes = 128 * 1024;

// At least 1, at most `layers`. `bytes`: of all layers.
inline int32_t layers_per_group(int64_t bytes, int32_t layers) {
  const double groups = std::sqrt(static_cast<double>(bytes) / static_cast<double>(kGroupCostBytes));
  const auto whole = static_cast<int32_t>(std::clamp(std::round(groups), 1.0, static_cast<double>(layers)));
  return (layers + whole - 1) / whole;
}

}  // namespace penstock
