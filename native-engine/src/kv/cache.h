// The paged KV cache: storage and layout. Does not know which sequence owns a block (sched/) nor how it is read (ops/).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kv/view.h"
#include "model/batch.h"
#include "ops/memory.h"

namespace penstock {

// bf16 is for devices alone, f32 for the processor alone.
enum class KvType : uint8_t { f16, f32, q8_0, bf16 };

// Dimensions of a token's K or V that share a scale in KvType::q8_0.
inline constexpr int32_t kKvQuantBlock = 32;

// "f16", "f32", "q8_0" or "bf16".
inline constexpr const char* kv_type_name(KvType type) {
  switch (type) {
    case KvType::f16:
      return "f16";
    case KvType::f32:
      return "f32";
    case KvType::q8_0:
      return "q8_0";
    case KvType::bf16:
      return "bf16";
  }
  return "";
}

// Whether heads of this many dimensions can be stored.
inline constexpr bool kv_type_fits(KvType type, int32_t head_dim) {
  return type != KvType::q8_0 || head_dim % kKvQuantBlock == 0;
}

// Bytes of kBlockTokens x head_dim values of one KV head.
inline constexpr int64_t kv_tile_bytes(KvType type, int32_t head_dim) {
  const int64_t values = int64_t{kBlockTokens} * head_dim;
  if (type == KvType::q8_0) return values + 2 * values / kKvQuantBlock;
  return values * (type == KvType::f32 ? 4 : 2);
}

// Dimensions of a V tile that lie beside each other for one token: two vectors.
inline constexpr int32_t kVColumnDims = 16;

// Layout: [layer][block][k|v][kv_head][tile], a tile holding kBlockTokens x head_dim values.
//   K tile [head_dim][kBlockTokens]: one vector holds one dimension of consecutive tokens, so scores need no horizontal
//   sum. V tile [head_dim / kVColumnDims][kBlockTokens][kVColumnDims]: one vector holds consecutive dimensions of one
//   token, and the sums of a few columns, which fit in registers, are one contiguous read. Where head_dim is not a
//   multiple of kVColumnDims, the last column is narrower.
// q8_0: a value is q * d. Both tiles begin with d [head_dim / kKvQuantBlock][kBlockTokens] f16, q int8 in [-127, 127]
// follows in the order above. On a CUDA device tiles are [kBlockTokens][head_dim], see ops/cuda/ops.h.
enum class KvTiles : uint8_t { processor, cuda };

struct KvShape {
  int32_t layers;
  int32_t blocks_total;
  int32_t kv_heads;
  int32_t head_dim;
  KvType type;
  KvTiles tiles = KvTiles::processor;

  int64_t tile_bytes() const { return kv_tile_bytes(type, head_dim); }
  int64_t block_bytes() const { return 2 * kv_heads * tile_bytes(); }  // one block of one layer
  int64_t bytes_per_token() const { return layers * block_bytes() / kBlockTokens; }
  int64_t bytes_total() const { return int64_t{layers} * blocks_total * block_bytes(); }
  // Names everything that must be equal for the bytes of a block to mean the same; the weights' identity is the
  // caller's.
  std::string layout_name() const;
};

class KvCache {
 public:
  // Reserves address space for bytes_total(); the system supplies zeroed pages as they are first written.
  explicit KvCache(const KvShape& shape);

  const KvShape& shape() const { return shape_; }

  // K tile of (layer, block, kv_head); the V tile of the same head lies v_offset_bytes() behind it.
  std::byte* tile(int32_t layer, int32_t block, int32_t kv_head) {
    return memory_.data() + (int64_t{layer} * shape_.blocks_total + block) * shape_.block_bytes() +
           kv_head * shape_.tile_bytes();
  }
  KvView view() { return {memory_.data(), shape_.layers, shape_.blocks_total, shape_.block_bytes()}; }
  int64_t v_offset_bytes() const { return shape_.kv_heads * shape_.tile_bytes(); }

 private:
  KvShape shape_;
  PageMemory memory_;
};

}  // namespace penstock
