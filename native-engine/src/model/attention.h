// Attention of a mixed batch over the paged cache. Owns how rows, heads and stretches of context are spread over
// threads; the arithmetic of one stretch is Kernels::attend.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/cache.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/parallel.h"
#include "ops/ops.h"

namespace penstock {

class PagedAttention {
 public:
  // All scratch is allocated here, for batches of up to rows_max rows.
  PagedAttention(const Config& config, const Kernels& kernels, int32_t threads, int32_t rows_max);

  // Fixes the batch whose rows the following run() calls attend for. row_sequence [rows] indexes batch.sequences.
  void plan(const StepBatch& batch, const int32_t* row_sequence);

  // q [rows, heads, head_dim], scaled by 1 / sqrt(head_dim) -> out [rows, heads, head_dim].
  // Row i attends to positions 0..positions[i] of its sequence. PRECOND: those K and V are stored.
  void run(KvCache& cache, int32_t layer, const float* q, float* out, Parallel& parallel);

 private:
  // One stretch of one row's context, for all KV heads.
  struct Piece {
    int32_t row;
    int32_t segment;
  };

  int32_t context_of(int32_t row) const { return batch_.positions[static_cast<size_t>(row)] + 1; }
  int32_t segments_of(int32_t row) const { return (context_of(row) + kSegmentTokens - 1) / kSegmentTokens; }
  AttentionArgs args(KvCache& cache, int32_t layer, const float* q, int32_t row, int32_t kv_head,
                     int32_t segment) const;
  void run_split(KvCache& cache, int32_t layer, const float* q, float* out, Parallel& parallel);
  void run_rows(KvCache& cache, int32_t layer, const float* q, float* out, Parallel& parallel);
  void finish(const float* states, int32_t row, int32_t kv_head, float* out) const;

  const Config& config_;
  const Kernels& kernels_;
  int64_t state_floats_;  // of one KV head's group: [group, softmax_floats(head_dim)]
  StepBatch batch_{};
  const int32_t* row_sequence_ = nullptr;
  int64_t context_total_ = 0;  // over rows, for the cost estimate
  bool split_ = false;
  std::vector<Piece> pieces_;        // [kPiecesMax] capacity
  std::vector<float> partials_;      // [kPiecesMax, kv_heads, state_floats]
  std::vector<float> chunk_states_;  // [chunks, 2, state_floats]: a state and the segment to merge into it
};

}  // namespace penstock
