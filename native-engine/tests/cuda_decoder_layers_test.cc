// Layers of K and V that a device's step tells of while it goes on. Goal: what is told is stored, with all rows, and nobody writes to it
// again; it is told while the layers behind it are not computed; a step that fails tells of nothing that is not stored, and writes to
// nothing when it has returned.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cuda_models.h"
#include "kv/access.h"
#include "ops/cuda/device.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr int32_t kLayers = 5;

TempFile model() {
  ModelShape shape = kSmallShape;
  shape.layers = kLayers;
  return TempFile(random_model(shape, TensorType::q8_0, TensorType::q8_0, true, 21));
}

std::vector<std::byte> cache_of(Runner& runner, LayerSpan layers) {
  const KvView kv = runner.kv();
  std::vector<int32_t> blocks(static_cast<size_t>(kv.blocks_total));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<std::byte> bytes(blocks.size() * static_cast<size_t>(layers.count * kv.block_bytes));
  if (layers.count > 0) kv.access->read(blocks, layers, bytes);
  return bytes;
}

// Hears of every `at_a_time` layers, and keeps what the cache held then.
class Hearing final : public StepWatch {
 public:
  Hearing(Runner& runner, int32_t at_a_time, bool looks = true) : runner_(runner), at_a_time_(at_a_time), looks_(looks) {}
  void layers_stored(int32_t layers) override {
    EXPECT_FALSE(is_over);
    if (looks_) {
      const int32_t before = calls.empty() ? 0 : calls.back();
      for (int32_t layer = before; layer < layers; ++layer) told.push_back(cache_of(runner_, {layer, 1}));
      behind.push_back(cache_of(runner_, {layers, kLayers - layers}));
    }
    calls.push_back(layers);
    if (then) then(layers);
  }
  bool wants(int32_t layers) const override { return layers % at_a_time_ == 0; }

  std::vector<int32_t> calls;
  std::vector<std::vector<std::byte>> told;    // of each layer, when it was told
  std::vector<std::vector<std::byte>> behind;  // of the layers behind those that were told, at each call
  std::function<void(int32_t layers)> then;
  bool is_over = false;  // forward() has returned

 private:
  Runner& runner_;
  int32_t at_a_time_;
  bool looks_;
};

// Prompts in the middle of which a chunk ends, then some that are complete with it, then single rows beside a chunk.
const std::vector<std::vector<int32_t>> kSteps{{20, 9, 24}, {13, 25, 11}, {1, 30, 1}};

struct Company {
  explicit Company(Runner& runner) : pool(runner.info().blocks_total, 3), sequences(3) {
    for (size_t i = 0; i < 3; ++i)
      sequences[i].tokens = some_ids(static_cast<size_t>(kSteps[0][i] + kSteps[1][i]), static_cast<uint32_t>(i));
  }
  void step(Runner& runner, const std::vector<int32_t>& rows, StepWatch* watch) {
    for (size_t i = 0; i < sequences.size(); ++i) {
      TestSequence& s = sequences[i];
      while (static_cast<int32_t>(s.tokens.size()) < s.computed + rows[i]) s.tokens.push_back(static_cast<int32_t>(s.tokens.size() % 60));
    }
    penstock::testing::step(runner, pool, sequences, {0, 1, 2}, rows, watch);
  }
  TestBlocks pool;
  std::vector<TestSequence> sequences;
};

// `late`: whether nothing runs that nobody waits for, so that what has not been told is not computed either.
void expect_told_as_stored(Runner& runner, Runner& unwatched, bool late) {
  Company company(runner), same(unwatched);
  int32_t at_a_time = 0;
  for (const std::vector<int32_t>& rows : kSteps) {
    at_a_time = at_a_time % 3 + 1;
    SCOPED_TRACE(std::to_string(at_a_time) + " layers at a time");
    const std::vector<std::byte> before = cache_of(runner, {0, kLayers});
    std::vector<std::vector<std::byte>> layers_before;
    for (int32_t layer = 0; layer < kLayers; ++layer) layers_before.push_back(cache_of(runner, {layer, kLayers - layer}));
    Hearing watch(runner, at_a_time);
    company.step(runner, rows, &watch);
    watch.is_over = true;
    same.step(unwatched, rows, nullptr);
    std::vector<int32_t> expected;
    for (int32_t layers = at_a_time; layers < kLayers; layers += at_a_time) expected.push_back(layers);
    expected.push_back(kLayers);
    ASSERT_EQ(watch.calls, expected);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      const std::vector<std::byte> right = cache_of(unwatched, {layer, 1});
      EXPECT_TRUE(watch.told[static_cast<size_t>(layer)] == right) << "layer " << layer << " was not all there when it was told";
      EXPECT_TRUE(cache_of(runner, {layer, 1}) == right) << "layer " << layer;
    }
    for (size_t call = 0; late && call + 1 < expected.size(); ++call)
      EXPECT_TRUE(watch.behind[call] == layers_before[static_cast<size_t>(expected[call])])
          << "behind " << expected[call] << " layers something was computed: this says nothing about early layers";
    for (size_t i = 0; i < 3; ++i)
      EXPECT_EQ(company.sequences[i].logits, same.sequences[i].logits);
    EXPECT_FALSE(before == cache_of(runner, {0, kLayers}));
  }
}

TEST(CudaLayers, AreToldWhenTheyAreStored) {
  const TempFile file = model();
  const auto runner = load_model(device_options(file.path())), unwatched = load_model(device_options(file.path()));
  expect_told_as_stored(*runner, *unwatched, false);
}

