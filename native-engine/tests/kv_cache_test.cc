// Layout of the paged cache: every tile has a place of its own inside the pool.
#include <gtest/gtest.h>

#include <set>

#include "kv/cache.h"

namespace penstock {
namespace {

TEST(KvCache, TilesAreDisjointAndFillThePool) {
  const KvShape shape{3, 4, 2, 8, KvType::f16};
  KvCache cache(shape);
  EXPECT_EQ(shape.tile_bytes(), 16 * 8 * 2);
  EXPECT_EQ(shape.bytes_total(), 3 * 4 * 2 * 2 * shape.tile_bytes());
  EXPECT_EQ(shape.bytes_per_token(), 3 * 2 * 2 * 8 * 2);
  std::set<int64_t> offsets;
  const std::byte* start = cache.tile(0, 0, 0);
  for (int32_t layer = 0; layer < 3; ++layer) {
    for (int32_t block = 0; block < 4; ++block) {
      for (int32_t head = 0; head < 2; ++head) {
        offsets.insert(cache.tile(layer, block, head) - start);
        offsets.insert(cache.tile(layer, block, head) + cache.v_offset_bytes() - start);
      }
    }
  }
  ASSERT_EQ(offsets.size(), 48u);
  int64_t expected = 0;
  for (int64_t offset : offsets) {
    EXPECT_EQ(offset, expected);
    expected += shape.tile_bytes();
  }
  EXPECT_EQ(expected, shape.bytes_total());
}

TEST(KvCache, QuantisedTilesTakeAByteForAValueAndAScaleForABlock) {
  const KvShape shape{30, 4, 3, 64, KvType::q8_0};
  EXPECT_EQ(shape.tile_bytes(), 16 * (64 + 2 * 2));
  EXPECT_EQ(shape.bytes_per_token(), 30 * 3 * 2 * 68);
  EXPECT_TRUE(kv_type_fits(KvType::q8_0, 96));
  EXPECT_FALSE(kv_type_fits(KvType::q8_0, 80));
  EXPECT_TRUE(kv_type_fits(KvType::f16, 8));
}

TEST(KvCache, LayoutNamesDifferWheneverBytesWouldMeanSomethingElse) {
  const KvShape base{3, 4, 2, 8, KvType::f16};
  std::set<std::string> names{base.layout_name()};
  for (const KvShape& other : {KvShape{2, 4, 2, 8, KvType::f16}, KvShape{3, 4, 1, 8, KvType::f16},
                               KvShape{3, 4, 2, 16, KvType::f16}, KvShape{3, 4, 2, 8, KvType::f32},
                               KvShape{3, 4, 2, 32, KvType::f16}, KvShape{3, 4, 2, 32, KvType::q8_0}}) {
    names.insert(other.layout_name());
  }
  EXPECT_EQ(names.size(), 7u);
  // The size of the pool is each engine's own affair.
  EXPECT_EQ((KvShape{3, 9, 2, 8, KvType::f16}).layout_name(), base.layout_name());
}

TEST(KvCache, ARefusedReservationIsBadAlloc) {
  const KvShape huge{1024, 1 << 27, 1024, 1024, KvType::f32};
  EXPECT_THROW(PageMemory(int64_t{1} << 60), std::bad_alloc);
  EXPECT_GT(huge.bytes_per_token(), 0);
}

}  // namespace
}  // namespace penstock
