// The device's memory, errors and owners: what does not fit is refused at the start by a typed error, a device that is lost ends in
// another one, and a call that failed alone does not.
#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_arrays.h"
#include "cuda_models.h"
#include "kv/access.h"
#include "model/device_sampler.h"
#include "ops/cuda/device.h"
#include "ops/cuda/ops.h"

namespace penstock {
namespace {

using namespace penstock::testing;
using namespace penstock::cuda;

TEST(DevicePool, CountsWhatItWouldGiveAndGivesNoMoreThanItHas) {
  DevicePool counted;
  EXPECT_EQ(counted.take<float>(10), nullptr);
  EXPECT_EQ(counted.take_bytes(256), nullptr);
  EXPECT_EQ(counted.taken(), 512);
  const Stream stream;
  DevicePool pool(stream, counted.taken());
  const float* first = pool.take<float>(10);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % DevicePool::kAlignBytes, 0u);
  EXPECT_EQ(pool.take_bytes(256), reinterpret_cast<const std::byte*>(first) + 256);
  EXPECT_THROW(pool.take_bytes(1), std::logic_error);
}

std::string memory_refusal(const LoadOptions& options) {
  try {
    load_model(options);
  } catch (const DeviceMemoryShort& error) {
    return error.what();
  }
  return "";
}

TEST(DeviceMemory, IsRefusedAtTheStartWhereItDoesNotDo) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 41));
  LoadOptions options = device_options(file.path());
  options.device_bytes_max = 1 << 20;
  EXPECT_NE(memory_refusal(options).find("cuda:0"), std::string::npos) << memory_refusal(options);
  options.blocks_total.reset();
  options.device_bytes_max = 4096;
  EXPECT_NE(memory_refusal(options), "");
}

TEST(DeviceMemory, GivesKeysAndValuesWhatIsLeftOfTheBudget) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 41));
  LoadOptions options = device_options(file.path());
  options.blocks_total.reset();
  const auto blocks_with = [&](int64_t mib) {
    options.device_bytes_max = mib << 20;
    return load_model(options)->info().blocks_total;
  };
  const int32_t some = blocks_with(24), more = blocks_with(32);
  const int64_t block_bytes = load_model(options)->info().kv_bytes_per_token * kBlockTokens;
  EXPECT_GT(some, 0);
  // 8 MiB more, nearly all of them blocks.
  EXPECT_GT((more - some) * block_bytes, 7 << 20);
  EXPECT_LE((more - some) * block_bytes, 9 << 20);
}

TEST(DeviceBlocks, ComeAndGoAsTheyAreThroughTheProcessorsMemory) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 42));
  const auto runner = load_model(device_options(file.path()));
  const KvView kv = runner->kv();
  const std::vector<int32_t> from{7, 3, 60, 11, 5}, to{1, 2, 9, 8, 4};
  std::vector<std::byte> bytes(from.size() * static_cast<size_t>(kv.bytes_per_block()));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 251);
  kv.access->write(from, {0, kv.layers}, bytes);
  std::vector<std::byte> read(bytes.size());
  kv.access->read(from, {0, kv.layers}, read);
  EXPECT_EQ(read, bytes);
  kv.access->read(to, {0, kv.layers}, read);
  EXPECT_EQ(read, std::vector<std::byte>(bytes.size())) << "other blocks are untouched";
}

TEST(DeviceBlocks, ComeAndGoByLayers) {
  ModelShape shape = kSmallShape;
  shape.layers = 5;
  const TempFile file(random_model(shape, TensorType::q8_0, TensorType::q8_0, true, 42));
  LoadOptions options = device_options(file.path());
  options.blocks_total = 200;
  const auto runner = load_model(options);
  const KvView kv = runner->kv();
  // More blocks than are packed at once, however few their layers.
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < 150; ++i) blocks.push_back((i * 7 + 3) % 200);
  const auto bytes_of = [&](int32_t layers) { return blocks.size() * static_cast<size_t>(layers * kv.block_bytes); };
  const auto patch = [&](std::byte* at, size_t bytes, uint8_t seed) {
    for (size_t i = 0; i < bytes; ++i) at[i] = static_cast<std::byte>(i * 31 + i / 251 + seed);
  };
  std::vector<std::byte> all(bytes_of(5));
  patch(all.data(), all.size(), 0);
  kv.access->write(blocks, {0, 5}, all);
  for (const LayerSpan layers : {LayerSpan{0, 1}, LayerSpan{2, 2}, LayerSpan{4, 1}, LayerSpan{0, 5}, LayerSpan{1, 4}}) {
    std::vector<std::byte> part(bytes_of(layers.count));
    patch(part.data(), part.size(), static_cast<uint8_t>(7 * layers.first + layers.count));
    kv.access->write(blocks, layers, part);
    const auto block_bytes = static_cast<size_t>(kv.bytes_per_block()), span_bytes = static_cast<size_t>(layers.count * kv.block_bytes);
    for (size_t i = 0; i < blocks.size(); ++i)
      std::copy_n(part.begin() + static_cast<int64_t>(i * span_bytes), span_bytes,
                  all.begin() + static_cast<int64_t>(i * block_bytes) + layers.first * kv.block_bytes);
    std::vector<std::byte> read(all.size());
    kv.access->read(blocks, {0, 5}, read);
    EXPECT_EQ(read, all) << "layers from " << layers.first;
    std::vector<std::byte> again(part.size());
    kv.access->read(blocks, layers, again);
    EXPECT_EQ(again, part) << "layers from " << layers.first;
  }
}

