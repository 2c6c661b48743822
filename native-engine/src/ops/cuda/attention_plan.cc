#include "ops/cuda/attention_plan.h"

#include <algorithm>
#include <stdexcept>

namespace penstock::cuda {

namespace {

// Two thread blocks of chunks fill a multiprocessor, for which eight that decode are wanted.
constexpr int32_t kDecodeBlocksPerChunk = 4;

}  // namespace

AttentionPlanner::AttentionPlanner(const AttentionPlanShape& shape, const AttentionPlanLimits& limits)
    : shape_(shape), limits_(limits) {
  if (shape.kv_heads < 1 || shape.heads < 1 || shape.heads % shape.kv_heads != 0) {
    throw std::logic_error("AttentionPlanner: heads are a multiple of KV heads");
  }
  items_.reserve(static_cast<size_t>(limits.items_max));
  merges_.reserve(static_cast<size_t>(limits.merges_max));
}

// A few rows fill one tile of the tensor cores together; more of them several.
int32_t AttentionPlanner::rows_of_tile(const StepSequence& sequence, int32_t done) const {
  return std::min(item_rows_max(shape_.heads / shape_.kv_heads, shape_.head_dim), sequence.rows - done);
}

AttentionItem AttentionPlanner::tile_of(const StepSequence& sequence, int32_t index, int32_t done) const {
  AttentionItem tile{};
  tile.sequence = index;
  tile.first_row = sequence.first_row + done;
  tile.rows = rows_of_tile(sequence, done);
  tile.position = sequence.kv_tokens - sequence.rows + done;
  tile.segment_begin = first_visible(tile.position, shape_.window_tokens) / kSegmentTokens;
  tile.segment_end = (tile.position + tile.rows - 1) / kSegmentTokens + 1;
  tile.partial = -1;
  return tile;
}

void AttentionPlanner::plan(std::span<const StepSequence> sequences) {
  items_.clear();
  merges_.clear();
  partial_rows_ = 0;
  decodes_ = chunks_ = false;
  int32_t tiles = 0;
  int64_t segments = 0;
  for (const StepSequence& sequence : sequences) {
    for (int32_t done = 0; done < sequence.rows; done += rows_of_tile(sequence, done)) {
      const AttentionItem tile = tile_of(sequence, 0, done);
      ++tiles;
      segments += tile.segment_end - tile.segment_begin;
    }
  }
  if (tiles > limits_.items_max) throw std::logic_error("AttentionPlanner: more tiles than items_max");

  for (size_t i = 0; i < sequences.size(); ++i) {
    const StepSequence& sequence = sequences[i];
    for (int32_t done = 0; done < sequence.rows; done += rows_of_tile(sequence, done)) {
      add_tile(tile_of(sequence, static_cast<int32_t>(i), done), segments, --tiles);
    }
  }
  // The longest first, so that none of them is begun last.
  std::sort(items_.begin(), items_.end(), [](const AttentionItem& a, const AttentionItem& b) {
    const int32_t a_segments = a.segment_end - a.segment_begin;
    const int32_t b_segments = b.segment_end - b.segment_begin;
    if (a_segments != b_segments) return a_segments > b_segments;
    return a.first_row != b.first_row ? a.first_row < b.first_row : a.segment_begin < b.segment_begin;
  });
}

// As one item, or cut into several whose states are merged, where there is room for them beside `tiles_left` whole ones.
// Of `segments_in_all`, an item has as many as let the step's items just fill the device: states that pass through memory
// cost time, most of all those of chunks.
void AttentionPlanner::add_tile(const AttentionItem& tile, int64_t segments_in_all, int32_t tiles_left) {
  const bool is_chunk = has_chunks(tile.rows, shape_.heads / shape_.kv_heads);
  (is_chunk ? chunks_ : decodes_) = true;
  const int64_t blocks_wanted = std::max(1, is_chunk ? shape_.blocks_wanted / kDecodeBlocksPerChunk : shape_.blocks_wanted);
  const auto segments_per_item = static_cast<int32_t>(
      std::max<int64_t>(1, (segments_in_all * shape_.kv_heads + blocks_wanted - 1) / blocks_wanted));
  const int32_t segments = tile.segment_end - tile.segment_begin;
  const int32_t parts = std::max(1, (segments + segments_per_item / 2) / segments_per_item);
  const bool fits = static_cast<int64_t>(items_.size()) + parts + tiles_left <= limits_.items_max &&
                    static_cast<int64_t>(merges_.size()) + tile.rows <= limits_.merges_max &&
                    partial_rows_ + int64_t{segments} * tile.rows <= limits_.partial_rows_max;
  if (parts == 1 || !fits) {
    items_.push_back(tile);
    return;
  }
  for (int32_t part = 0; part < parts; ++part) {
    AttentionItem item = tile;
    item.segment_begin = tile.segment_begin + static_cast<int32_t>(int64_t{segments} * part / parts);
    item.segment_end = tile.segment_begin + static_cast<int32_t>(int64_t{segments} * (part + 1) / parts);
    item.partial = partial_rows_ + (item.segment_begin - tile.segment_begin) * tile.rows;
    items_.push_back(item);
  }
  for (int32_t row = 0; row < tile.rows; ++row) {
    merges_.push_back({tile.first_row + row, partial_rows_ + row, segments, tile.rows});
  }
  partial_rows_ += segments * tile.rows;
}

}  // namespace penstock::cuda
