#include "kv/cache.h"

namespace penstock {

std::string KvShape::layout_name() const {
  return "layers=" + std::to_string(layers) + ";kv_heads=" + std::to_string(kv_heads) +
         ";head_dim=" + std::to_string(head_dim) + ";block_tokens=" + std::to_string(kBlockTokens) +
         ";type=" + kv_type_name(type) +
         (tiles == KvTiles::cuda ? ";k=token.dim;v=token.dim" : ";k=dim.token;v=dim.token.dim" + std::to_string(kVColumnDims));
}

KvCache::KvCache(const KvShape& shape) : shape_(shape), memory_(shape.bytes_total()) {}

}  // namespace penstock
