// Attention over the paged cache: every implementation against a softmax in double over a grid of shapes, and a row's
// bits against the same row computed in other company.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "ops/half.h"
#include "ops/memory.h"
#include "ops/ops.h"

namespace penstock {
namespace {

constexpr KvType kKvTypes[] = {KvType::f16, KvType::f32, KvType::q8_0};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<const Kernels*> tables() {
  std::vector<const Kernels*> all{&reference_kernels()};
  if (avx2_kernels() != nullptr) all.push_back(avx2_kernels());
  return all;
}

std::vector<float> normals(size_t count, std::mt19937& random, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

int32_t pick(std::mt19937& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1));
}

// What the cache gives back for the values of one token, by the definition of the type.
std::vector<double> as_stored(KvType type, const float* x, int32_t head_dim) {
  std::vector<double> stored(static_cast<size_t>(head_dim));
  for (int32_t i = 0; i < head_dim; ++i) {
    double& value = stored[static_cast<size_t>(i)];
    if (type == KvType::f32) value = x[i];
    if (type == KvType::f16) value = half_to_float(float_to_half(x[i]));
    if (type != KvType::q8_0) continue;
    const float* block = x + i / kKvQuantBlock * kKvQuantBlock;
    float largest = 0;
    for (int32_t j = 0; j < kKvQuantBlock; ++j) largest = std::max(largest, std::fabs(block[j]));
    const float d = half_to_float(float_to_half(largest / 127.0f));
    value = d > 0 ? double{d} * std::clamp(std::nearbyint(x[i] / d), -127.0f, 127.0f) : 0.0;
  }
  return stored;
}

// One sequence's K and V of one KV head in scattered blocks; other heads and blocks hold NaN.
class Context {
 public:
  Context(const Kernels& kernels, KvType type, int32_t head_dim, int32_t tokens, std::mt19937& random)
      : kernels_(kernels),
        blocks_((tokens + kBlockTokens - 1) / kBlockTokens),
        cache_({2, blocks_ + 3, 2, head_dim, type}),
        table_(static_cast<size_t>(blocks_ + 3)),
        keys_(normals(static_cast<size_t>(tokens) * head_dim, random)),
        values_(normals(static_cast<size_t>(tokens) * head_dim, random)) {
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), random);
    const std::vector<float> nan(static_cast<size_t>(head_dim), kNaN);
    for (int32_t position = 0; position < (blocks_ + 3) * kBlockTokens; ++position) {
      if (position < tokens) {
        store(position, keys_.data() + int64_t{position} * head_dim, values_.data() + int64_t{position} * head_dim);
      } else {
        store(position, nan.data(), nan.data());
      }
    }
  }

  void store(int32_t position, const float* k, const float* v) {
    std::byte* tile = cache_.tile(1, table_[static_cast<size_t>(position / kBlockTokens)], 1);
    kernels_.store_kv(cache_.shape().type, cache_.shape().head_dim, position % kBlockTokens, k, v, tile,
                      tile + cache_.v_offset_bytes());
  }

  const float* key(int32_t position) const { return keys_.data() + int64_t{position} * cache_.shape().head_dim; }
  const float* value(int32_t position) const { return values_.data() + int64_t{position} * cache_.shape().head_dim; }

  // Rows at `position` and behind it, over all that they see.
  AttentionArgs args(const std::vector<float>& q, int32_t rows, int32_t position, int32_t group, int32_t window) {
    return {.q = q.data(),
            .q_stride = group * cache_.shape().head_dim,
            .rows = rows,
            .position = position,
            .group = group,
            .head_dim = cache_.shape().head_dim,
            .window_tokens = window,
            .segment_begin = first_visible(position, window) / kSegmentTokens,
            .segment_end = (position + rows - 1) / kSegmentTokens + 1,
            .kv_type = cache_.shape().type,
            .k_base = cache_.tile(1, 0, 1),
            .block_stride_bytes = cache_.shape().block_bytes(),
            .v_offset_bytes = cache_.v_offset_bytes(),
            .block_table = table_.data(),
            .next_k_base = nullptr};
  }

 private:
  const Kernels& kernels_;
  int32_t blocks_;
  KvCache cache_;
  std::vector<int32_t> table_;
  std::vector<float> keys_;    // [tokens, head_dim]
  std::vector<float> values_;  // [tokens, head_dim]
};

