// Batches to arrays. See step_arrays.h.
#include "model/cuda/step_arrays.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace penstock::cuda {
namespace {

// Bounds the memory of partial softmaxes to 16 MiB, but for a context that is longer than that by itself.
constexpr int64_t kPartialFloatsMax = int64_t{4} << 20;
constexpr int64_t kPlaceAlignBytes = 256;

int32_t segments_max(const StepArrays::Shape& shape) {
  return (shape.blocks * kBlockTokens + kSegmentTokens - 1) / kSegmentTokens;
}

// Whole tiles, and the parts that contexts are split into until the device is full.
int32_t items_max(const AttentionPlanShape& attention, int32_t rows, int32_t sequences) {
  const int32_t needed = items_needed(rows, sequences, attention.heads / attention.kv_heads, attention.head_dim);
  return needed + (attention.blocks_wanted + attention.kv_heads - 1) / attention.kv_heads;
}

}  // namespace

int32_t StepArrays::partial_rows_max(const Shape& shape) {
  const int64_t row_floats = int64_t{shape.attention.heads} * softmax_floats(shape.attention.head_dim);
  const int64_t all = int64_t{shape.read_rows} * segments_max(shape);
  // Kernels number the states of rows and heads with 31 bits; what does not fit is not split.
  const int64_t numbered = std::numeric_limits<int32_t>::max() / shape.attention.heads;
  return static_cast<int32_t>(std::min({all, numbered, std::max<int64_t>(kPartialFloatsMax / row_floats, segments_max(shape))}));
}

StepArrays::Place StepArrays::reserve(int64_t bytes) {
  const Place place{bytes_};
  bytes_ += (bytes + kPlaceAlignBytes - 1) / kPlaceAlignBytes * kPlaceAlignBytes;
  return place;
}

StepArrays::Plan StepArrays::make_plan(int32_t rows) {
  const AttentionPlanLimits limits{items_max(shape_.attention, rows, rows), rows, partial_rows_max(shape_)};
  const Place item_count = reserve(sizeof(int32_t));
  const Place items = reserve(limits.items_max * static_cast<int64_t>(sizeof(AttentionItem)));
  const Place merge_count = reserve(sizeof(int32_t));
  const Place merges = reserve(limits.merges_max * static_cast<int64_t>(sizeof(MergeItem)));
  return {item_count, items, merge_count, merges, AttentionPlanner(shape_.attention, limits)};
}

StepArrays::StepArrays(DevicePool& pool, const Shape& shape)
    : shape_(shape),
      token_ids_(reserve(shape.rows * int64_t{4})),
      positions_(reserve(shape.rows * int64_t{4})),
      row_sequence_(reserve(shape.rows * int64_t{4})),
      read_index_(reserve(shape.read_rows * int64_t{4})),
      plan_(make_plan(shape.rows)),
      read_plan_(make_plan(shape.read_rows)),
      fixed_bytes_(bytes_),
      tables_(reserve(int64_t{4} * shape.sequences * shape.blocks)),
      memory_(pool.take_bytes(bytes_)) {
  if (memory_ == nullptr) return;
  staging_ = std::make_unique<PinnedMemory>(bytes_);
  // Two for each sequence: one that samples, one that is pooled.
  reads_.reserve(static_cast<size_t>(2 * shape.sequences));
  read_tables_.reserve(static_cast<size_t>(2 * shape.sequences));
  tables_in_order_.resize(static_cast<size_t>(shape.sequences));
  std::iota(tables_in_order_.begin(), tables_in_order_.end(), 0);
}

bool StepArrays::is_decode(const StepBatch& batch) {
  return std::all_of(batch.sequences.begin(), batch.sequences.end(), [](const StepSequence& s) {
    return s.rows == 1 && s.wants_logits && s.pooling == Pooling::none;
  });
}

void StepArrays::fill(const StepBatch& batch) {
  rows_ = static_cast<int32_t>(batch.token_ids.size());
  fill_rows(batch);
  work_ = put_plan(plan_, batch.sequences, tables_in_order_);
  fill_reads(batch);
  fill_tables(batch);
}

void StepArrays::fill_decode(const StepBatch& batch, int32_t bucket) {
  const auto live = static_cast<int32_t>(batch.token_ids.size());
  fill_rows(batch);
  std::fill_n(host(token_ids_) + live, bucket - live, 0);
  std::fill_n(host(positions_) + live, bucket - live, 0);
  std::fill_n(host(row_sequence_) + live, bucket - live, -1);
  put_plan(plan_, batch.sequences, tables_in_order_);
  fill_tables(batch);
  shape_decode(bucket);
}

