// Blocks that are told layer by layer while they are being filled. Goal: nothing is read before it is told, what has arrived is what
// was there when it was told, and a transfer that ends between two groups of layers leaves nothing that counts.
#include <gtest/gtest.h>

#include <random>

#include "kv/layer_groups.h"
#include "kv_transport.h"

namespace penstock {
namespace {

using namespace penstock::testing;
using namespace std::chrono_literals;

constexpr std::byte kUnfilled{0xdd};
constexpr int32_t kLayers = 5;

std::vector<int32_t> shuffled(int32_t total, size_t count, std::mt19937& random) {
  std::vector<int32_t> ids(static_cast<size_t>(total));
  for (int32_t i = 0; i < total; ++i) ids[static_cast<size_t>(i)] = i;
  std::shuffle(ids.begin(), ids.end(), random);
  ids.resize(count);
  return ids;
}

class Layers : public TransportTest {
 protected:
  void SetUp() override {
    for (int32_t id = 0; id < filling.view.blocks_total; ++id) filling.fill(id, kUnfilled);
    receive();
    make_sender();
  }
  void make_sender() {
    sender.reset();
    sender = std::make_unique<KvSender>(filling.view, kFingerprint, [this](uint64_t id, bool arrived, const std::string& error) {
      sent.note(id, {arrived, error});
    });
  }
  void begin(const TransferGrant& grant, std::vector<int32_t> target_blocks) {
    table.open(grant, kContent, std::move(target_blocks));
    sender->begin(push(1, grant));
  }
  // As a step does it.
  void fill(std::span<const int32_t> blocks, LayerSpan layers) {
    for (const int32_t block : blocks) {
      for (int32_t layer = layers.first; layer < layers.end(); ++layer) {
        const auto from = source.view.at(layer, block);
        std::copy(from.begin(), from.end(), filling.view.at(layer, block).begin());
      }
    }
  }
  void fill_and_tell(uint32_t first, std::span<const int32_t> blocks, LayerSpan layers) {
    fill(blocks, layers);
    sender->extend(1, first, blocks, layers);
  }
  // Whether or not the sender was let in by then.
  void expect_lost(uint64_t id) {
    if (!table.close(id)) receiver->look();
    else if (!received.now(id).has_value()) return;
    EXPECT_FALSE(received.wait(id).good);
  }

