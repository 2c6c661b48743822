#include "model/attention.h"

#include <algorithm>

namespace penstock {

namespace {

// Query heads of a tile. What a tile widens and packs is used this many times, and its scores and states stay in a
// second-level cache.
constexpr int32_t kTileQueries = 96;
// Pieces a thread should find, so that one that the system delays does not hold up the others.
constexpr int32_t kPiecesPerThread = 4;
// Bounds the pieces that splitting adds: a row of 256 Ki tokens.
constexpr int32_t kSplitPiecesMax = 1024;
// Bounds the memory of partial softmaxes to 8 MiB.
constexpr int64_t kPartialFloatsMax = int64_t{2} << 20;
// A cut smaller than this costs more in merging and waking than it evens out.
constexpr int64_t kPieceMacsMin = 2 * kSegmentTokens * 64;

}  // namespace

PagedAttention::PagedAttention(const Config& config, const Kernels& kernels, int32_t threads, int32_t rows_max)
    : config_(config),
      kernels_(kernels),
      row_floats_(int64_t{config.group()} * softmax_floats(config.head_dim)),
      tile_rows_(std::max(1, kTileQueries / config.group())),
      threads_(threads),
      scratch_(std::make_unique<Scratch[]>(static_cast<size_t>(threads))) {
  tiles_.reserve(static_cast<size_t>(rows_max));
  pieces_.reserve(static_cast<size_t>(rows_max) + kSplitPiecesMax);
  split_.reserve(static_cast<size_t>(rows_max));
  chunk_ends_.reserve(static_cast<size_t>(Parallel::chunks_max(threads)) + 1);
  // No more than every row of the largest batch split over the longest context.
  const int64_t segments_max = config.context_tokens / kSegmentTokens + 1;
  partials_.resize(static_cast<size_t>(
      std::min(kPartialFloatsMax, int64_t{rows_max} * segments_max * config.kv_heads * row_floats_)));
  for (int32_t i = 0; i < threads; ++i) {
    Scratch& scratch = scratch_[static_cast<size_t>(i)];
    scratch.kernel = PageMemory(kernels.attend_scratch_bytes(config.head_dim));
    scratch.states.resize(static_cast<size_t>(tile_rows_ * row_floats_));
  }
}

void PagedAttention::plan(const StepBatch& batch) {
  batch_ = batch;
  tiles_.clear();
  for (size_t i = 0; i < batch.sequences.size(); ++i) add_tiles(batch.sequences[i], static_cast<int32_t>(i));
  add_pieces();
  add_chunks();
}

void PagedAttention::add_tiles(const StepSequence& sequence, int32_t index) {
  for (int32_t done = 0; done < sequence.rows; done += tile_rows_) {
    Tile tile{};
    tile.sequence = index;
    tile.first_row = sequence.first_row + done;
    tile.rows = std::min(tile_rows_, sequence.rows - done);
    tile.position = sequence.kv_tokens - sequence.rows + done;
    tile.segment_begin = first_visible(tile.position, config_.window_tokens) / kSegmentTokens;
    tile.segment_end = (tile.position + tile.rows - 1) / kSegmentTokens + 1;
    tiles_.push_back(tile);
  }
}

// Of one KV head.
int64_t PagedAttention::macs_of(const Tile& tile, int32_t segment_begin, int32_t segment_end) const {
  const int32_t begin = std::max(segment_begin * kSegmentTokens, first_visible(tile.position, config_.window_tokens));
  const int32_t end = std::min(segment_end * kSegmentTokens, tile.position + tile.rows);
  return int64_t{2} * tile.rows * config_.group() * config_.head_dim * (end - begin);
}

// A tile that is more than its share of the work is cut at its segments. Partials are merged front to back, as attend()
// does within a piece, so the cut does not change a bit.
void PagedAttention::add_pieces() {
  pieces_.clear();
  split_.clear();
  macs_ = 0;
  for (const Tile& tile : tiles_) macs_ += macs_of(tile, tile.segment_begin, tile.segment_end);
  const int64_t share = macs_ * config_.kv_heads / (int64_t{threads_} * kPiecesPerThread);
  int64_t partials = 0;
  int32_t split_pieces = 0;
  for (size_t i = 0; i < tiles_.size(); ++i) {
    Tile& tile = tiles_[i];
    const auto index = static_cast<int32_t>(i);
    const int64_t macs = macs_of(tile, tile.segment_begin, tile.segment_end);
    const int64_t floats = int64_t{tile.segments()} * config_.kv_heads * tile.rows * row_floats_;
    const bool split = threads_ > 1 && tile.segments() > 1 && macs > std::max(share, kPieceMacsMin) &&
                       split_pieces + tile.segments() <= kSplitPiecesMax &&
                       partials + floats <= static_cast<int64_t>(partials_.size());
    if (!split) {
      pieces_.push_back({index, tile.segment_begin, tile.segment_end, macs});
      continue;
    }
    tile.partials = partials;
    partials += floats;
    split_pieces += tile.segments();
    split_.push_back(index);
    for (int32_t segment = tile.segment_begin; segment < tile.segment_end; ++segment) {
      pieces_.push_back({index, segment, segment + 1, macs_of(tile, segment, segment + 1)});
    }
  }
  // The largest first, so that none of them is begun last. Equal ones in order of context, which is read in order.
  std::sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) {
    if (a.macs != b.macs) return a.macs > b.macs;
    return a.tile != b.tile ? a.tile < b.tile : a.segment_begin < b.segment_begin;
  });
}

