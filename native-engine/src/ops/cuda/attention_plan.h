// How a step's attention is cut into thread blocks: items (ops.h) of neighbouring rows against a range of segments, and
// the merges of rows whose segments are several items. Pure; what a block computes is attention_tile.cuh.
//
// The cut changes no bit of any row: states end at fixed positions and are merged front to back wherever that happens.
// So it may follow the load: a step that fills the device is not split at all, a lone long context is split down to its
// segments. All arrays have fixed bounds, so that captured graphs find them where they were; what does not fit is split
// less.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/batch.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

// Most queries (rows x heads of a group) of an item that the decoding kernel takes: one tile of the tensor cores.
inline constexpr int32_t kDecodeQueries = 16;
// Queries of a thread block of the other kernel. A wide head's sums take the registers of two warps.
inline constexpr int32_t chunk_queries(int32_t head_dim) { return head_dim <= 128 ? 64 : 32; }

// Rows of an item at most, where a sequence has several.
inline constexpr int32_t item_rows_max(int32_t group, int32_t head_dim) {
  return group >= chunk_queries(head_dim) ? 1 : chunk_queries(head_dim) / group;
}
// Items that every batch of up to so many rows and sequences fits in when nothing is split.
inline constexpr int32_t items_needed(int32_t rows, int32_t sequences, int32_t group, int32_t head_dim) {
  const int32_t whole = rows / item_rows_max(group, head_dim) + sequences;
  return whole < rows ? whole : rows;
}
// Whether steps of up to so many rows per sequence have items for the kernel of chunks (AttentionArgs::chunks).
inline constexpr bool has_chunks(int32_t rows_per_sequence, int32_t group) {
  return rows_per_sequence * group > kDecodeQueries;
}

struct AttentionPlanShape {
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t window_tokens;  // 0 = none
  // Thread blocks that fill the device when it decodes: below, contexts are split; about 8 per multiprocessor. A quarter
  // of them fill it with chunks.
  int32_t blocks_wanted;
};

// Sizes of the device's arrays. PRECOND of plan(): items_max >= items_needed of the batch.
struct AttentionPlanLimits {
  int32_t items_max;
  int32_t merges_max;
  int32_t partial_rows_max;
};

class AttentionPlanner {
 public:
  AttentionPlanner(const AttentionPlanShape& shape, const AttentionPlanLimits& limits);

  // Replaces the plan. Sequence i's item.sequence is i; rows, positions and segments are as StepBatch promises.
  // Allocates nothing.
  void plan(std::span<const StepSequence> sequences);

  std::span<const AttentionItem> items() const { return items_; }  // the longest first
  std::span<const MergeItem> merges() const { return merges_; }
  int32_t partial_rows() const { return partial_rows_; }  // used
  bool decodes() const { return decodes_; }               // as in AttentionArgs
  bool chunks() const { return chunks_; }

 private:
  void add_tile(const AttentionItem& tile, int64_t segments_in_all, int32_t tiles_left);
  int32_t rows_of_tile(const StepSequence& sequence, int32_t done) const;
  AttentionItem tile_of(const StepSequence& sequence, int32_t index, int32_t done) const;

  AttentionPlanShape shape_;
  AttentionPlanLimits limits_;
  std::vector<AttentionItem> items_;
  std::vector<MergeItem> merges_;
  int32_t partial_rows_ = 0;
  bool decodes_ = false;
  bool chunks_ = false;
};

}  // namespace penstock::cuda
