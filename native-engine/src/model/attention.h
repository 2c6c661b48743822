// Attention of a mixed batch over the paged cache. Owns how rows, heads and stretches of context are spread over
// threads; the arithmetic of a few rows against one KV head is Kernels::attend.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "kv/cache.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/parallel.h"
#include "ops/memory.h"
#include "ops/ops.h"

namespace penstock {

class PagedAttention {
 public:
  // All scratch is allocated here, for batches of up to rows_max rows.
  PagedAttention(const Config& config, const Kernels& kernels, int32_t threads, int32_t rows_max);

  // Fixes the batch whose rows the following run() calls attend for. batch.sequences must outlive them.
  void plan(const StepBatch& batch);

  // q [rows, heads, head_dim], scaled by 1 / sqrt(head_dim) -> out [rows, heads, head_dim].
  // Row i attends to positions first_visible(positions[i])..positions[i] of its sequence. PRECOND: those K and V are
  // stored.
  void run(KvCache& cache, int32_t layer, const float* q, float* out, Parallel& parallel);

 private:
  // Neighbouring rows of one sequence, which share every K and V that is read, over the segments they see.
  struct Tile {
    int32_t sequence;  // in batch.sequences
    int32_t first_row;
    int32_t rows;
    int32_t position;  // of the first row
    int32_t segment_begin;
    int32_t segment_end;
    int64_t partials;  // floats into partials_; meaningful when split

    int32_t segments() const { return segment_end - segment_begin; }
  };
  // One stretch of a tile's context, for all KV heads: all of it, or one segment of a tile that is split.
  struct Piece {
    int32_t tile;
    int32_t segment_begin;
    int32_t segment_end;
    int64_t macs;  // of one KV head
  };
  // Scratch of one thread, taken for the length of a chunk.
  struct Scratch {
    PageMemory kernel;          // [attend_scratch_bytes]
    std::vector<float> states;  // [tile_rows, group, softmax_floats]
    std::atomic_flag taken = ATOMIC_FLAG_INIT;
  };

  void add_tiles(const StepSequence& sequence, int32_t index);
  void add_pieces();
  void add_chunks();
  int64_t macs_of(const Tile& tile, int32_t segment_begin, int32_t segment_end) const;
  AttentionArgs args(KvCache& cache, int32_t layer, const float* q, const Tile& tile, int32_t kv_head) const;
  void merge(const Tile& tile, int32_t kv_head, float* out);
  void finish(const float* states, const Tile& tile, int32_t kv_head, float* out) const;
  Scratch& take_scratch();

  const Config& config_;
  const Kernels& kernels_;
  int64_t row_floats_;  // states of one row and KV head: [group, softmax_floats(head_dim)]
  int32_t tile_rows_;   // most rows of a tile
  int32_t threads_;
  StepBatch batch_{};
  std::vector<Tile> tiles_;
  std::vector<Piece> pieces_;
  std::vector<int32_t> split_;       // tiles whose segments are pieces of their own
  std::vector<int64_t> chunk_ends_;  // items (piece, KV head) are handed out in these ranges
  std::vector<float> partials_;      // of split tiles: [segment, kv_head, row, row_floats]
  int64_t macs_ = 0;                 // of all pieces, for one KV head
  std::unique_ptr<Scratch[]> scratch_;  // [threads]
};

}  // namespace penstock