  // What the sender reads from: blocks of `source`, as far as they are filled.
  TransferPool filling{kLayers, 20, 15'000, 3};
};

TEST_P(Layers, ArriveAsTheyWereWhenTheyWereTold) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto pick = [&](size_t low, size_t high) { return low + random() % (high - low + 1); };
  for (uint64_t generation = 1; generation <= 12; ++generation) {
    for (int32_t id = 0; id < 20; ++id) filling.fill(id, kUnfilled);
    for (int32_t id = 0; id < 24; ++id) target.fill(id, std::byte{0});
    const size_t count = pick(1, 20);
    const auto from = shuffled(20, count, random), to = shuffled(24, count, random);
    begin(grant_of(1, generation), to);
    // Steps that fill some blocks each: told when it is over, or layer by layer, some of which wait for each other in the sender.
    for (size_t done = 0; done < count;) {
      const auto blocks = std::span(from).subspan(done, std::min(count - done, pick(1, 8)));
      if (random() % 4 == 0) {
        fill(blocks, {0, kLayers});
        sender->extend(1, blocks);
      } else {
        for (int32_t layer = 0; layer < kLayers;) {
          const auto layers = static_cast<int32_t>(pick(1, static_cast<size_t>(kLayers - layer)));
          fill_and_tell(static_cast<uint32_t>(done), blocks, {layer, layers});
          layer += layers;
          if (random() % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
        }
      }
      done += blocks.size();
    }
    sender->finish(1);
    EXPECT_TRUE(sent.wait(1).good);
    EXPECT_TRUE(received.wait(1).good);
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(target.block(to[i]), source.block(from[i])) << "block " << i << " of " << count;
  }
}

TEST_P(Layers, OfTwoStepsAtATimeMayComeInAnyOrder) {
  const std::vector<int32_t> first = {0, 1}, second = {2, 3, 4};
  begin(grant_of(1), {9, 8, 7, 6, 5});
  fill_and_tell(2, second, {3, 2});
  fill_and_tell(0, first, {0, 2});
  fill_and_tell(2, second, {0, 3});
  fill_and_tell(0, first, {2, 3});
  sender->finish(1);
  EXPECT_TRUE(sent.wait(1).good);
  EXPECT_TRUE(received.wait(1).good);
  for (int32_t i = 0; i < 5; ++i) EXPECT_EQ(target.block(9 - i), source.block(i));
}

TEST_P(Layers, ThatAreMissingOrToldTwiceAreNotTheWhole) {
  const std::vector<int32_t> blocks = {0, 1, 2};
  uint64_t generation = 0;
  const auto error_of = [&](auto tell) {
    begin(grant_of(1, ++generation), {1, 2, 3});
    tell();
    sender->finish(1);
    EXPECT_FALSE(received.wait(1).good);
    return sent.wait(1).error;
  };
  EXPECT_EQ(error_of([&] { fill_and_tell(0, blocks, {0, 4}); }), "the receiver expects other blocks");
  EXPECT_EQ(error_of([&] {
              fill_and_tell(0, blocks, {0, 3});
              fill_and_tell(0, std::span(blocks).first(2), {3, 2});
            }),
            "the receiver expects other blocks");
  EXPECT_EQ(error_of([&] { fill_and_tell(1, std::span(blocks).subspan(1), {0, kLayers}); }), "the receiver expects other blocks");
  // What is said of a step that failed, and of the same blocks once more.
  EXPECT_EQ(error_of([&] {
              fill_and_tell(0, blocks, {0, 3});
              fill_and_tell(0, blocks, {0, kLayers});
            }),
            "the receiver does not understand");
}

TEST_P(Layers, LeaveNothingThatCountsWhereTheirTransferEndsBetweenThem) {
  const std::vector<int32_t> blocks = {0, 1, 2, 3};
  uint64_t generation = 0;
  for (int32_t told = 0; told <= kLayers; ++told) {
    for (const int way : {0, 1, 2}) {
      SCOPED_TRACE(std::to_string(told) + " layers were told, then way " + std::to_string(way));
      const TransferGrant grant = grant_of(1, ++generation);
      begin(grant, {1, 2, 3, 4});
      for (int32_t layer = 0; layer < told; ++layer) fill_and_tell(0, blocks, {layer, 1});
      if (generation % 2 == 0) std::this_thread::sleep_for(3ms);  // most often they are there by then
      if (way == 0) sender->stop(1);
      if (way == 1) make_sender();  // the engine that was there ends
      if (way == 2) {
        // The receiver lets go, and its blocks are somebody else's at once.
        const bool nobody_writes = table.close(1);
        if (!nobody_writes) {
          receiver->look();
          EXPECT_FALSE(received.wait(1).good);
        }
        for (const int32_t block : {1, 2, 3, 4}) target.fill(block, std::byte{42});
        for (int32_t layer = told; layer < kLayers; ++layer) fill_and_tell(0, blocks, {layer, 1});
        sender->finish(1);
        EXPECT_FALSE(sent.wait(1).good);
        for (const int32_t block : {1, 2, 3, 4})
          for (const std::byte byte : target.block(block)) ASSERT_EQ(byte, std::byte{42}) << "block " << block;
        continue;
      }
      EXPECT_FALSE(sent.wait(1).good);
      expect_lost(1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Over, Layers, ::testing::ValuesIn(kTransportKinds),
                         [](const auto& which) { return std::string(which.param.name); });

TEST(LayerGroups, AreAsManyAsTheirBytesAreWorth) {
  EXPECT_EQ(layers_per_group(0, 30), 30);
  EXPECT_EQ(layers_per_group(1, 1), 1);
  EXPECT_EQ(layers_per_group(kGroupCostBytes, 30), 30) << "one group costs as much as it saves";
  EXPECT_EQ(layers_per_group(4 * kGroupCostBytes, 30), 15);
  EXPECT_EQ(layers_per_group(9 * kGroupCostBytes, 32), 11) << "three groups, the last of them smaller";
  EXPECT_EQ(layers_per_group(INT64_MAX, 32), 1);
  // No other number of groups leaves less behind the step.
  for (const int64_t bytes : {int64_t{300'000}, int64_t{3} << 20, int64_t{16} << 20}) {
    const int32_t layers = 64;
    const auto left = [&](int32_t groups) {
      return static_cast<double>(bytes) / groups + static_cast<double>(groups) * static_cast<double>(kGroupCostBytes);
    };
    const int32_t chosen = layers / layers_per_group(bytes, layers);
    for (int32_t groups = 1; groups <= layers; ++groups) EXPECT_LE(left(chosen), left(groups) * 1.1) << groups;
  }
}

}  // namespace
}  // namespace penstock
