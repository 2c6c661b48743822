// The engine around a device, with a fake one. Goal: whether tokens are drawn on the device or here, an agent sees the same; a
// device that is lost ends the engine, and its agent is told.
#include <gtest/gtest.h>

#include <exception>

#include "model/device.h"
#include "model/device_sampler.h"
#include "serve_engine.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr int32_t kVocab = 50;

// Keeps the logits of a fake runner to itself, as a device does, and draws from them with the rules of the processor.
class FakeDevice final : public Runner, public DeviceSampler {
 public:
  FakeDevice() : inner_(64, 200, kVocab, 64) {}

  const RunnerInfo& info() const override { return inner_.info(); }
  KvView kv() override { return inner_.kv(); }
  DeviceSampler* device_sampler() override { return this; }
  void forward(const StepBatch& batch, std::span<float> logits) override {
    if (lost) throw DeviceFailure("an illegal memory access");
    EXPECT_TRUE(logits.empty()) << "logits stay where tokens are drawn";
    size_t wanting = 0;
    for (const StepSequence& s : batch.sequences) wanting += s.wants_logits ? 1 : 0;
    logits_.assign(wanting * kVocab, 0.0f);
    inner_.forward(batch, logits_);
  }

  bool fits(const DeviceRow& row) const override { return row.params->bias.empty(); }
  void read_logits(std::span<const int32_t> rows, std::span<float> out) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto from = logits_.begin() + rows[i] * kVocab;
      std::copy(from, from + kVocab, out.begin() + static_cast<int64_t>(i) * kVocab);
      ++rows_read;
    }
  }
  void sample(std::span<const DeviceRow> rows, std::span<int32_t> tokens) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].params == nullptr) continue;
      ++rows_drawn;
      try {
        tokens[i] = sampler_.sample(std::span(logits_).subspan(i * kVocab, kVocab), *rows[i].params, rows[i].prompt,
                                    rows[i].output, rows[i].mask).token;
      } catch (const SamplingError&) {
        tokens[i] = kNotFiniteDrawn;
      }
    }
  }

  FakeRunner& inner() { return inner_; }
  std::atomic<bool> lost{false};
  std::atomic<int> rows_read{0};
  std::atomic<int> rows_drawn{0};

 private:
  FakeRunner inner_;
  Sampler sampler_;
  std::vector<float> logits_;
};

std::vector<frame::Submit> requests() {
  std::vector<frame::Submit> all;
  for (uint64_t id = 1; id <= 4; ++id) {
    frame::Submit submit;
    submit.id = id;
    submit.prompt = {1, 2, static_cast<uint32_t>(id)};
    submit.max_new_tokens = 6;
    submit.credit_tokens = 100;
    submit.temperature = id % 2 == 0 ? 0.0f : 1.5f;
    submit.seed = 7 * id;
    if (id == 2) submit.logprobs_top = 3;
    if (id == 3) submit.bias = {{5, 4.0f}};
    all.push_back(submit);
  }
  return all;
}

std::map<uint64_t, std::vector<int32_t>> answers(std::unique_ptr<Runner> runner) {
  const TempFolder folder;
  Engine engine(std::move(runner), {.sequences_max = 8, .step_tokens_max = 32}, folder / "engine.sock");
  Client client(engine.path());
  client.hello();
  for (const frame::Submit& submit : requests()) client.send(submit);
  for (const frame::Submit& submit : requests()) {
    client.finish_of(submit.id);
    EXPECT_EQ(client.details[submit.id].front().top.size(), submit.id == 2 ? 3u : 0u);
  }
  return client.tokens;
}

TEST(DrawingOnADevice, GivesTheTokensThatThisProcessWouldDraw) {
  const auto expected = answers(std::make_unique<FakeRunner>(64, 200, kVocab, 64));
  auto device = std::make_unique<FakeDevice>();
  FakeDevice& seen = *device;
  // Looked at before the engine, and the runner with it, is gone.
  const TempFolder folder;
  Engine engine(std::move(device), {.sequences_max = 8, .step_tokens_max = 32}, folder / "engine.sock");
  Client client(engine.path());
  client.hello();
  for (const frame::Submit& submit : requests()) client.send(submit);
  for (const frame::Submit& submit : requests()) client.finish_of(submit.id);
  EXPECT_EQ(client.tokens, expected);
  EXPECT_EQ(seen.rows_drawn, 12) << "two sequences of six tokens";
  EXPECT_EQ(seen.rows_read, 12) << "log-probabilities, and what does not fit";
}

TEST(DrawingOnADevice, EndsOnlyTheSequenceWhoseLogitsAreNoNumbers) {
  auto device = std::make_unique<FakeDevice>();
  device->inner().spoil_prompts_with(9);
  const TempFolder folder;
  Engine engine(std::move(device), {.sequences_max = 8, .step_tokens_max = 32}, folder / "engine.sock");
  Client client(engine.path());
  client.hello();
  frame::Submit good = requests()[0], bad = requests()[3];
  bad.prompt = {9, 2};
  client.send(good);
  client.send(bad);
  EXPECT_EQ(client.finish_of(bad.id).reason, FinishReason::Internal);
  EXPECT_EQ(client.finish_of(good.id).output_tokens, 6);
}

TEST(ADeviceThatIsLost, EndsTheEngineAndItsAgentIsTold) {
  FakeDevice device;
  device.lost = true;
  const TempFolder folder;
  Listener listener(folder / "engine.sock");
  const WakePipe wake;
  const std::atomic<bool> stop{false};
  std::exception_ptr thrown;
  std::thread engine([&] {
    try {
      run_server(listener, device, {.sequences_max = 8, .step_tokens_max = 32}, wake, stop);
    } catch (...) {
      thrown = std::current_exception();
    }
  });
  {
    Client client(folder / "engine.sock");
    client.hello();
    client.send(requests()[0]);
    std::string told;
    while (const auto frame = client.receive()) {
      if (const auto* fatal = std::get_if<frame::Fatal>(&*frame)) told = fatal->message;
    }
    EXPECT_NE(told.find("an illegal memory access"), std::string::npos) << told;
  }
  engine.join();
  ASSERT_TRUE(thrown);
  EXPECT_THROW(std::rethrow_exception(thrown), DeviceFailure);
}

}  // namespace
}  // namespace penstock