// More transfers than there is pinned memory for.
TEST(DeviceBlocks, HaveStagingMemoryForEverybody) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 42));
  const auto runner = load_model(device_options(file.path()));
  std::vector<KvStaging> all;
  for (int i = 0; i < 20; ++i) {
    all.push_back(runner->kv().access->staging());
    ASSERT_GE(all.back().bytes().size(), static_cast<size_t>(runner->kv().bytes_per_block()));
    std::memset(all.back().bytes().data(), i, all.back().bytes().size());
  }
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].bytes().back(), static_cast<std::byte>(i));
}

TEST(ByteSum, IsThatOfTheWholeHoweverItIsCut) {
  using penstock::cuda::testing::DeviceArray;
  std::vector<uint64_t> words(70'001);
  for (size_t i = 0; i < words.size(); ++i) words[i] = i * 0x9E3779B97F4A7C15ull ^ (i << 40);
  uint64_t expected = 0;
  for (size_t i = 0; i < words.size(); ++i) {
    uint64_t x = words[i] + i * 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    expected += x ^ (x >> 31);
  }
  const DeviceArray<uint64_t> data(words);
  const auto sum_of = [&](const std::vector<int64_t>& cuts) {
    const DeviceArray<unsigned long long> sum(std::vector<unsigned long long>{0});
    for (size_t i = 0; i + 1 < cuts.size(); ++i)
      byte_sum(nullptr, reinterpret_cast<const std::byte*>(data.data() + cuts[i]), 8 * (cuts[i + 1] - cuts[i]), 8 * cuts[i],
               sum.data());
    return sum.read();
  };
  const auto all = static_cast<int64_t>(words.size());
  EXPECT_EQ(sum_of({0, all})[0], expected);
  EXPECT_EQ(sum_of({0, 1, 7, 4096, 4097, 65'536, all})[0], expected);
  EXPECT_TRUE(penstock::cuda::testing::same_in_every_order([&] { return sum_of({0, 5000, all}); }));
}

#if PENSTOCK_CUDA_EMULATED
TEST(DeviceErrors, OfADeviceThatIsLostEndTheRunner) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 43));
  const auto runner = load_model(device_options(file.path()));
  const auto tokens = some_ids(12, 1);
  const auto expected = logits_behind(*runner, tokens, 64);
  // Of one call alone: the step is lost, the next one is not.
  simt::fail_call(cudaErrorInvalidValue, 1);
  EXPECT_THROW(logits_behind(*runner, tokens, 64), CudaError);
  EXPECT_TRUE(same_bits(logits_behind(*runner, tokens, 64), expected));
  simt::fail_call(cudaErrorIllegalAddress, 2);
  EXPECT_THROW(logits_behind(*runner, tokens, 64), DeviceFailure);
  EXPECT_THROW(logits_behind(*runner, tokens, 64), DeviceFailure) << "what is sticky stays";
  EXPECT_THROW(runner->kv().access->staging(), DeviceFailure);
  simt::clear_errors();
}

// Wherever a draw fails: what it had counted for its penalties is not held against the tokens of the next one.
TEST(DeviceErrors, OfADrawLeaveNothingForTheNextOne) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 44));
  const auto runner = load_model(device_options(file.path()));
  const std::vector<int32_t> ids{4}, positions{0}, table{0};
  StepSequence alone{};
  alone.rows = alone.kv_tokens = 1;
  alone.block_table = table;
  alone.wants_logits = true;
  const std::vector<StepSequence> sequences{alone};
  SamplingParams params;
  params.temperature = 0;
  params.presence_penalty = 1e6f;
  const auto draw = [&](const std::vector<int32_t>& prompt, const std::vector<int32_t>& output) {
    const DeviceRow row{&params, prompt, output, {}};
    int32_t token = 0;
    runner->device_sampler()->sample({&row, 1}, {&token, 1});
    return token;
  };
  const auto step = [&] { runner->forward({ids, positions, sequences}, {}); };
  step();
  const std::vector<int32_t> best{draw(ids, {})};
  step();
  ASSERT_NE(draw(ids, best), best[0]);
  int32_t failed = 0;
  for (uint64_t calls = 0;; ++calls, ++failed) {
    SCOPED_TRACE("call " + std::to_string(calls));
    step();
    simt::fail_call(cudaErrorInvalidValue, calls);
    bool threw = false;
    try {
      draw(ids, best);
    } catch (const CudaError&) {
      threw = true;
    }
    simt::clear_errors();
    step();
    EXPECT_EQ(draw(best, {}), best[0]) << "a token of the prompt counts as one of the output";
    if (!threw) break;
  }
  EXPECT_GT(failed, 5);
}

TEST(DeviceErrors, AreTypedWhereTheDeviceHasNoMemoryLeft) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 43));
  simt::set_device_memory(16 << 20);
  LoadOptions options = device_options(file.path());
  options.device_bytes_max = int64_t{1} << 30;  // more than there is
  options.blocks_total = 4096;
  EXPECT_NE(memory_refusal(options), "");
  simt::set_device_memory(0);
}
#endif

}  // namespace
}  // namespace penstock