// A row for each sequence: a graph, or one that is enqueued where there are none.
TEST(CudaLayers, OfAGraphAreNotToldBeforeItIsOver) {
  const TempFile file = model();
  for (const bool graphs : {true, false}) {
    LoadOptions options = device_options(file.path());
    options.device_graphs = graphs;
    const auto runner = load_model(options);
    Company company(*runner);
    for (const auto& rows : kSteps) company.step(*runner, rows, nullptr);
    Hearing watch(*runner, 2);
    company.step(*runner, {1, 1, 1}, &watch);
    EXPECT_EQ(watch.calls, graphs ? std::vector<int32_t>{} : (std::vector<int32_t>{2, 4, 5}));
  }
}

#if PENSTOCK_CUDA_EMULATED
struct LateStreams {
  explicit LateStreams(simt::Streams mode = simt::Streams::late, uint64_t seed = 0) { simt::set_streams(mode, seed); }
  ~LateStreams() { simt::set_streams(simt::Streams::eager); }
};

TEST(CudaLayers, AreToldWhileThoseBehindThemAreNotComputed) {
  const TempFile file = model();
  const LateStreams late;
  const auto runner = load_model(device_options(file.path())), unwatched = load_model(device_options(file.path()));
  expect_told_as_stored(*runner, *unwatched, true);
}

TEST(CudaLayers, AreToldWhenTheyAreStoredWhereStreamsOvertakeEachOther) {
  const TempFile file = model();
  for (const uint64_t seed : {1u, 2u}) {
    const LateStreams lazy(simt::Streams::lazy, seed);
    const auto runner = load_model(device_options(file.path())), unwatched = load_model(device_options(file.path()));
    expect_told_as_stored(*runner, *unwatched, false);
  }
}

// What a runner has computed that nothing happened to, layer by layer.
std::vector<std::vector<std::byte>> right_layers(const TempFile& file) {
  const auto runner = load_model(device_options(file.path()));
  Company company(*runner);
  company.step(*runner, kSteps[0], nullptr);
  std::vector<std::vector<std::byte>> layers;
  for (int32_t layer = 0; layer < kLayers; ++layer) layers.push_back(cache_of(*runner, {layer, 1}));
  return layers;
}

TEST(CudaLayers, OfAStepThatFailsBetweenTwoOfThemAreToldAsFarAsTheyAreStored) {
  const TempFile file = model();
  const auto right = right_layers(file);
  const LateStreams late;
  for (const cudaError_t error : {cudaErrorInvalidValue, cudaErrorIllegalAddress}) {
    for (int32_t last = 1; last <= kLayers; ++last) {
      SCOPED_TRACE(std::string(cudaGetErrorName(error)) + " behind " + std::to_string(last) + " layers");
      const auto runner = load_model(device_options(file.path()));
      Hearing watch(*runner, 1, false);
      watch.then = [&](int32_t layers) {
        if (layers == last) simt::fail_call(error);
      };
      Company company(*runner);
      const bool is_lost = error == cudaErrorIllegalAddress;
      if (is_lost) {
        EXPECT_THROW(company.step(*runner, kSteps[0], &watch), DeviceFailure);
      } else {
        EXPECT_THROW(company.step(*runner, kSteps[0], &watch), cuda::CudaError);
      }
      watch.is_over = true;
      simt::clear_errors();
      ASSERT_EQ(watch.calls.size(), static_cast<size_t>(last));
      for (int32_t layer = 0; layer < last; ++layer)
        EXPECT_TRUE(cache_of(*runner, {layer, 1}) == right[static_cast<size_t>(layer)]) << "layer " << layer;
      if (is_lost) {
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        continue;  // of a device that is lost nothing more is promised
      }
      // Whose blocks they are now is not written to by what was enqueued before.
      const auto after = cache_of(*runner, {0, kLayers});
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      EXPECT_TRUE(cache_of(*runner, {0, kLayers}) == after) << "the step went on when forward() had returned";
      // The next step is none the worse, and tells from its beginning.
      Company again(*runner);
      Hearing whole(*runner, 2);
      again.step(*runner, kSteps[0], &whole);
      EXPECT_EQ(whole.calls, (std::vector<int32_t>{2, 4, 5}));
      for (size_t layer = 0; layer < right.size(); ++layer) EXPECT_TRUE(whole.told[layer] == right[layer]) << "layer " << layer;
    }
  }
}

// Whichever call of the step fails.
TEST(CudaLayers, ThatAreToldAreStoredWhereverTheStepFails) {
  const TempFile file = model();
  const auto right = right_layers(file);
  const LateStreams late;
  const auto runner = load_model(device_options(file.path()));
  size_t failed = 0, in_the_middle = 0;
  for (uint64_t calls = 0;; ++calls) {
    SCOPED_TRACE("call " + std::to_string(calls));
    Hearing watch(*runner, 1, false);
    Company company(*runner);
    simt::fail_call(cudaErrorInvalidValue, calls);
    bool threw = false;
    try {
      company.step(*runner, kSteps[0], &watch);
    } catch (const cuda::CudaError&) {
      threw = true;
    }
    watch.is_over = true;
    simt::clear_errors();
    if (!threw) break;
    ++failed;
    if (!watch.calls.empty()) ++in_the_middle;
    const auto after = cache_of(*runner, {0, kLayers});
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_TRUE(cache_of(*runner, {0, kLayers}) == after) << "the step went on when forward() had returned";
    for (size_t layer = 0; layer < watch.calls.size(); ++layer)
      ASSERT_TRUE(cache_of(*runner, {static_cast<int32_t>(layer), 1}) == right[layer]) << "layer " << layer;
  }
  EXPECT_GT(failed, 20u);
  EXPECT_GT(in_the_middle, 0u);
}
#endif

}  // namespace
}  // namespace penstock
