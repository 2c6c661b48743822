// The parts of the reference table that lie in files of their own. Included by reference*.cc only.
#pragma once

#include "ops/ops.h"

namespace penstock::reference {

// reference_attention.cc
void store_kv(KvType type, int32_t head_dim, int32_t token, const float* k, const float* v, std::byte* k_tile,
              std::byte* v_tile);
int64_t attend_scratch_bytes(int32_t head_dim);
void attend(const AttentionArgs& args, std::byte* scratch, float* states);
void merge_softmax(const float* from, int32_t head_dim, float* into);
void finish_softmax(const float* state, int32_t head_dim, float* out);

}  // namespace penstock::reference
