// The planner of attention: every segment that a row sees is some item's exactly once, whatever the batch and the
// bounds.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "ops/cuda/attention_plan.h"
#include "ops/ops.h"

namespace penstock::cuda {
namespace {

int32_t pick(std::mt19937& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1));
}

std::vector<StepSequence> batch_of(const std::vector<std::pair<int32_t, int32_t>>& rows_and_tokens) {
  std::vector<StepSequence> sequences;
  int32_t first_row = 0;
  for (const auto& [rows, kv_tokens] : rows_and_tokens) {
    StepSequence sequence{};
    sequence.first_row = first_row;
    sequence.rows = rows;
    sequence.kv_tokens = kv_tokens;
    sequences.push_back(sequence);
    first_row += rows;
  }
  return sequences;
}

// What must be true of every plan.
void expect_whole(const AttentionPlanner& planner, const AttentionPlanShape& shape, const AttentionPlanLimits& limits,
                  const std::vector<StepSequence>& sequences) {
  const int32_t group = shape.heads / shape.kv_heads;
  ASSERT_LE(static_cast<int32_t>(planner.items().size()), limits.items_max);
  ASSERT_LE(static_cast<int32_t>(planner.merges().size()), limits.merges_max);
  ASSERT_LE(planner.partial_rows(), limits.partial_rows_max);
  std::map<int32_t, std::map<int32_t, int32_t>>
      slots;  // of a row and segment: its partial, -1 for those merged at once
  std::set<int32_t> used;
  bool decodes = false;
  bool chunks = false;
  int32_t longest = 1 << 30;
  for (const AttentionItem& item : planner.items()) {
    ASSERT_LE(item.rows, item_rows_max(group, shape.head_dim));
    ASSERT_LT(item.segment_begin, item.segment_end);
    ASSERT_LE(item.segment_end - item.segment_begin, longest) << "the longest first";
    longest = item.segment_end - item.segment_begin;
    (item.rows * group > kDecodeQueries ? chunks : decodes) = true;
    const StepSequence& sequence = sequences[static_cast<size_t>(item.sequence)];
    ASSERT_GE(item.first_row, sequence.first_row);
    ASSERT_LE(item.first_row + item.rows, sequence.first_row + sequence.rows);
    ASSERT_EQ(item.position, sequence.kv_tokens - sequence.rows + item.first_row - sequence.first_row);
    for (int32_t segment = item.segment_begin; segment < item.segment_end; ++segment) {
      for (int32_t row = 0; row < item.rows; ++row) {
        const int32_t slot = item.partial < 0 ? -1 : item.partial + (segment - item.segment_begin) * item.rows + row;
        ASSERT_TRUE(slots[item.first_row + row].emplace(segment, slot).second) << "a segment twice";
        if (slot < 0) continue;
        ASSERT_LT(slot, planner.partial_rows());
        ASSERT_TRUE(used.insert(slot).second) << "a partial twice";
      }
    }
  }
  EXPECT_EQ(planner.decodes(), decodes);
  EXPECT_EQ(planner.chunks(), chunks);
  std::map<int32_t, MergeItem> merges;
  for (const MergeItem& merge : planner.merges()) ASSERT_TRUE(merges.emplace(merge.row, merge).second);
  for (const StepSequence& sequence : sequences) {
    for (int32_t i = 0; i < sequence.rows; ++i) {
      const int32_t row = sequence.first_row + i;
      const int32_t position = sequence.kv_tokens - sequence.rows + i;
      ASSERT_FALSE(slots[row].empty());
      // All that it sees; more only where a row of its tile does.
      ASSERT_LE(slots[row].begin()->first, first_visible(position, shape.window_tokens) / kSegmentTokens);
      ASSERT_GE(slots[row].rbegin()->first, position / kSegmentTokens);
      ASSERT_EQ(slots[row].rbegin()->first - slots[row].begin()->first + 1, static_cast<int32_t>(slots[row].size()));
      const auto merge = merges.find(row);
      ASSERT_EQ(merge != merges.end(), slots[row].begin()->second >= 0);
      if (merge == merges.end()) continue;
      ASSERT_EQ(merge->second.count, static_cast<int32_t>(slots[row].size()));
      int32_t slot = merge->second.partial;
      for (const auto& [segment, partial] : slots[row]) {
        ASSERT_EQ(partial, slot) << "row " << row << " segment " << segment;
        slot += merge->second.stride;
      }
    }
  }
}

