#include "model/attention.h"

#include <algorithm>
#include <cstring>

namespace penstock {

namespace {

// With this many rows there is enough to do without cutting a row's context into pieces.
constexpr int32_t kSplitRowsMax = 16;
// Bounds the scratch for pieces: 16 rows of 16,384 tokens each.
constexpr int32_t kPiecesMax = 1024;

}  // namespace

PagedAttention::PagedAttention(const Config& config, const Kernels& kernels, int32_t threads, int32_t rows_max)
    : config_(config), kernels_(kernels), state_floats_(int64_t{config.group()} * softmax_floats(config.head_dim)) {
  const int64_t pieces_max = std::min(
      int64_t{kPiecesMax}, int64_t{std::min(rows_max, kSplitRowsMax)} * (config.context_tokens / kSegmentTokens + 1));
  pieces_.reserve(static_cast<size_t>(pieces_max));
  partials_.resize(static_cast<size_t>(pieces_max * config.kv_heads * state_floats_));
  chunk_states_.resize(static_cast<size_t>(Parallel::chunks_max(threads) * 2 * state_floats_));
}

void PagedAttention::plan(const StepBatch& batch, const int32_t* row_sequence) {
  batch_ = batch;
  row_sequence_ = row_sequence;
  pieces_.clear();
  context_total_ = 0;
  int64_t pieces = 0;
  int32_t longest = 1;
  const auto rows = static_cast<int32_t>(batch.token_ids.size());
  for (int32_t row = 0; row < rows; ++row) {
    context_total_ += context_of(row);
    pieces += segments_of(row);
    longest = std::max(longest, segments_of(row));
  }
  split_ = rows <= kSplitRowsMax && longest > 1 && pieces <= static_cast<int64_t>(pieces_.capacity());
  if (!split_) return;
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t segment = 0; segment < segments_of(row); ++segment) pieces_.push_back({row, segment});
  }
}

AttentionArgs PagedAttention::args(KvCache& cache, int32_t layer, const float* q, int32_t row, int32_t kv_head,
                                   int32_t segment) const {
  const int32_t begin = segment * kSegmentTokens;
  const StepSequence& sequence = batch_.sequences[static_cast<size_t>(row_sequence_[row])];
  return {
      .q = q + int64_t{row} * config_.q_dim() + int64_t{kv_head} * config_.group() * config_.head_dim,
      .group = config_.group(),
      .head_dim = config_.head_dim,
      .kv_type = cache.shape().type,
      .k_base = cache.tile(layer, 0, kv_head),
      .block_stride_bytes = cache.shape().block_bytes(),
      .v_offset_bytes = cache.v_offset_bytes(),
      .block_table = sequence.block_table.data(),
      .begin = begin,
      .end = std::min(begin + kSegmentTokens, context_of(row)),
  };
}

void PagedAttention::finish(const float* states, int32_t row, int32_t kv_head, float* out) const {
  const int32_t floats = softmax_floats(config_.head_dim);
  float* heads = out + int64_t{row} * config_.q_dim() + int64_t{kv_head} * config_.group() * config_.head_dim;
  for (int32_t head = 0; head < config_.group(); ++head) {
    kernels_.finish_softmax(states + head * floats, config_.head_dim, heads + head * config_.head_dim);
  }
}

void PagedAttention::run(KvCache& cache, int32_t layer, const float* q, float* out, Parallel& parallel) {
  if (split_) {
    run_split(cache, layer, q, out, parallel);
  } else {
    run_rows(cache, layer, q, out, parallel);
  }
}

// Few rows with a long context: every segment is work of its own. Segments are merged front to back, as in run_rows, so
// both give the same bits.
void PagedAttention::run_split(KvCache& cache, int32_t layer, const float* q, float* out, Parallel& parallel) {
  const int64_t kv_heads = config_.kv_heads;
  const auto items = static_cast<int64_t>(pieces_.size()) * kv_heads;
  const int64_t macs = 2 * int64_t{kSegmentTokens} * config_.group() * config_.head_dim;
  parallel.for_ranges(items, macs, [&](int64_t begin, int64_t end, int32_t) {
    for (int64_t item = begin; item < end; ++item) {
      const Piece& piece = pieces_[static_cast<size_t>(item / kv_heads)];
      const auto kv_head = static_cast<int32_t>(item % kv_heads);
      kernels_.attend(args(cache, layer, q, piece.row, kv_head, piece.segment),
                      partials_.data() + item * state_floats_);
    }
  });
  const int32_t floats = softmax_floats(config_.head_dim);
  float* first = partials_.data();  // of the current row, [kv_heads, state_floats]
  for (size_t i = 0; i < pieces_.size(); ++i) {
    float* current = partials_.data() + static_cast<int64_t>(i) * kv_heads * state_floats_;
    if (pieces_[i].segment == 0) first = current;
    for (int64_t head = 0; first != current && head < kv_heads * config_.group(); ++head) {
      kernels_.merge_softmax(current + head * floats, config_.head_dim, first + head * floats);
    }
    const bool last = i + 1 == pieces_.size() || pieces_[i + 1].segment == 0;
    for (int32_t kv_head = 0; last && kv_head < config_.kv_heads; ++kv_head) {
      finish(first + kv_head * state_floats_, pieces_[i].row, kv_head, out);
    }
  }
}

// Many rows: a row and KV head is one item, its segments follow each other on one thread.
void PagedAttention::run_rows(KvCache& cache, int32_t layer, const float* q, float* out, Parallel& parallel) {
  const auto rows = static_cast<int64_t>(batch_.token_ids.size());
  const int64_t macs = 2 * context_total_ * config_.group() * config_.head_dim / rows;
  const int32_t floats = softmax_floats(config_.head_dim);
  parallel.for_ranges(rows * config_.kv_heads, macs, [&](int64_t begin, int64_t end, int32_t chunk) {
    float* state = chunk_states_.data() + chunk * 2 * state_floats_;
    float* partial = state + state_floats_;
    for (int64_t item = begin; item < end; ++item) {
      const auto row = static_cast<int32_t>(item / config_.kv_heads);
      const auto kv_head = static_cast<int32_t>(item % config_.kv_heads);
      kernels_.attend(args(cache, layer, q, row, kv_head, 0), state);
      for (int32_t segment = 1; segment < segments_of(row); ++segment) {
        kernels_.attend(args(cache, layer, q, row, kv_head, segment), partial);
        for (int32_t head = 0; head < config_.group(); ++head) {
          kernels_.merge_softmax(partial + head * floats, config_.head_dim, state + head * floats);
        }
      }
      finish(state, row, kv_head, out);
    }
  });
}

}  // namespace penstock