void StepArrays::shape_decode(int32_t bucket) {
  rows_ = read_rows_ = sampled_rows_ = bucket;
  reads_all_ = true;
  const AttentionPlanShape& attention = shape_.attention;
  // As many as the planner may make of a batch of this size: more would be launched in vain.
  const bool chunks = has_chunks(1, attention.heads / attention.kv_heads);
  work_ = work_of(plan_, items_max(attention, bucket, bucket), bucket, !chunks, chunks);
}

void StepArrays::fill_rows(const StepBatch& batch) {
  std::copy(batch.token_ids.begin(), batch.token_ids.end(), host(token_ids_));
  std::copy(batch.positions.begin(), batch.positions.end(), host(positions_));
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const StepSequence& s = batch.sequences[i];
    std::fill_n(host(row_sequence_) + s.first_row, s.rows, static_cast<int32_t>(i));
  }
}

void StepArrays::fill_reads(const StepBatch& batch) {
  reads_.clear();
  read_tables_.clear();
  read_rows_ = 0;
  int32_t* index = host(read_index_);
  const auto read_last = [&](size_t sequence, int32_t rows) {
    StepSequence read = batch.sequences[sequence];
    const int32_t end = read.first_row + read.rows;
    std::iota(index + read_rows_, index + read_rows_ + rows, end - rows);
    read.first_row = read_rows_;
    read.rows = rows;
    reads_.push_back(read);
    read_tables_.push_back(static_cast<int32_t>(sequence));
    read_rows_ += rows;
  };
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    if (batch.sequences[i].wants_logits) read_last(i, 1);
  }
  sampled_rows_ = read_rows_;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const StepSequence& s = batch.sequences[i];
    if (s.pooling != Pooling::none) read_last(i, s.pooling == Pooling::mean ? s.rows : 1);
  }
  reads_all_ = read_rows_ == rows_;
  for (int32_t row = 0; row < read_rows_; ++row) reads_all_ = reads_all_ && index[row] == row;
  if (!reads_all_) read_work_ = put_plan(read_plan_, reads_, read_tables_);
}

// [sequences, longest] behind each other; the device has them blocks_max apart.
void StepArrays::fill_tables(const StepBatch& batch) {
  table_rows_ = static_cast<int32_t>(batch.sequences.size());
  table_blocks_ = 0;
  const auto blocks_of = [](const StepSequence& s) { return (s.kv_tokens + kBlockTokens - 1) / kBlockTokens; };
  for (const StepSequence& s : batch.sequences) table_blocks_ = std::max(table_blocks_, blocks_of(s));
  int32_t* table = host(tables_);
  for (const StepSequence& s : batch.sequences) {
    std::copy_n(s.block_table.begin(), blocks_of(s), table);
    table += table_blocks_;
  }
}

AttentionWork StepArrays::put_plan(Plan& plan, std::span<const StepSequence> sequences, const std::vector<int32_t>& tables) {
  plan.planner.plan(sequences);
  const auto items = plan.planner.items();
  const auto merges = plan.planner.merges();
  auto* out = host<AttentionItem>(plan.items);
  for (const AttentionItem& item : items) {
    *out = item;
    out->sequence = tables[static_cast<size_t>(item.sequence)];
    ++out;
  }
  std::copy(merges.begin(), merges.end(), host<MergeItem>(plan.merges));
  *host(plan.item_count) = static_cast<int32_t>(items.size());
  *host(plan.merge_count) = static_cast<int32_t>(merges.size());
  return work_of(plan, static_cast<int32_t>(items.size()), static_cast<int32_t>(merges.size()), plan.planner.decodes(),
                 plan.planner.chunks());
}

AttentionWork StepArrays::work_of(const Plan& plan, int32_t items, int32_t merges, bool decodes,
                                  bool chunks) const {
  return {device<AttentionItem>(plan.items), device(plan.item_count),  items,   device<MergeItem>(plan.merges),
          device(plan.merge_count),          merges,                   decodes, chunks};
}

void StepArrays::upload(const Stream& stream) const {
  copy_to_device(stream, memory_, staging_->data(), fixed_bytes_);
  const size_t width = static_cast<size_t>(table_blocks_) * sizeof(int32_t);
  check(cudaMemcpy2DAsync(memory_ + tables_.at, static_cast<size_t>(shape_.blocks) * sizeof(int32_t), host(tables_), width,
                          width, static_cast<size_t>(table_rows_), cudaMemcpyHostToDevice, stream),
        "copy of block tables");
}

DeviceBatch StepArrays::batch() const {
  return {.token_ids = device(token_ids_),
          .positions = device(positions_),
          .row_sequence = device(row_sequence_),
          .block_tables = device(tables_),
          .blocks_max = shape_.blocks,
          .rows = rows_};
}

}  // namespace penstock::cuda