TEST(CudaAttentionPlan, CoversEverySegmentOnceWithinItsBounds) {
  std::mt19937 random(30);
  for (int32_t round = 0; round < 400; ++round) {
    const int32_t kv_heads = pick(random, 1, 8);
    const int32_t heads = kv_heads * pick(random, 1, round % 10 == 0 ? 80 : 8);
    const AttentionPlanShape shape{heads, kv_heads, round % 3 == 0 ? 256 : 128,
                                   round % 2 == 0 ? 0 : pick(random, 1, 3000), pick(random, 0, 2000)};
    std::vector<std::pair<int32_t, int32_t>> shares;
    for (int32_t i = pick(random, 1, 20); i > 0; --i) {
      const int32_t rows = random() % 2 == 0 ? 1 : pick(random, 1, 200);
      shares.emplace_back(rows, rows + pick(random, 0, random() % 4 == 0 ? 20000 : 600));
    }
    const auto sequences = batch_of(shares);
    const int32_t rows = sequences.back().first_row + sequences.back().rows;
    const int32_t needed = items_needed(rows, static_cast<int32_t>(sequences.size()), heads / kv_heads, shape.head_dim);
    const AttentionPlanLimits limits{needed + pick(random, 0, 300), pick(random, 0, 300), pick(random, 0, 3000)};
    AttentionPlanner planner(shape, limits);
    planner.plan(sequences);
    expect_whole(planner, shape, limits, sequences);
    if (HasFatalFailure()) return;
  }
}

TEST(CudaAttentionPlan, SplitsALoneContextToItsSegmentsAndAFullBatchNotAtAll) {
  const AttentionPlanShape shape{32, 8, 128, 0, 1000};
  const AttentionPlanLimits limits{4096, 4096, 4096};
  AttentionPlanner planner(shape, limits);
  planner.plan(batch_of({{1, 20000}}));
  EXPECT_EQ(planner.items().size(), 79u);
  EXPECT_EQ(planner.merges().size(), 1u);
  planner.plan(batch_of(std::vector<std::pair<int32_t, int32_t>>(256, {1, 20000})));
  EXPECT_EQ(planner.items().size(), 256u);
  EXPECT_EQ(planner.merges().size(), 0u);
  EXPECT_TRUE(planner.decodes());
  EXPECT_FALSE(planner.chunks());
  // A long prompt's tiles are many.
  planner.plan(batch_of({{2048, 20000}}));
  EXPECT_EQ(planner.items().size(), 128u);
  EXPECT_FALSE(planner.decodes());
  EXPECT_TRUE(planner.chunks());
}

TEST(CudaAttentionPlan, SplitsChunksNoFurtherThanFillsTheDevice) {
  // 132 multiprocessors, of which each takes two blocks of chunks and eight that decode.
  AttentionPlanner planner({32, 8, 128, 0, 8 * 132}, {4096, 4096, 4096});
  for (const int32_t tokens : {512, 8192}) {
    planner.plan(batch_of({{512, tokens}}));
    EXPECT_EQ(planner.items().size(), 32u) << tokens;
    EXPECT_TRUE(planner.merges().empty());
  }
  planner.plan(batch_of({{16, 8192}}));
  EXPECT_EQ(planner.items().size(), 32u) << "one tile, of a segment each";
  planner.plan(batch_of({{64, 8192}}));
  EXPECT_EQ(planner.items().size(), 32u) << "four tiles";
  EXPECT_EQ(planner.merges().size(), 64u);
}

TEST(CudaAttentionPlan, SplitsLessWhereThereIsNoRoom) {
  const AttentionPlanShape shape{8, 8, 64, 0, 1 << 20};
  const auto sequences = batch_of({{1, 4096}, {1, 4096}, {1, 4096}});
  for (const AttentionPlanLimits& limits :
       {AttentionPlanLimits{18, 10, 1000}, AttentionPlanLimits{100, 1, 1000}, AttentionPlanLimits{100, 10, 31}}) {
    AttentionPlanner planner(shape, limits);
    planner.plan(sequences);
    EXPECT_EQ(planner.items().size(), 18u);
    EXPECT_EQ(planner.merges().size(), 1u);
    expect_whole(planner, shape, limits, sequences);
  }
  AttentionPlanner narrow(shape, {2, 0, 0});
  EXPECT_THROW(narrow.plan(sequences), std::logic_error);
}

TEST(CudaAttentionPlan, APlanIsReplacedInPlace) {
  AttentionPlanner planner({8, 2, 64, 0, 100}, {200, 50, 500});
  planner.plan(batch_of({{60, 3000}, {1, 900}}));
  const auto* items = planner.items().data();
  const auto* merges = planner.merges().data();
  planner.plan(batch_of({{1, 9000}, {1, 900}, {100, 100}}));
  EXPECT_EQ(planner.items().data(), items);
  EXPECT_EQ(planner.merges().data(), merges);
  planner.plan({});
  EXPECT_TRUE(planner.items().empty() && planner.merges().empty());
}

}  // namespace
}  // namespace penstock::cuda