// Ranges of items that cost about the same. An item is a piece and a KV head; the heads of a piece follow each other.
void PagedAttention::add_chunks() {
  chunk_ends_.clear();
  const int64_t target = macs_ * config_.kv_heads / Parallel::chunks_max(threads_) + 1;
  const auto items = static_cast<int64_t>(pieces_.size()) * config_.kv_heads;
  int64_t macs = 0;
  for (int64_t item = 0; item < items; ++item) {
    macs += pieces_[static_cast<size_t>(item / config_.kv_heads)].macs;
    if (macs < target && item + 1 < items) continue;
    chunk_ends_.push_back(item + 1);
    macs = 0;
  }
}

AttentionArgs PagedAttention::args(KvCache& cache, int32_t layer, const float* q, const Tile& tile,
                                   int32_t kv_head) const {
  return {
      .q = q + int64_t{tile.first_row} * config_.q_dim() + int64_t{kv_head} * config_.group() * config_.head_dim,
      .q_stride = config_.q_dim(),
      .rows = tile.rows,
      .position = tile.position,
      .group = config_.group(),
      .head_dim = config_.head_dim,
      .window_tokens = config_.window_tokens,
      .segment_begin = tile.segment_begin,
      .segment_end = tile.segment_end,
      .kv_type = cache.shape().type,
      .k_base = cache.tile(layer, 0, kv_head),
      .block_stride_bytes = cache.shape().block_bytes(),
      .v_offset_bytes = cache.v_offset_bytes(),
      .block_table = batch_.sequences[static_cast<size_t>(tile.sequence)].block_table.data(),
      .next_k_base = kv_head + 1 < config_.kv_heads ? cache.tile(layer, 0, kv_head + 1) : nullptr,
  };
}

PagedAttention::Scratch& PagedAttention::take_scratch() {
  // No more chunks run at once than there are threads, so one of them is free.
  for (int32_t i = 0;; i = (i + 1) % threads_) {
    Scratch& scratch = scratch_[static_cast<size_t>(i)];
    if (!scratch.taken.test_and_set(std::memory_order_acquire)) return scratch;
  }
}

void PagedAttention::run(KvCache& cache, int32_t layer, const float* q, float* out, Parallel& parallel) {
  const int64_t kv_heads = config_.kv_heads;
  const auto chunks = static_cast<int64_t>(chunk_ends_.size());
  parallel.for_ranges(chunks, macs_ * kv_heads / chunks, [&](int64_t begin, int64_t end, int32_t) {
    Scratch& scratch = take_scratch();
    const int64_t item_begin = begin == 0 ? 0 : chunk_ends_[static_cast<size_t>(begin - 1)];
    const int64_t item_end = chunk_ends_[static_cast<size_t>(end - 1)];
    for (int64_t item = item_begin; item < item_end; ++item) {
      const Piece& piece = pieces_[static_cast<size_t>(item / kv_heads)];
      const Tile& tile = tiles_[static_cast<size_t>(piece.tile)];
      const auto kv_head = static_cast<int32_t>(item % kv_heads);
      AttentionArgs call = args(cache, layer, q, tile, kv_head);
      call.segment_begin = piece.segment_begin;
      call.segment_end = piece.segment_end;
      const bool whole = piece.segment_end - piece.segment_begin == tile.segments();
      float* states = scratch.states.data();
      if (!whole) {
        const int64_t part = (piece.segment_begin - tile.segment_begin) * kv_heads + kv_head;
        states = partials_.data() + tile.partials + part * tile.rows * row_floats_;
      }
      kernels_.attend(call, scratch.kernel.data(), states);
      if (whole) finish(states, tile, kv_head, out);
    }
    scratch.taken.clear(std::memory_order_release);
  });
  if (split_.empty()) return;
  int64_t merged_floats = 0;
  for (int32_t index : split_) {
    const Tile& tile = tiles_[static_cast<size_t>(index)];
    merged_floats += int64_t{tile.segments()} * tile.rows * row_floats_;
  }
  const auto split = static_cast<int64_t>(split_.size());
  parallel.for_ranges(split * kv_heads, merged_floats / split, [&](int64_t begin, int64_t end, int32_t) {
    for (int64_t item = begin; item < end; ++item) {
      merge(tiles_[static_cast<size_t>(split_[static_cast<size_t>(item / kv_heads)])],
            static_cast<int32_t>(item % kv_heads), out);
    }
  });
}

// The partials of a split tile into those of its first segment, in order of position.
void PagedAttention::merge(const Tile& tile, int32_t kv_head, float* out) {
  const int32_t floats = softmax_floats(config_.head_dim);
  const int64_t part_floats = tile.rows * row_floats_;
  float* states = partials_.data() + tile.partials + kv_head * part_floats;
  for (int32_t segment = 1; segment < tile.segments(); ++segment) {
    const float* from = states + int64_t{segment} * config_.kv_heads * part_floats;
    for (int64_t i = 0; i < part_floats; i += floats) kernels_.merge_softmax(from + i, config_.head_dim, states + i);
  }
  finish(states, tile, kv_head, out);
}

void PagedAttention::finish(const float* states, const Tile& tile, int32_t kv_head, float* out) const {
  const int32_t floats = softmax_floats(config_.head_dim);
  for (int32_t row = 0; row < tile.rows; ++row) {
    float* heads = out + (int64_t{tile.first_row} + row) * config_.q_dim() +
                   int64_t{kv_head} * config_.group() * config_.head_dim;
    for (int32_t head = 0; head < config_.group(); ++head, states += floats) {
      kernels_.finish_softmax(states, config_.head_dim, heads + int64_t{head} * config_.head_dim);
    }
  }
}

}  // namespace penstock
