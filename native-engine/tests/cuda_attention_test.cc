// Attention on the device: against a softmax in double over what is stored, over shapes around blocks, steps, segments
// and windows; and a row's bits against the same row in other company, in other chunks and cut otherwise.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda_arrays.h"
#include "cuda_kv_tiles.h"
#include "ops/cuda/attention_plan.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {
namespace {

using testing::DeviceArray;
using testing::kDeviceKvTypes;
using testing::KvLayout;
using testing::same_in_every_order;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kLayer = 1;
constexpr int32_t kGapFloats = 4;  // between rows of q, so that the stride is used

std::vector<float> normals(size_t count, std::mt19937& random, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

int32_t pick(std::mt19937& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1));
}

struct Model {
  KvType type;
  int32_t head_dim, heads, kv_heads, window;

  std::string name() const {
    return std::string(kv_type_name(type)) + " head_dim " + std::to_string(head_dim) + " heads " +
           std::to_string(heads) + "/" + std::to_string(kv_heads) + " window " + std::to_string(window);
  }
};

// Rows of one sequence in a step.
struct Share {
  int32_t sequence, position, rows;
};

// How the work is cut; no result depends on it.
struct Cut {
  int32_t blocks_wanted = 1;
  int32_t partial_rows_max = 4096;
};

// A query as the kernels multiply it: rounded after it was multiplied by log2(e).
double as_operand(KvType type, float q) {
  const float scaled = q * 1.44269504088896340736f;
  const float rounded =
      type == KvType::bf16 ? testing::from_bfloat(testing::to_bfloat(scaled)) : half_to_float(float_to_half(scaled));
  return rounded / 1.44269504088896340736;
}

