// Graphs: what is replayed is what would have been enqueued, for any number of rows in a bucket, and streams that are as late as
// they may be change nothing.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cuda_models.h"
#include "ops/cuda/platform.h"

namespace penstock {
namespace {

using namespace penstock::testing;

// Decodes `steps` tokens of `count` sequences side by side, of different lengths, one of them with a context of two segments.
std::vector<float> decoded(Runner& runner, size_t count, size_t steps) {
  TestBlocks pool(runner.info().blocks_total, 3);
  std::vector<TestSequence> sequences(count);
  std::vector<size_t> which;
  for (size_t i = 0; i < count; ++i) {
    sequences[i].tokens = some_ids(i == 1 ? 259 : 5 + 7 * i, static_cast<uint32_t>(i));
    catch_up(runner, pool, sequences, i, 64);
    which.push_back(i);
  }
  std::vector<float> all;
  for (size_t at = 0; at < steps; ++at) {
    for (TestSequence& s : sequences) s.tokens.push_back(largest(s.logits));
    step(runner, pool, sequences, which, std::vector<int32_t>(count, 1));
    for (const TestSequence& s : sequences) all.insert(all.end(), s.logits.begin(), s.logits.end());
  }
  return all;
}

LoadOptions graph_options(const TempFile& file, bool graphs) {
  LoadOptions options = device_options(file.path());
  options.step_sequences_max = 5;
  options.device_graphs = graphs;
  return options;
}

TEST(CudaGraphs, GiveTheBitsOfStepsThatAreNone) {
  const TempFile file(random_model(kSmallShape, TensorType::q8_0, TensorType::q8_0, true, 31));
  const auto with = load_model(graph_options(file, true)), without = load_model(graph_options(file, false));
  for (const size_t count : {1u, 2u, 3u, 5u}) EXPECT_TRUE(same_bits(decoded(*with, count, 2), decoded(*without, count, 2))) << count;
}

#if PENSTOCK_CUDA_EMULATED
struct LazyStreams {
  explicit LazyStreams(uint64_t seed) { simt::set_streams(simt::Streams::lazy, seed); }
  ~LazyStreams() { simt::set_streams(simt::Streams::eager); }
};

TEST(CudaGraphs, AreRightWhereStreamsAreLate) {
  const TempFile file(random_model(kSmallShape, TensorType::q4_0, TensorType::q8_0, true, 32));
  const auto expected = decoded(*load_model(graph_options(file, true)), 3, 2);
  for (const uint64_t seed : {1u, 2u}) {
    const LazyStreams late(seed);
    EXPECT_TRUE(same_bits(decoded(*load_model(graph_options(file, true)), 3, 2), expected)) << seed;
  }
}
#endif

}  // namespace
}  // namespace penstock
