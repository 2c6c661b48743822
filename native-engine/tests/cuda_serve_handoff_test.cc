// Hand-overs between two engines on devices. Goal: layers of a prompt are at the other engine, right to the bit, while the step of the
// first one has not come to those behind them; a step that ends between two of them leaves nothing that counts; and whatever is handed
// over, both engines say what one alone says.
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <random>

#include "cuda_models.h"
#include "handoff_listening.h"
#include "handoff_schedules.h"
#include "handoff_serving.h"
#include "kv/access.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr int32_t kLayers = 3;

#if PENSTOCK_CUDA_EMULATED
// What nobody waits for is not done: a layer that is read before its event has happened is not there.
struct LateStreams {
  LateStreams() { simt::set_streams(simt::Streams::late); }
  ~LateStreams() { simt::set_streams(simt::Streams::eager); }
};
#else
struct LateStreams {
  LateStreams() {}
};
#endif

// Another runner, whose steps wait where a test wants them to: in the call that tells their watch of some layers.
class HeldRunner final : public Runner, private StepWatch {
 public:
  explicit HeldRunner(std::unique_ptr<Runner> inner) : inner_(std::move(inner)) {}

  const RunnerInfo& info() const override { return inner_->info(); }
  KvView kv() override { return inner_->kv(); }
  DeviceSampler* device_sampler() override { return inner_->device_sampler(); }
  void forward(const StepBatch& batch, std::span<float> logits) override {
    watch_ = batch.watch;
    StepBatch seen = batch;
    if (watch_ != nullptr) {
      seen.watch = this;
      const std::lock_guard lock(mutex_);
      ++watched_steps_;
    }
    inner_->forward(seen, logits);
  }

  // The watched step after the next `steps` stops when `layers` are told.
  void hold(uint64_t steps, int32_t layers) {
    const std::lock_guard lock(mutex_);
    hold_at_step_ = watched_steps_ + steps + 1;
    hold_at_layers_ = layers;
  }
  void wait_until_held() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return is_held_; }))
      throw std::runtime_error("no step came to be held");
  }
  // `fails`: the step ends here, as by an error of the device.
  void go(bool fails = false) {
    const std::lock_guard lock(mutex_);
    hold_at_step_ = 0;
    fails_ = fails;
    changed_.notify_all();
  }

 private:
  bool wants(int32_t layers) const override { return watch_->wants(layers); }
  void layers_stored(int32_t layers) override {
    watch_->layers_stored(layers);
    std::unique_lock lock(mutex_);
    if (watched_steps_ != hold_at_step_ || layers != hold_at_layers_) return;
    is_held_ = true;
    changed_.notify_all();
    // A test that failed lets go of nobody.
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return hold_at_step_ == 0; });
    is_held_ = false;
    if (std::exchange(fails_, false)) throw std::runtime_error("the step was told to fail");
  }

  std::unique_ptr<Runner> inner_;
  StepWatch* watch_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t watched_steps_ = 0;
  uint64_t hold_at_step_ = 0;
  int32_t hold_at_layers_ = 0;
  bool is_held_ = false;
  bool fails_ = false;
};

class CudaHandoff : public HandoffServing {
 protected:
  std::unique_ptr<Runner> load() const {
    LoadOptions options = device_options(file.path());
    options.blocks_total = 80;
    options.step_tokens_max = kStepTokens;
    return load_model(options);
  }
  void start_prefill() {
    auto runner = std::make_unique<HeldRunner>(load());
    held = runner.get();
    prefill = std::make_unique<Engine>(std::move(runner), config, folder / "p.sock");
    p = std::make_unique<Client>(prefill->path());
    p->hello();
  }
  void start_decode(const std::string& listen) {
    config.kv_listen = listen;
    decode = std::make_unique<Engine>(load(), config, folder / "d.sock");
    d = std::make_unique<Client>(decode->path());
    address = d->hello().kv_address;
  }

  const LateStreams late;
  const TempFile file{random_model({64, 128, kLayers, 4, 2, 32, kVocab, kContext}, TensorType::q8_0, TensorType::q8_0, true, 5)};
  ServerConfig config = [] {
    ServerConfig made{.sequences_max = 4, .step_tokens_max = kStepTokens};
    made.kv_layers_at_a_time = 1;
    return made;
  }();
  HeldRunner* held = nullptr;
};