// Contexts of several sequences in scattered blocks of one cache. What nobody stored is NaN.
class Contexts {
 public:
  Contexts(const Model& model, const std::vector<int32_t>& tokens, uint_fast32_t seed, float q_scale = 0.3f)
      : model_(model), layout_{model.type, 2, 0, model.kv_heads, model.head_dim} {
    std::mt19937 random(seed);
    for (int32_t count : tokens) blocks_max_ = std::max(blocks_max_, (count + kBlockTokens - 1) / kBlockTokens);
    layout_.blocks_total = static_cast<int32_t>(tokens.size()) * blocks_max_ + 2;
    std::vector<int32_t> blocks(static_cast<size_t>(layout_.blocks_total));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), random);
    cache_.assign(layout_.bytes(), std::byte{0xFF});
    tables_.assign(tokens.size() * static_cast<size_t>(blocks_max_), -1);
    for (size_t sequence = 0; sequence < tokens.size(); ++sequence) {
      const int32_t used = (tokens[sequence] + kBlockTokens - 1) / kBlockTokens;
      for (int32_t i = 0; i < used; ++i) {
        tables_[sequence * static_cast<size_t>(blocks_max_) + static_cast<size_t>(i)] = blocks.back();
        blocks.pop_back();
      }
      q_.push_back(normals(static_cast<size_t>(tokens[sequence]) * static_cast<size_t>(q_dim()), random, q_scale));
      for (int32_t position = 0; position < tokens[sequence]; ++position) {
        for (int32_t head = 0; head < model.kv_heads; ++head) {
          const auto index = static_cast<int32_t>(sequence);
          set(index, position, head, false, normals(static_cast<size_t>(model.head_dim), random));
          set(index, position, head, true, normals(static_cast<size_t>(model.head_dim), random));
        }
      }
    }
  }

  int32_t q_dim() const { return model_.heads * model_.head_dim; }
  const std::vector<float>& q(int32_t sequence) const { return q_[static_cast<size_t>(sequence)]; }
  std::vector<float>& q(int32_t sequence) { return q_[static_cast<size_t>(sequence)]; }
  std::vector<int32_t>& tables() { return tables_; }

  void set(int32_t sequence, int32_t position, int32_t head, bool is_v, const std::vector<float>& x) {
    testing::store_kv_values(model_.type, model_.head_dim, cache_.data() + tile(sequence, position, head, is_v),
                             position % kBlockTokens, x.data());
  }
  // As the products read it: q8_0 is multiplied out in f16.
  double get(int32_t sequence, int32_t position, int32_t head, bool is_v, int32_t dim) const {
    const float value =
        testing::kv_value(model_.type, model_.head_dim, cache_.data() + tile(sequence, position, head, is_v),
                          position % kBlockTokens, dim);
    return model_.type == KvType::q8_0 ? half_to_float(float_to_half(value)) : value;
  }

  // out [rows of all shares, q_dim]
  std::vector<float> run(const std::vector<Share>& shares, const Cut& cut = {}) const {
    std::vector<StepSequence> sequences;
    std::vector<int32_t> tables;
    std::vector<float> q;
    int32_t rows = 0;
    for (const Share& share : shares) {
      StepSequence sequence{};
      sequence.first_row = rows;
      sequence.rows = share.rows;
      sequence.kv_tokens = share.position + share.rows;
      sequences.push_back(sequence);
      const auto row = tables_.begin() + int64_t{share.sequence} * blocks_max_;
      tables.insert(tables.end(), row, row + blocks_max_);
      for (int32_t i = 0; i < share.rows; ++i) {
        const auto from = this->q(share.sequence).begin() + int64_t{share.position + i} * q_dim();
        q.insert(q.end(), from, from + q_dim());
        q.resize(q.size() + kGapFloats, kNaN);
      }
      rows += share.rows;
    }
    const int32_t group = model_.heads / model_.kv_heads;
    const AttentionPlanLimits limits{
        items_needed(rows, static_cast<int32_t>(shares.size()), group, model_.head_dim) + 40, 60, cut.partial_rows_max};
    AttentionPlanner planner({model_.heads, model_.kv_heads, model_.head_dim, model_.window, cut.blocks_wanted},
                             limits);
    planner.plan(sequences);

    // Two entries more than there are: the buffers of a graph are as large as their bucket, and hold what was there
    // before.
    std::vector<AttentionItem> items(planner.items().begin(), planner.items().end());
    std::vector<MergeItem> merges(planner.merges().begin(), planner.merges().end());
    const DeviceArray<int32_t> counts(
        std::vector<int32_t>{static_cast<int32_t>(items.size()), static_cast<int32_t>(merges.size())});
    items.resize(items.size() + 2, AttentionItem{-1, -1, 1 << 20, -1, 0, 1 << 20, -1});
    merges.resize(merges.size() + 2, MergeItem{-1, -1, 1 << 20, -1});
    const DeviceArray<AttentionItem> device_items(items);
    const DeviceArray<MergeItem> device_merges(merges);
    const DeviceArray<int32_t> device_tables(tables);
    const DeviceArray<float> device_q(q);
    const DeviceArray<float> partials(static_cast<size_t>(planner.partial_rows()) * static_cast<size_t>(model_.heads) *
                                      static_cast<size_t>(softmax_floats(model_.head_dim)));
    const DeviceArray<float> out(static_cast<size_t>(rows) * static_cast<size_t>(q_dim()));
    const DeviceArray<std::byte> cache(cache_);
    AttentionArgs args{};
    args.q = device_q.data();
    args.q_stride = q_dim() + kGapFloats;
    args.heads = model_.heads;
    args.window_tokens = model_.window;
    args.layer = kLayer;
    args.items = device_items.data();
    args.item_count = counts.data();
    args.items_max = static_cast<int32_t>(items.size());
    args.merges = device_merges.data();
    args.merge_count = counts.data() + 1;
    args.merges_max = static_cast<int32_t>(merges.size());
    args.decodes = planner.decodes();
    args.chunks = planner.chunks();
    args.partials = partials.data();
    args.out = out.data();
    const DeviceBatch batch{nullptr, nullptr, nullptr, device_tables.data(), blocks_max_, rows};
    attention(nullptr, batch, layout_.on_device(cache.data()), args);
    return out.read();
  }

  // One row and head in double, and what rounding its weights to the operands' type may change.
  void expect_row(const float* out, int32_t sequence, int32_t position, int32_t head) const {
    const int32_t kv_head = head / (model_.heads / model_.kv_heads);
    const float* q = this->q(sequence).data() + int64_t{position} * q_dim() + int64_t{head} * model_.head_dim;
    const int32_t first = first_visible(position, model_.window);
    std::vector<double> weights;
    for (int32_t p = first; p <= position; ++p) {
      double score = 0;
      for (int32_t i = 0; i < model_.head_dim; ++i)
        score += as_operand(model_.type, q[i]) * get(sequence, p, kv_head, false, i);
      weights.push_back(score);
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    const double eps = model_.type == KvType::bf16 ? 1.0 / 256 : 1.0 / 2048;
    for (int32_t i = 0; i < model_.head_dim; ++i) {
      double value = 0, magnitude = 0;
      for (int32_t p = first; p <= position; ++p) {
        const double term = weights[static_cast<size_t>(p - first)] / sum * get(sequence, p, kv_head, true, i);
        value += term;
        magnitude += std::fabs(term);
      }
      // A score's rounding in f32 grows with the scores and comes out as a relative error of its weight.
      const double tolerance = (eps + 1e-6 * std::fabs(largest)) * magnitude + 1e-6;
      ASSERT_NEAR(out[i], value, tolerance)
          << model_.name() << " position " << position << " head " << head << " dim " << i;
    }
  }

 private:
  size_t tile(int32_t sequence, int32_t position, int32_t head, bool is_v) const {
    const int32_t block = tables_[static_cast<size_t>(sequence * blocks_max_ + position / kBlockTokens)];
    return layout_.tile(kLayer, block, head, is_v);
  }

  Model model_;
  KvLayout layout_;
  int32_t blocks_max_ = 0;
  std::vector<std::byte> cache_;
  std::vector<int32_t> tables_;        // [sequences, blocks_max]
  std::vector<std::vector<float>> q_;  // [tokens, q_dim] of each sequence
};

