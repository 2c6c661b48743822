// Tiles of the device's cache in plain code: what a token's value is and where it lies, by ops/cuda/ops.h and by
// nothing of the kernels.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kv/cache.h"
#include "ops/cuda/ops.h"
#include "ops/half.h"
#include "ops/kv_quant.h"

namespace penstock::cuda::testing {

inline constexpr KvType kDeviceKvTypes[] = {KvType::f16, KvType::bf16, KvType::q8_0};

inline uint16_t to_bfloat(float x) {
  if (std::isnan(x)) return 0x7FFF;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}
inline float from_bfloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
template <class T>
void store(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

// Value (token, dim) of a tile.
inline float kv_value(KvType type, int32_t head_dim, const std::byte* tile, int32_t token, int32_t dim) {
  const int64_t at = int64_t{token} * head_dim + dim;
  if (type == KvType::f16) return half_to_float(load<uint16_t>(tile + 2 * at));
  if (type == KvType::bf16) return from_bfloat(load<uint16_t>(tile + 2 * at));
  const int32_t groups = head_dim / kKvQuantBlock;
  const float d = half_to_float(load<uint16_t>(tile + 2 * (token * groups + dim / kKvQuantBlock)));
  return static_cast<float>(load<int8_t>(tile + 2 * kBlockTokens * groups + at)) * d;
}

// x [head_dim] as token `token` of a tile.
inline void store_kv_values(KvType type, int32_t head_dim, std::byte* tile, int32_t token, const float* x) {
  for (int32_t dim = 0; dim < head_dim; ++dim) {
    const int64_t at = int64_t{token} * head_dim + dim;
    if (type != KvType::q8_0) {
      store<uint16_t>(tile + 2 * at, type == KvType::f16 ? float_to_half(x[dim]) : to_bfloat(x[dim]));
      continue;
    }
    const float* block = x + dim / kKvQuantBlock * kKvQuantBlock;
    uint32_t largest = 0;
    for (int32_t i = 0; i < kKvQuantBlock; ++i) {
      largest = std::max(largest, std::bit_cast<uint32_t>(block[i]) & 0x7FFFFFFFu);
    }
    const uint16_t scale = kv_scale(largest);
    const float d = half_to_float(scale);
    const float q = d > 0 ? std::nearbyint(std::clamp(x[dim] / d, -127.0f, 127.0f)) : 0.0f;
    const int32_t groups = head_dim / kKvQuantBlock;
    store<uint16_t>(tile + 2 * (token * groups + dim / kKvQuantBlock), scale);
    store<int8_t>(tile + 2 * kBlockTokens * groups + at, static_cast<int8_t>(q));
  }
}

// Shape of a cache, with the place of each tile.
struct KvLayout {
  KvType type;
  int32_t layers, blocks_total, kv_heads, head_dim;

  int64_t tile_bytes() const { return kv_tile_bytes(type, head_dim); }
  int64_t block_bytes() const { return 2 * kv_heads * tile_bytes(); }
  size_t bytes() const { return static_cast<size_t>(layers * blocks_total * block_bytes()); }
  size_t tile(int32_t layer, int32_t block, int32_t kv_head, bool is_v) const {
    return static_cast<size_t>((int64_t{layer} * blocks_total + block) * block_bytes() +
                               (kv_head + (is_v ? kv_heads : 0)) * tile_bytes());
  }
  DeviceKv on_device(std::byte* base) const { return {base, type, blocks_total, kv_heads, head_dim, block_bytes()}; }
};

}  // namespace penstock::cuda::testing
