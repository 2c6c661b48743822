// A step as arrays on the device. Owns their place, their pinned counterparts, and how a StepBatch becomes numbers in them. Two of
// these exist: a large one for steps with prompts, a small one for steps that only decode, whose addresses are in graphs.
//
// Behind the last layer's keys and values only rows matter whose final states somebody reads. They are numbered anew: first the
// last row of each sequence that samples, in order, so that their logits lie behind each other; then the rows that are pooled.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/batch.h"
#include "model/batch_check.h"
#include "model/config.h"
#include "ops/cuda/attention_plan.h"
#include "ops/cuda/device.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

// What one call of attention() works on, all of it on the device.
struct AttentionWork {
  const AttentionItem* items;
  const int32_t* item_count;
  int32_t items_max;
  const MergeItem* merges;
  const int32_t* merge_count;
  int32_t merges_max;
  bool decodes;
  bool chunks;
};

class StepArrays {
 public:
  struct Shape {
    int32_t rows;       // of a batch
    int32_t read_rows;  // of the last layer
    int32_t sequences;
    int32_t blocks;  // of one sequence
    AttentionPlanShape attention;
  };

  // Rows of partial softmaxes that plans of this shape may use.
  static int32_t partial_rows_max(const Shape& shape);

  // Takes its memory from the pool; without memory there it is of no use.
  StepArrays(DevicePool& pool, const Shape& shape);

  // `batch` keeps the promises of batch.h and fits the shape.
  void fill(const StepBatch& batch);
  // Every sequence has one row, and all of them sample: then fill_decode() leaves nothing to the host that differs between two
  // such batches of one bucket.
  static bool is_decode(const StepBatch& batch);
  // As fill(), with rows that are not live up to `bucket`.
  void fill_decode(const StepBatch& batch, int32_t bucket);
  // As after fill_decode() of any batch: for capture.
  void shape_decode(int32_t bucket);
  void upload(const Stream& stream) const;

  int32_t rows() const { return rows_; }
  int32_t read_rows() const { return read_rows_; }
  int32_t sampled_rows() const { return sampled_rows_; }
  // The rows that are read are those of the batch, in order.
  bool reads_all() const { return reads_all_; }
  DeviceBatch batch() const;
  AttentionWork work() const { return work_; }
  // In the last layer.
  AttentionWork read_work() const { return reads_all_ ? work_ : read_work_; }
  const int32_t* read_index() const { return device(read_index_); }  // [read_rows] rows of the batch

 private:
  // A place in both memories.
  struct Place {
    int64_t at;
  };
  struct Plan {
    Place item_count, items, merge_count, merges;
    AttentionPlanner planner;
  };

  Place reserve(int64_t bytes);
  template <class T = int32_t>
  T* host(Place place) const {
    return reinterpret_cast<T*>(staging_->data() + place.at);
  }
  template <class T = int32_t>
  const T* device(Place place) const {
    return reinterpret_cast<const T*>(memory_ + place.at);
  }
  Plan make_plan(int32_t rows);
  void fill_rows(const StepBatch& batch);
  void fill_reads(const StepBatch& batch);
  void fill_tables(const StepBatch& batch);
  AttentionWork put_plan(Plan& plan, std::span<const StepSequence> sequences, const std::vector<int32_t>& tables);
  AttentionWork work_of(const Plan& plan, int32_t items, int32_t merges, bool decodes, bool chunks) const;

  Shape shape_;
  int64_t bytes_ = 0;
  Place token_ids_, positions_, row_sequence_, read_index_;
  Plan plan_, read_plan_;
  int64_t fixed_bytes_;  // everything but the tables
  Place tables_;
  std::byte* memory_;
  std::unique_ptr<PinnedMemory> staging_;

  int32_t rows_ = 0;
  int32_t read_rows_ = 0;
  int32_t sampled_rows_ = 0;
  bool reads_all_ = true;
  int32_t table_rows_ = 0;   // of the batch
  int32_t table_blocks_ = 0;  // of its longest sequence
  AttentionWork work_{};
  AttentionWork read_work_{};
  std::vector<StepSequence> reads_;   // scratch: sequences as the last layer has them
  std::vector<int32_t> read_tables_;  // whose block table each of them has
  std::vector<int32_t> tables_in_order_;
};

}  // namespace penstock::cuda