// The first, the last and a row between of a chunk at the end of a context, one head each.
void expect_chunk(const Model& model, int32_t position, int32_t rows, const Cut& cut, uint_fast32_t seed,
                  float q_scale = 0.3f) {
  const Contexts contexts(model, {position + rows}, seed, q_scale);
  const auto out = contexts.run({{0, position, rows}}, cut);
  std::mt19937 random(seed);
  for (int32_t row : {0, rows / 2, rows - 1}) {
    const int32_t head = pick(random, 0, model.heads - 1);
    const auto at = static_cast<size_t>(int64_t{row} * contexts.q_dim() + int64_t{head} * model.head_dim);
    contexts.expect_row(out.data() + at, 0, position + row, head);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(CudaAttention, MatchesASoftmaxInDoubleForEveryHeadSizeAndGroup) {
  const int32_t positions[] = {0, 1, 15, 16, 17, 31, 32, 100, 255, 256, 300};
  std::mt19937 random(15);
  for (KvType type : kDeviceKvTypes) {
    for (int32_t head_dim : {8, 32, 40, 64, 80, 96, 128, 160, 256}) {
      if (!kv_type_fits(type, head_dim)) continue;
      for (int32_t group : {1, 2, 3, 8}) {
        const int32_t kv_heads = pick(random, 1, 2);
        for (int32_t rows : {1, pick(random, 2, 40)}) {
          expect_chunk({type, head_dim, group * kv_heads, kv_heads, 0}, positions[random() % std::size(positions)],
                       rows, {pick(random, 1, 8)}, random());
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(CudaAttention, MatchesASoftmaxInDoubleAroundBlocksSegmentsAndWindows) {
  std::mt19937 random(16);
  for (KvType type : kDeviceKvTypes) {
    for (int32_t window : {0, 1, 2, 15, 16, 17, 31, 33, 100, 256, 257, 300}) {
      for (int32_t position : {0, 10, 250, 256, 500, 770}) {
        const int32_t rows = position == 250 ? 40 : pick(random, 1, 7);
        expect_chunk({type, 32, pick(random, 1, 5), 1, window}, position, rows, {pick(random, 1, 4)}, random());
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Weights from 2^0 down to nothing.
TEST(CudaAttention, MatchesASoftmaxInDoubleForScoresFarApart) {
  for (KvType type : kDeviceKvTypes) {
    for (float q_scale : {1e-4f, 3.0f, 30.0f}) {
      expect_chunk({type, 64, 6, 2, 0}, 290, 4, {4}, 17, q_scale);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CudaAttention, GroupsLargerThanATileAreSeveralBlocksOfQueries) {
  for (int32_t head_dim : {64, 256}) {
    expect_chunk({KvType::f16, head_dim, 71, 1, 0}, 300, 3, {1}, 18);
    expect_chunk({KvType::f16, head_dim, 34, 2, 0}, 300, 1, {16}, 19);
    if (HasFatalFailure()) return;
  }
}

// The promise behind caching, chunking and preemption: every row by itself, in random chunks, in the company of other
// sequences, and with its context cut at other places.
TEST(CudaAttention, ARowHasTheSameBitsInAnyChunkCompanyAndCut) {
  std::mt19937 random(20);
  for (int32_t round = 0; round < 8; ++round) {
    const KvType type = kDeviceKvTypes[round % 3];
    const int32_t dims[] = {32, 64, 96, 128, 256, 40};
    int32_t head_dim = dims[random() % std::size(dims)];
    if (!kv_type_fits(type, head_dim)) head_dim = 160;
    const int32_t kv_heads = pick(random, 1, 2);
    const Model model{type, head_dim, kv_heads * pick(random, 1, 5), kv_heads,
                      round % 2 == 0 ? 0 : pick(random, 1, 300)};
    const std::vector<int32_t> tokens{pick(random, 200, 340), pick(random, 1, 300), pick(random, 250, 300)};
    const Contexts contexts(model, tokens, random());
    const auto row_floats = static_cast<size_t>(contexts.q_dim());
    const int32_t begin = tokens[0] - pick(random, 60, 120);  // the rows before are the cached prefix
    const auto whole = contexts.run({{0, begin, tokens[0] - begin}});
    const auto expect_rows = [&](const std::vector<float>& out, size_t row, int32_t position, int32_t rows,
                                 const char* what) {
      ASSERT_EQ(0, std::memcmp(whole.data() + static_cast<size_t>(position - begin) * row_floats,
                               out.data() + row * row_floats, static_cast<size_t>(rows) * row_floats * 4))
          << what << " " << model.name() << " position " << position << " rows " << rows << " round " << round;
    };
    for (int32_t position = begin, rows = 0; position < tokens[0]; position += rows) {
      rows = std::min(pick(random, 1, round % 4 == 0 ? 9 : 70), tokens[0] - position);
      const Cut cut{pick(random, 1, 20), pick(random, 0, 300)};
      if (random() % 2 == 0) {
        expect_rows(contexts.run({{0, position, rows}}, cut), 0, position, rows, "alone");
      } else {
        const auto mixed = contexts.run({{1, tokens[1] - 1, 1}, {0, position, rows}, {2, tokens[2] - 20, 20}}, cut);
        expect_rows(mixed, 1, position, rows, "in company");
      }
      if (HasFatalFailure()) return;
    }
  }
}

// Items of one, two and more segments, of rows that begin in one segment and end in the next.
TEST(CudaAttention, AContextCutAnywhereGivesTheSameBits) {
  for (int32_t window : {0, 600}) {
    const Contexts contexts({KvType::f16, 32, 3, 1, window}, {1290}, 25);
    for (int32_t rows : {1, 5, 20}) {
      for (int32_t position : {1290 - rows, 1275}) {
        if (position + rows > 1290) continue;
        const auto whole = contexts.run({{0, position, rows}}, {1});
        // Of chunks a quarter as many are wanted.
        const int32_t decode_blocks = rows * 3 > kDecodeQueries ? 4 : 1;
        for (int32_t blocks_wanted = 2 * decode_blocks; blocks_wanted < 8 * decode_blocks; blocks_wanted += decode_blocks) {
          const auto cut = contexts.run({{0, position, rows}}, {blocks_wanted});
          ASSERT_EQ(0, std::memcmp(whole.data(), cut.data(), whole.size() * 4))
              << "window " << window << " rows " << rows << " position " << position << " cut " << blocks_wanted;
        }
      }
    }
  }
}

TEST(CudaAttention, GivesTheSameBitsInEveryOrder) {
  for (KvType type : kDeviceKvTypes) {
    for (int32_t head_dim : {32, 64, 96, 128, 256}) {
      const Contexts contexts({type, head_dim, 6, 2, head_dim == 96 ? 70 : 0}, {290, 40}, 21);
      EXPECT_TRUE(same_in_every_order([&] {
        return contexts.run({{0, 289, 1}, {1, 5, 35}}, {8});
      })) << kv_type_name(type)
          << " " << head_dim;
    }
  }
}

// A block keeps what an earlier sequence wrote behind the end of this one. A K that is NaN, which is also how a V is
// stored that cannot be, reaches the rows that see it, all of their dimensions, and no others.
TEST(CudaAttention, NaNReachesExactlyTheRowsThatSeeIt) {
  for (KvType type : kDeviceKvTypes) {
    for (int32_t window : {0, 6}) {
      for (int32_t head_dim : {64, 256}) {
        for (int32_t bad : {3, 290}) {
          const Model model{type, head_dim, 4, 2, window};
          Contexts contexts(model, {310}, 22);
          contexts.set(0, bad, 0, false, std::vector<float>(static_cast<size_t>(head_dim), kNaN));
          contexts.set(0, bad, 0, true, std::vector<float>(static_cast<size_t>(head_dim), 0.0f));
          const int32_t first = bad == 3 ? 0 : 280;
          for (int32_t rows : {20, 1}) {
            const auto out = contexts.run({{0, first, rows}}, {rows == 1 ? 8 : 1});
            for (size_t i = 0; i < out.size(); ++i) {
              const auto position = first + static_cast<int32_t>(i) / contexts.q_dim();
              const int32_t kv_head = static_cast<int32_t>(i) % contexts.q_dim() / (2 * head_dim);
              const bool sees = kv_head == 0 && position >= bad && first_visible(position, window) <= bad;
              ASSERT_EQ(std::isnan(out[i]), sees) << model.name() << " bad " << bad << " position " << position;
            }
          }
        }
      }
    }
  }
}

TEST(CudaAttention, ABrokenQueryBreaksItsHeadAlone) {
  for (int32_t rows : {1, 30}) {
    Contexts contexts({KvType::f16, 64, 4, 2, 0}, {300}, 23);
    const int32_t position = 300 - rows;
    contexts.q(0)[static_cast<size_t>(position * contexts.q_dim() + 2 * 64 + 9)] = kNaN;
    const auto out = contexts.run({{0, position, rows}}, {8});
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 64 == 2) << rows << " " << i;
  }
}

// Blocks that have left every window may belong to others already.
TEST(CudaAttention, NeverReadsABlockThatNoRowSees) {
  for (KvType type : kDeviceKvTypes) {
    for (int32_t rows : {1, 30}) {
      const Model model{type, 64, 4, 2, 40};
      Contexts contexts(model, {600}, 24);
      const auto expected = contexts.run({{0, 600 - rows, rows}}, {8});
      const int32_t first = first_visible(600 - rows, 40) / kBlockTokens;
      std::fill_n(contexts.tables().begin(), first, 1 << 28);
      EXPECT_EQ(0,
                std::memcmp(expected.data(), contexts.run({{0, 600 - rows, rows}}, {8}).data(), expected.size() * 4));
    }
  }
}

TEST(CudaAttention, RefusesShapesThatNoKernelTakes) {
  const DeviceBatch batch{};
  AttentionArgs args{};
  args.heads = 6;
  args.q_stride = 6 * 64;
  args.decodes = true;
  const KvLayout fits{KvType::f16, 1, 1, 2, 64};
  EXPECT_NO_THROW(attention(nullptr, batch, fits.on_device(nullptr), args));
  for (const KvLayout& layout :
       {KvLayout{KvType::f32, 1, 1, 2, 64}, KvLayout{KvType::f16, 1, 1, 2, 264}, KvLayout{KvType::f16, 1, 1, 2, 12},
        KvLayout{KvType::q8_0, 1, 1, 2, 40}, KvLayout{KvType::f16, 1, 1, 4, 64}}) {
    EXPECT_THROW(attention(nullptr, batch, layout.on_device(nullptr), args), std::logic_error);
  }
  args.heads = 40;  // which without chunks nobody would compute
  EXPECT_THROW(attention(nullptr, batch, fits.on_device(nullptr), args), std::logic_error);
  args.heads = 6;
  args.decodes = false;
  EXPECT_THROW(attention(nullptr, batch, fits.on_device(nullptr), args), std::logic_error);
  args.decodes = true;
  args.q_stride = 385;
  EXPECT_THROW(attention(nullptr, batch, fits.on_device(nullptr), args), std::logic_error);
}

}  // namespace
}  // namespace penstock::cuda