TEST_F(CudaHandoff, LayersTravelWhileTheOthersAreComputed) {
  start_prefill();
  const auto prompt = prompt_of(1, 64);  // two steps of two blocks
  const auto runner = load();
  const KvView kv = runner->kv();
  std::vector<TestSequence> one(1);
  one[0].tokens.assign(prompt.begin(), prompt.end());
  TestBlocks pool(kv.blocks_total, 3);
  catch_up(*runner, pool, one, 0, kStepTokens);
  const auto expect_right = [&](const Listening& receiver) {
    for (const auto& [which, bytes] : receiver.there) {
      std::vector<std::byte> right(static_cast<size_t>(kv.block_bytes));
      kv.access->read(std::vector<int32_t>{one[0].blocks[which.first]}, {static_cast<int32_t>(which.second), 1}, right);
      EXPECT_TRUE(bytes == right) << "layer " << which.second << " of block " << which.first;
    }
  };
  constexpr auto kWhole = static_cast<size_t>(2 * kLayers);
  for (int32_t told = 1; told <= kLayers; ++told) {
    SCOPED_TRACE(std::to_string(told) + " layers of the second step");
    Listening receiver("unix:" + (folder / "receiver.sock"));
    const auto id = static_cast<uint64_t>(told);
    frame::Push push = push_frame(id, prompt, {.id = id, .grant = {}, .blocks = 4}, receiver.address);
    push.salt = id;  // nothing is cached
    held->hold(1, told);
    p->send(push);
    receiver.accept();
    held->wait_until_held();
    while (receiver.there.size() < kWhole + 2 * static_cast<size_t>(told)) receiver.next(kv.block_bytes);
    for (uint32_t layer = 0; layer < static_cast<uint32_t>(told); ++layer)
      EXPECT_TRUE(receiver.there.contains({2, layer}) && receiver.there.contains({3, layer}));
    EXPECT_EQ(receiver.there.size(), kWhole + 2 * static_cast<size_t>(told)) << "and no other ones";
    expect_right(receiver);
    held->go();
    while (receiver.next(kv.block_bytes).magic != wire::kEnd) {
    }
    EXPECT_EQ(receiver.there.size(), 2 * kWhole);
    expect_right(receiver);
    receiver.answer();
    EXPECT_EQ(p->finish_of(id).reason, FinishReason::Stop);
  }
  p->settled(holds_nothing);
}

// By an error of the step, by its agent, by the other engine's.
TEST_F(CudaHandoff, AnEndBetweenTwoGroupsOfLayersLeavesNothingThatCounts) {
  start_prefill();
  start_decode("tcp:127.0.0.1:0");
  const auto prompt = prompt_of(1, 64);
  constexpr uint32_t kTokens = 3;
  d->send(submit_frame(100, prompt, kTokens));
  d->finish_of(100);
  uint64_t id = 0;
  for (int32_t told = 1; told <= kLayers; ++told) {
    for (const int way : {0, 1, 2}) {
      SCOPED_TRACE(std::to_string(told) + " layers were told, then way " + std::to_string(way));
      ++id;
      held->hold(0, told);  // in the first of two steps
      // Each of an organisation of its own: nothing is cached.
      frame::Reserve asked = reserve_frame(id, prompt);
      asked.salt = id;
      d->send(asked);
      frame::Push push = push_frame(id, prompt, d->expect<frame::Reserved>(), address);
      push.salt = id;
      p->send(push);
      held->wait_until_held();
      if (way == 1) {
        p->send(frame::Cancel{id});
        p->send(frame::Ping{1});
        p->expect<frame::Pong>();  // the socket thread has passed it on
      }
      if (way == 2) {
        d->send(frame::Release{id});
        d->settled(holds_nothing);  // although P says nothing
      }
      held->go(way == 0);
      EXPECT_EQ(p->finish_of(id).reason, way == 0   ? FinishReason::Internal
                                         : way == 1 ? FinishReason::Cancelled
                                                    : FinishReason::Transfer);
      if (way != 2) {
        EXPECT_FALSE(d->expect<frame::Transferred>().complete);
      }
      frame::Submit submit = submit_frame(id, prompt, kTokens, id);
      submit.salt = id;
      d->send(submit);
      EXPECT_EQ(d->expect<frame::Admitted>().cached_tokens, 0u);
      d->finish_of(id);
      EXPECT_EQ(d->tokens[id], d->tokens[100]);
      d->settled(holds_nothing);
      p->settled(holds_nothing);
    }
  }
  // And one that does not end between them.
  ++id;
  frame::Push whole = push_frame(id, prompt_of(2, 64), reserve(id, prompt_of(2, 64)), address);
  p->send(whole);
  EXPECT_TRUE(d->expect<frame::Transferred>().complete);
  EXPECT_EQ(p->finish_of(id).reason, FinishReason::Stop);
}

TEST_F(CudaHandoff, AnyScheduleSaysWhatOneEngineAloneSays) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const std::string& listen : {std::string("tcp:127.0.0.1:0"), "unix:" + (folder / "kv.sock")}) {
    start_prefill();
    start_decode(listen);
    Engine one(load(), {.sequences_max = 4, .step_tokens_max = kStepTokens}, folder / "one.sock");
    p.reset();
    d.reset();
    auto jobs = random_jobs(random, 6, kVocab, 120);
    for (Job& job : jobs) job.submit.max_new_tokens = std::min(job.submit.max_new_tokens, 4u);
    uint64_t cached = 0;
    EXPECT_EQ(handed_over(*prefill, *decode, jobs, cached), aggregated(one, jobs)) << listen;
    TearDown();
    config.kv_listen.reset();
  }
}

}  // namespace
}  // namespace penstock
