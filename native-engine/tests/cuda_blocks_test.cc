// Whole blocks to and from one contiguous buffer and from block to block, with nothing else touched.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_arrays.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {
namespace {

using testing::DeviceArray;
using testing::same_in_every_order;

struct Case {
  KvType type;
  int32_t layers, blocks_total, kv_heads, head_dim;
};
// The smallest block there is, one that is no multiple of a thread block's share, and some larger than it.
constexpr Case kCases[] = {{KvType::f16, 3, 9, 1, 8},
                           {KvType::q8_0, 2, 7, 3, 32},
                           {KvType::bf16, 2, 6, 2, 40},
                           {KvType::q8_0, 1, 5, 8, 128},
                           {KvType::f16, 2, 5, 5, 128}};

class Cache {
 public:
  explicit Cache(const Case& c)
      : case_(c), block_bytes_(2 * c.kv_heads * kv_tile_bytes(c.type, c.head_dim)), device_(bytes()) {
    std::mt19937 random(9);
    host_.resize(bytes());
    for (std::byte& byte : host_) byte = static_cast<std::byte>(random());
    device_.write(host_);
  }
  DeviceKv kv() const {
    return {device_.data(), case_.type, case_.blocks_total, case_.kv_heads, case_.head_dim, block_bytes_};
  }
  size_t block_bytes() const { return static_cast<size_t>(block_bytes_); }
  const std::vector<std::byte>& before() const { return host_; }
  std::vector<std::byte> after() const { return device_.read(); }
  auto at(int32_t layer, int32_t block) const {
    return static_cast<std::ptrdiff_t>((int64_t{layer} * case_.blocks_total + block) * block_bytes_);
  }

 private:
  size_t bytes() const { return static_cast<size_t>(case_.layers * case_.blocks_total * block_bytes_); }
  Case case_;
  int64_t block_bytes_;
  DeviceArray<std::byte> device_;
  std::vector<std::byte> host_;
};

TEST(CudaBlocks, GathersAndScattersWholeBlocksOfEveryLayer) {
  std::mt19937 random(10);
  for (const Case& c : kCases) {
    std::vector<int32_t> blocks(static_cast<size_t>(c.blocks_total));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), random);
    blocks.resize(blocks.size() / 2);
    const auto count = static_cast<int32_t>(blocks.size());
    const DeviceArray<int32_t> device_blocks(blocks);
    EXPECT_TRUE(same_in_every_order([&] {
      const Cache source(c), target(c);
      const size_t piece = source.block_bytes();
      DeviceArray<std::byte> packed(blocks.size() * static_cast<size_t>(c.layers) * piece);
      gather_blocks(nullptr, source.kv(), c.layers, device_blocks.data(), count, packed.data());
      auto bytes = packed.read();
      for (int32_t i = 0; i < count; ++i) {
        for (int32_t layer = 0; layer < c.layers; ++layer) {
          const auto from = source.before().begin() + source.at(layer, blocks[static_cast<size_t>(i)]);
          EXPECT_TRUE(std::equal(from, from + static_cast<std::ptrdiff_t>(piece),
                                 bytes.begin() + static_cast<std::ptrdiff_t>((i * c.layers + layer) * piece)));
        }
      }
      for (std::byte& byte : bytes) byte ^= std::byte{0xA5};
      packed.write(bytes);
      scatter_blocks(nullptr, target.kv(), c.layers, device_blocks.data(), count, packed.data());
      auto expected = target.before();
      for (int32_t block : blocks) {
        for (int32_t layer = 0; layer < c.layers; ++layer) {
          const auto to = expected.begin() + target.at(layer, block);
          std::for_each(to, to + static_cast<std::ptrdiff_t>(piece), [](std::byte& byte) { byte ^= std::byte{0xA5}; });
        }
      }
      const auto after = target.after();
      EXPECT_EQ(after, expected);
      return after;
    }));
  }
}

TEST(CudaBlocks, CopiesBlocksWithinTheCacheAndTouchesNoOther) {
  for (const Case& c : kCases) {
    const std::vector<int32_t> source{3, 0}, target{1, 4};
    const DeviceArray<int32_t> device_source(source), device_target(target);
    EXPECT_TRUE(same_in_every_order([&] {
      const Cache cache(c);
      copy_blocks(nullptr, cache.kv(), c.layers, device_source.data(), device_target.data(), 2);
      auto expected = cache.before();
      for (size_t i = 0; i < source.size(); ++i) {
        for (int32_t layer = 0; layer < c.layers; ++layer) {
          const auto from = cache.before().begin() + cache.at(layer, source[i]);
          std::copy(from, from + static_cast<std::ptrdiff_t>(cache.block_bytes()),
                    expected.begin() + cache.at(layer, target[i]));
        }
      }
      const auto after = cache.after();
      EXPECT_EQ(after, expected);
      return after;
    }));
  }
}

TEST(CudaBlocks, NoBlocksAreNoWork) {
  const Cache cache(kCases[0]);
  gather_blocks(nullptr, cache.kv(), 3, nullptr, 0, nullptr);
  scatter_blocks(nullptr, cache.kv(), 3, nullptr, 0, nullptr);
  copy_blocks(nullptr, cache.kv(), 3, nullptr, nullptr, 0);
  EXPECT_EQ(cache.after(), cache.before());
}

}  // namespace
}  // namespace penstock::cuda