std::vector<float> attend(const Kernels& kernels, const AttentionArgs& args) {
  std::vector<float> states(static_cast<size_t>(args.rows * args.group * softmax_floats(args.head_dim)), -7.0f);
  const PageMemory scratch(kernels.attend_scratch_bytes(args.head_dim));
  kernels.attend(args, scratch.data(), states.data());
  return states;
}

std::vector<float> finish(const Kernels& kernels, const std::vector<float>& states, int32_t head_dim) {
  const size_t heads = states.size() / static_cast<size_t>(softmax_floats(head_dim));
  std::vector<float> out(heads * static_cast<size_t>(head_dim));
  for (size_t i = 0; i < heads; ++i) {
    kernels.finish_softmax(states.data() + i * static_cast<size_t>(softmax_floats(head_dim)), head_dim,
                           out.data() + i * static_cast<size_t>(head_dim));
  }
  return out;
}

// Attention in double over what is stored. q [head_dim] of the row at `position`.
std::vector<double> direct(const Context& context, KvType type, const float* q, int32_t head_dim, int32_t position,
                           int32_t window) {
  const int32_t begin = window > 0 ? std::max(0, position - window + 1) : 0;
  std::vector<double> scores;
  for (int32_t p = begin; p <= position; ++p) {
    const auto key = as_stored(type, context.key(p), head_dim);
    double score = 0;
    for (int32_t i = 0; i < head_dim; ++i) score += double{q[i]} * key[static_cast<size_t>(i)];
    scores.push_back(score);
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  std::vector<double> out(static_cast<size_t>(head_dim), 0.0);
  for (int32_t p = begin; p <= position; ++p) {
    const double weight = std::exp(scores[static_cast<size_t>(p - begin)] - largest);
    sum += weight;
    const auto value = as_stored(type, context.value(p), head_dim);
    for (size_t i = 0; i < out.size(); ++i) out[i] += weight * value[i];
  }
  for (double& value : out) value /= sum;
  return out;
}

struct Shape {
  KvType type;
  int32_t head_dim, group, rows, position, window;
};

std::string describe(const Kernels& kernels, const Shape& s) {
  return std::string(kernels.name) + " " + kv_type_name(s.type) + " head_dim " + std::to_string(s.head_dim) +
         " group " + std::to_string(s.group) + " rows " + std::to_string(s.rows) + " at " +
         std::to_string(s.position) + " window " + std::to_string(s.window);
}

// Rows at the last positions of a context, checked at the first, the last and one row between them.
void expect_direct(const Kernels& kernels, const Shape& s, std::mt19937& random, float q_scale) {
  Context context(kernels, s.type, s.head_dim, s.position + s.rows, random);
  const auto q = normals(static_cast<size_t>(s.rows * s.group * s.head_dim), random, q_scale);
  const auto out = finish(kernels, attend(kernels, context.args(q, s.rows, s.position, s.group, s.window)), s.head_dim);
  for (int32_t row : {0, s.rows / 2, s.rows - 1}) {
    const int32_t head = pick(random, 0, s.group - 1);
    const int64_t at = (int64_t{row} * s.group + head) * s.head_dim;
    const auto expected = direct(context, s.type, q.data() + at, s.head_dim, s.position + row, s.window);
    for (int32_t i = 0; i < s.head_dim; ++i) {
      const double value = expected[static_cast<size_t>(i)];
      // A score's rounding grows with the scores and comes out as a relative error of its weight.
      const double tolerance = 2e-5 * std::max(1.0, double{q_scale} * std::sqrt(double(s.head_dim)) / 4);
      ASSERT_NEAR(out[static_cast<size_t>(at + i)], value, tolerance * (1 + std::fabs(value)))
          << describe(kernels, s) << " row " << row << " head " << head << " dim " << i;
    }
  }
}

TEST(Attention, MatchesASoftmaxInDoubleForEveryHeadSizeAndGroup) {
  std::mt19937 random(15);
  const int32_t positions[] = {0, 1, 14, 15, 16, 17, 31, 100, 240, 254, 255, 256, 257, 300, 511, 512};
  for (const Kernels* kernels : tables()) {
    for (KvType type : kKvTypes) {
      for (int32_t head_dim : {8, 16, 24, 32, 40, 64, 80, 96, 128, 256}) {
        if (!kv_type_fits(type, head_dim)) continue;
        for (int32_t group = 1; group <= 8; ++group) {
          const int32_t rows = group % 2 == 0 ? 1 : pick(random, 2, 9);
          const int32_t position = positions[random() % std::size(positions)];
          expect_direct(*kernels, {type, head_dim, group, rows, position, 0}, random, 0.3f);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Attention, MatchesASoftmaxInDoubleAroundSegmentsBlocksAndWindows) {
  std::mt19937 random(16);
  for (const Kernels* kernels : tables()) {
    for (KvType type : kKvTypes) {
      for (int32_t window : {0, 1, 2, 15, 16, 17, 100, 256, 257, 300}) {
        for (int32_t position : {0, 10, 250, 256, 500, 770}) {
          const int32_t rows = position == 250 ? 40 : pick(random, 1, 7);
          expect_direct(*kernels, {type, 32, pick(random, 1, 5), rows, position, window}, random, 0.3f);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Weights from e^0 down to nothing: the exponential at all of its range.
TEST(Attention, MatchesASoftmaxInDoubleForScoresFarApart) {
  std::mt19937 random(17);
  for (const Kernels* kernels : tables()) {
    for (KvType type : kKvTypes) {
      for (float q_scale : {1e-20f, 3.0f, 30.0f}) {
        expect_direct(*kernels, {type, 64, 3, 4, 290, 0}, random, q_scale);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// The promise behind caching, chunking and preemption.
TEST(Attention, ARowHasTheSameBitsAloneInATileAndMergedFromSegments) {
  std::mt19937 random(18);
  for (const Kernels* kernels : tables()) {
    for (int32_t round = 0; round < 60; ++round) {
      Shape s{};
      s.type = kKvTypes[round % 3];
      s.head_dim = s.type == KvType::q8_0 ? 32 * pick(random, 1, 3) : 8 * pick(random, 1, 9);
      s.group = pick(random, 1, 8);
      s.rows = pick(random, 1, round % 4 == 0 ? 60 : 12);
      s.position = pick(random, 0, 600);
      s.window = round % 3 == 0 ? pick(random, 1, 400) : 0;
      Context context(*kernels, s.type, s.head_dim, s.position + s.rows, random);
      const auto q = normals(static_cast<size_t>(s.rows * s.group * s.head_dim), random, 0.3f);
      const int32_t row_floats = s.group * softmax_floats(s.head_dim);
      const auto together = attend(*kernels, context.args(q, s.rows, s.position, s.group, s.window));

      for (int32_t row = 0; row < s.rows; row += pick(random, 1, 5)) {
        const std::vector<float> own(q.begin() + int64_t{row} * s.group * s.head_dim,
                                     q.begin() + int64_t{row + 1} * s.group * s.head_dim);
        const AttentionArgs args = context.args(own, 1, s.position + row, s.group, s.window);
        const auto alone = attend(*kernels, args);
        ASSERT_EQ(0, std::memcmp(alone.data(), together.data() + int64_t{row} * row_floats, alone.size() * 4))
            << describe(*kernels, s) << " row " << row;

        // Segments the row does not see are empty and merge as if they were not there.
        std::vector<float> merged;
        for (int32_t segment = std::max(0, args.segment_begin - 1); segment <= args.segment_end; ++segment) {
          AttentionArgs part = args;
          part.segment_begin = segment;
          part.segment_end = segment + 1;
          auto partial = attend(*kernels, part);
          if (merged.empty()) {
            merged = std::move(partial);
            continue;
          }
          for (int32_t at = 0; at < row_floats; at += softmax_floats(s.head_dim)) {
            kernels->merge_softmax(partial.data() + at, s.head_dim, merged.data() + at);
          }
        }
        ASSERT_EQ(0, std::memcmp(alone.data(), merged.data(), alone.size() * 4))
            << describe(*kernels, s) << " row " << row;
      }
    }
  }
}

TEST(Attention, StoresTheSameBytesInEveryImplementation) {
  std::mt19937 random(19);
  const float specials[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 6e-8f, 1e-6f, 0.5f, 65504.0f, -65520.0f, 8e6f, -3e38f};
  for (const Kernels* kernels : tables()) {
    for (KvType type : kKvTypes) {
      for (int32_t head_dim : {8, 24, 32, 64, 96}) {
        if (!kv_type_fits(type, head_dim)) continue;
        const auto bytes = static_cast<size_t>(kv_tile_bytes(type, head_dim));
        std::vector<std::byte> plain(2 * bytes), fast(2 * bytes);
        for (int32_t token = 0; token < kBlockTokens; ++token) {
          auto k = normals(static_cast<size_t>(head_dim), random, token < 8 ? 1.0f : 1e-6f);
          auto v = normals(static_cast<size_t>(head_dim), random, 100.0f);
          if (token % 3 == 0) k[random() % k.size()] = specials[random() % std::size(specials)];
          if (token % 3 == 1) std::fill(v.begin(), v.end(), specials[random() % std::size(specials)]);
          reference_kernels().store_kv(type, head_dim, token, k.data(), v.data(), plain.data(), plain.data() + bytes);
          kernels->store_kv(type, head_dim, token, k.data(), v.data(), fast.data(), fast.data() + bytes);
        }
        EXPECT_EQ(plain, fast) << kernels->name << " " << kv_type_name(type) << " " << head_dim;
      }
    }
  }
}

// A value that is not finite, or beyond what the scale reaches, may not turn into a plausible one.
TEST(Attention, AQuantisedBlockThatCannotBeStoredIsNaNAndNothingElse) {
  for (const Kernels* kernels : tables()) {
    for (float bad : {kNaN, kInfinity, -kInfinity, 1e7f}) {
      std::mt19937 random(20);
      Context context(*kernels, KvType::q8_0, 64, 3, random);
      std::vector<float> value(context.value(1), context.value(1) + 64);
      value[40] = bad;
      context.store(1, context.key(1), value.data());
      const std::vector<float> q(64, 0.1f);
      const auto before = finish(*kernels, attend(*kernels, context.args(q, 1, 0, 1, 0)), 64);
      const auto after = finish(*kernels, attend(*kernels, context.args(q, 1, 2, 1, 0)), 64);
      for (size_t i = 0; i < 64; ++i) {
        EXPECT_TRUE(std::isfinite(before[i]));
        EXPECT_EQ(std::isnan(after[i]), i >= 32) << kernels->name << " " << bad << " dim " << i;
      }
    }
  }
}

// A block keeps what an earlier sequence wrote behind the end of this one, and a tile's later rows may be broken: NaN
// reaches the rows that see it, all of their dimensions, and no others.
TEST(Attention, NaNReachesExactlyTheRowsThatSeeIt) {
  std::mt19937 random(21);
  for (const Kernels* kernels : tables()) {
    for (KvType type : kKvTypes) {
      for (int32_t window : {0, 6}) {
        for (int32_t position : {3, 250}) {
          const int32_t head_dim = 32, rows = 20, group = 3, bad = position + 7;
          Context context(*kernels, type, head_dim, position + rows, random);
          const auto q = normals(size_t{rows} * group * head_dim, random, 0.3f);
          const AttentionArgs args = context.args(q, rows, position, group, window);
          const auto clean = attend(*kernels, args);
          const std::vector<float> nan(head_dim, kNaN);
          context.store(bad, nan.data(), nan.data());
          const auto states = attend(*kernels, args);
          const auto out = finish(*kernels, states, head_dim);
          const int32_t row_floats = group * softmax_floats(head_dim);
          for (int32_t row = 0; row < rows; ++row) {
            const int32_t at = position + row;
            const bool sees = bad <= at && bad >= first_visible(at, window);
            for (int32_t i = 0; sees && i < group * head_dim; ++i) {
              ASSERT_TRUE(std::isnan(out[static_cast<size_t>(row * group * head_dim + i)])) << kernels->name;
            }
            if (!sees) {
              ASSERT_EQ(0, std::memcmp(clean.data() + row * row_floats, states.data() + row * row_floats,
                                       static_cast<size_t>(row_floats) * 4))
                  << kernels->name << " " << kv_type_name(type) << " row " << row << " window " << window;
            }
          }
        }
      }
    }
  }
}

TEST(Attention, ABrokenQueryStaysInItsHead) {
  std::mt19937 random(22);
  for (const Kernels* kernels : tables()) {
    const int32_t head_dim = 40, rows = 9, group = 5;
    Context context(*kernels, KvType::f16, head_dim, 300, random);
    auto q = normals(size_t{rows} * group * head_dim, random, 0.3f);
    const auto clean = attend(*kernels, context.args(q, rows, 291, group, 0));
    const int32_t broken = 4 * group + 2;
    q[static_cast<size_t>(broken * head_dim + 3)] = kNaN;
    const auto states = attend(*kernels, context.args(q, rows, 291, group, 0));
    const auto out = finish(*kernels, states, head_dim);
    const int32_t floats = softmax_floats(head_dim);
    for (int32_t head = 0; head < rows * group; ++head) {
      if (head == broken) {
        for (int32_t i = 0; i < head_dim; ++i) {
          EXPECT_TRUE(std::isnan(out[static_cast<size_t>(head * head_dim + i)])) << kernels->name;
        }
      } else {
        EXPECT_EQ(0, std::memcmp(clean.data() + head * floats, states.data() + head * floats,
                                 static_cast<size_t>(floats) * 4));
      }
    }
  }
}

TEST(Attention, MergingSurvivesEmptyParts) {
  for (const Kernels* kernels : tables()) {
    std::vector<float> empty(softmax_floats(8), 0.0f), full(softmax_floats(8), -0.0f);
    empty[0] = -kInfinity;
    full[0] = 2.0f;
    full[1] = 3.0f;
    full[5] = 6.0f;
    auto into = empty;
    kernels->merge_softmax(empty.data(), 8, into.data());
    EXPECT_EQ(0, std::memcmp(into.data(), empty.data(), into.size() * 4)) << kernels->name;
    kernels->merge_softmax(full.data(), 8, into.data());
    EXPECT_EQ(0, std::memcmp(into.data(), full.data(), into.size() * 4)) << kernels->name;
    kernels->merge_softmax(empty.data(), 8, into.data());
    EXPECT_EQ(0, std::memcmp(into.data(), full.data(), into.size() * 4)) << kernels->name;
  }
}

// Normalised mean squared error of the output against KV in f32. Half a step of q8_0 is 0.4 % of a block's largest
// value, of f16 0.05 % of the value itself.
TEST(Attention, StoredTypesLoseNoMoreThanTheirStep) {
  for (const Kernels* kernels : tables()) {
    for (int32_t tokens : {1, 40, 700}) {
      const auto output = [&](KvType type) {
        std::mt19937 random(23);
        Context context(*kernels, type, 64, tokens, random);
        const auto q = normals(3 * 64, random, 0.2f);
        return finish(*kernels, attend(*kernels, context.args(q, 1, tokens - 1, 3, 0)), 64);
      };
      const auto exact = output(KvType::f32);
      for (KvType type : {KvType::f16, KvType::q8_0}) {
        const auto stored = output(type);
        double error = 0, magnitude = 0;
        for (size_t i = 0; i < exact.size(); ++i) {
          error += std::pow(double{stored[i]} - exact[i], 2);
          magnitude += std::pow(double{exact[i]}, 2);
        }
        EXPECT_GT(error, 0);
        EXPECT_LT(error / magnitude, type == KvType::f16 ? 1e-6 : 2e-4) << kernels->name << " " << tokens;
      }
    }
  }
}

}  // namespace
}  // namespace penstock
