// PagedAttention: the same rows give the same bits in any batch, on any number of threads, and agree with the reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "model/attention.h"
#include "ops/ops.h"
#include "ops/thread_pool.h"

namespace penstock {
namespace {

constexpr KvType kKvTypes[] = {KvType::f16, KvType::f32, KvType::q8_0};
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<float> normals(size_t count, std::mt19937& random, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

Config attention_config(int32_t window) {
  Config config{};
  config.heads = 6;
  config.kv_heads = 2;
  config.head_dim = 32;
  config.window_tokens = window;
  config.context_tokens = 2100;
  return config;
}

struct Share {
  int32_t sequence, rows, position;
};

class Batches {
 public:
  Batches(const Kernels& kernels, const Config& config, KvType type)
      : kernels_(kernels), config_(config), cache_({1, 3 * kBlocks, config.kv_heads, config.head_dim, type}) {
    std::mt19937 random(24);
    std::vector<int32_t> blocks(3 * kBlocks);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (int32_t i = 0; i < 3; ++i) {
      tables_.emplace_back(blocks.begin() + i * kBlocks, blocks.begin() + (i + 1) * kBlocks);
      q_.push_back(normals(size_t{kBlocks} * kBlockTokens * static_cast<size_t>(config.q_dim()), random, 0.3f));
    }
    for (int32_t block = 0; block < 3 * kBlocks; ++block) {
      for (int32_t head = 0; head < config.kv_heads; ++head) {
        for (int32_t token = 0; token < kBlockTokens; ++token) {
          const auto kv = normals(2 * static_cast<size_t>(config.head_dim), random);
          std::byte* tile = cache_.tile(0, block, head);
          kernels.store_kv(type, config.head_dim, token, kv.data(), kv.data() + config.head_dim, tile,
                           tile + cache_.v_offset_bytes());
        }
      }
    }
  }

  // [rows of all shares, q_dim]
  std::vector<float> run(int32_t threads, const std::vector<Share>& shares) {
    std::vector<int32_t> ids, positions;
    std::vector<StepSequence> sequences;
    std::vector<float> q;
    const auto q_dim = static_cast<int64_t>(config_.q_dim());
    for (const Share& share : shares) {
      StepSequence sequence{};
      sequence.first_row = static_cast<int32_t>(ids.size());
      sequence.rows = share.rows;
      sequence.kv_tokens = share.position + share.rows;
      sequence.block_table = tables_[static_cast<size_t>(share.sequence)];
      sequences.push_back(sequence);
      for (int32_t i = 0; i < share.rows; ++i) {
        ids.push_back(0);
        positions.push_back(share.position + i);
      }
      const auto& own = q_[static_cast<size_t>(share.sequence)];
      q.insert(q.end(), own.begin() + share.position * q_dim, own.begin() + (share.position + share.rows) * q_dim);
    }
    ThreadPool pool(threads);
    Parallel parallel(pool);
    PagedAttention attention(config_, kernels_, threads, 512);
    attention.plan({ids, positions, sequences});
    std::vector<float> out(q.size(), kNaN);
    attention.run(cache_, 0, q.data(), out.data(), parallel);
    return out;
  }

 private:
  static constexpr int32_t kBlocks = 2080 / kBlockTokens;  // of one sequence
  const Kernels& kernels_;
  Config config_;
  KvCache cache_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<std::vector<float>> q_;  // [tokens, q_dim] of each sequence
};

TEST(PagedAttention, ARowsBitsDependNeitherOnTheBatchNorOnTheThreads) {
  for (KvType type : kKvTypes) {
    for (int32_t window : {0, 700}) {
      const Config config = attention_config(window);
      Batches batches(choose_kernels(KernelChoice::automatic), config, type);
      const auto expect_rows = [&](const std::vector<float>& expected, const std::vector<float>& out, int64_t row,
                                   const std::string& what) {
        EXPECT_EQ(0, std::memcmp(expected.data(), out.data() + row * config.q_dim(), expected.size() * 4))
            << what << " " << kv_type_name(type) << " window " << window;
      };
      const auto decode = batches.run(1, {{0, 1, 2000}});
      const auto chunk = batches.run(1, {{1, 100, 1000}});
      const auto last = batches.run(1, {{1, 1, 1099}});
      EXPECT_EQ(0, std::memcmp(last.data(), chunk.data() + 99 * config.q_dim(), last.size() * 4));
      for (int32_t threads : {2, 3, 8}) {
        const std::string what = std::to_string(threads) + " threads";
        expect_rows(decode, batches.run(threads, {{0, 1, 2000}}), 0, what + ", a split row");
        expect_rows(chunk, batches.run(threads, {{1, 100, 1000}}), 0, what + ", split tiles");
        const auto mixed = batches.run(threads, {{2, 33, 0}, {0, 1, 2000}, {1, 100, 1000}, {2, 1, 40}});
        expect_rows(decode, mixed, 33, what + ", a row in a mixed batch");
        expect_rows(chunk, mixed, 34, what + ", a chunk in a mixed batch");
        const auto wide = batches.run(threads, {{2, 301, 5}, {1, 141, 960}});
        expect_rows(last, wide, 301 + 139, what + ", a row of a wide chunk");
      }
    }
  }
}

TEST(PagedAttention, AgreesWithTheReferenceOnAMixedBatch) {
  for (KvType type : kKvTypes) {
    for (int32_t window : {0, 100}) {
      const Config config = attention_config(window);
      const std::vector<Share> shares{{0, 1, 900}, {1, 40, 240}, {2, 1, 0}};
      const auto plain = Batches(reference_kernels(), config, type).run(1, shares);
      const auto fast = Batches(choose_kernels(KernelChoice::automatic), config, type).run(2, shares);
      ASSERT_EQ(plain.size(), fast.size());
      for (size_t i = 0; i < plain.size(); ++i) {
        ASSERT_NEAR(plain[i], fast[i], 2e-5f * (1 + std::fabs(plain[i]))) << kv_type_name(type) << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace penstock
