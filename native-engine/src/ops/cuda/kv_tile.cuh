// A tile of the paged cache on the device: where a token's values lie (DeviceKv in ops.h), and what the products of
// attention read them as. Owned by those who write tiles and read them, rope_append.cu and attention*.
#pragma once

#include <stdexcept>
#include <string>

#include "ops/cuda/ops.h"
#include "ops/cuda/ptx.cuh"

namespace penstock::cuda {

// The type of the operands: what is stored, and f16 for q8_0, which holds its integers exactly.
template <KvType kType>
struct KvOperandOf {
  using Type = F16;
};
template <>
struct KvOperandOf<KvType::bf16> {
  using Type = Bf16;
};
template <KvType kType>
using KvOperand = typename KvOperandOf<kType>::Type;

// Bytes of kBlockTokens tokens.
template <KvType kType>
__host__ __device__ constexpr int64_t tile_bytes(int32_t head_dim) {
  static_assert(kType != KvType::f32, "f32 is not stored on devices");
  constexpr int64_t kTokens = kBlockTokens;
  return kType == KvType::q8_0 ? kTokens * (head_dim + 2 * head_dim / kKvQuantBlock) : kTokens * head_dim * 2;
}

// In a q8_0 tile: d [kBlockTokens][head_dim / kKvQuantBlock] f16, then q [kBlockTokens][head_dim].
__host__ __device__ constexpr int64_t quant_scale_offset(int32_t head_dim, int32_t token, int32_t dim) {
  return 2 * (int64_t{token} * (head_dim / kKvQuantBlock) + dim / kKvQuantBlock);
}
__host__ __device__ constexpr int64_t quant_values_offset(int32_t head_dim) {
  return quant_scale_offset(head_dim, kBlockTokens, 0);
}

// Throws std::logic_error for a cache that no kernel can read: the loader refuses those before.
inline void require_head_dim(const char* what, const DeviceKv& kv) {
  const bool fits = kv.head_dim > 0 && kv.head_dim % 8 == 0 && kv.head_dim <= kCudaHeadDimMax &&
                    kv.type != KvType::f32 && kv_type_fits(kv.type, kv.head_dim);
  if (!fits)
    throw std::logic_error(std::string(what) + ": no kernel for heads of " + std::to_string(kv.head_dim) +
                           " dimensions");
  if (kv.block_bytes != 2 * kv.kv_heads * kv_tile_bytes(kv.type, kv.head_dim)) {
    throw std::logic_error(std::string(what) + ": blocks of another shape");
  }
}

}  // namespace penstock::cuda
