// Models of noise for measurements. Goal: what a measurement is said to be of is what it was taken of, also where the file was there
// before.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "model/load.h"
#include "synthetic_model.h"
#include "test_files.h"

namespace penstock::bench {
namespace {

using penstock::testing::TempFile;

class SyntheticModel : public ::testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Every, SyntheticModel,
                         ::testing::Values(TensorType::f16, TensorType::q8_0, TensorType::q4_0, TensorType::q4_k),
                         [](const auto& each) { return std::string(tensor_type_facts(each.param).name); });

TEST_P(SyntheticModel, IsKnownAgainAndLoads) {
  const TempFile file(std::vector<uint8_t>{});
  const auto bytes = write_synthetic_model(file.path(), synthetic_shape("tiny"), GetParam());
  EXPECT_EQ(static_cast<int64_t>(std::filesystem::file_size(file.path())), bytes);
  EXPECT_TRUE(is_synthetic_model(file.path(), synthetic_shape("tiny"), GetParam()));
  LoadOptions options;
  options.path = file.path();
  options.threads = 1;
  options.blocks_total = 8;
  EXPECT_EQ(load_model(options)->info().vocab_size, 512);
}

TEST_P(SyntheticModel, IsNotTakenForAnotherNorForAWholeOne) {
  const TempFile file(std::vector<uint8_t>{});
  const TensorType other = GetParam() == TensorType::q8_0 ? TensorType::q4_0 : TensorType::q8_0;
  EXPECT_FALSE(is_synthetic_model(file.path(), synthetic_shape("tiny"), GetParam())) << "an empty file";
  const auto bytes = write_synthetic_model(file.path(), synthetic_shape("tiny"), GetParam());
  EXPECT_FALSE(is_synthetic_model(file.path(), synthetic_shape("tiny"), other));
  EXPECT_FALSE(is_synthetic_model(file.path(), synthetic_shape("1b"), GetParam()));
  EXPECT_FALSE(is_synthetic_model(file.path() + ".none", synthetic_shape("tiny"), GetParam()));
  // Written by somebody who was stopped.
  std::filesystem::resize_file(file.path(), static_cast<uintmax_t>(bytes) - 1);
  EXPECT_FALSE(is_synthetic_model(file.path(), synthetic_shape("tiny"), GetParam()));
}

TEST(SyntheticModels, OfTheSameLengthIsKnownByItsHead) {
  const TempFile file(std::vector<uint8_t>{});
  SyntheticShape shape = synthetic_shape("tiny");
  write_synthetic_model(file.path(), shape, TensorType::q8_0);
  shape.heads *= 2;
  shape.kv_heads *= 2;
  shape.head_dim /= 2;  // matrices of the same sizes
  EXPECT_FALSE(is_synthetic_model(file.path(), shape, TensorType::q8_0));
}

}  // namespace
}  // namespace penstock::bench
