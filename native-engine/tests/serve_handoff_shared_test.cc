// A prompt whose keys and values are many: they go through memory that both engines share, where they have it. Goal: what D says
// does not depend on the way that its keys and values took, and a P that it can only reach otherwise is reached otherwise.
#include <gtest/gtest.h>

#include "handoff_serving.h"
#include "kv/shared_memory.h"
#include "model/load.h"
#include "model_fixtures.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr int32_t kPromptTokens = 330;

TEST_F(HandoffServing, AModelSaysTheSameWhicheverWayManyKeysAndValuesTook) {
  // Little to compute and much to keep.
  const TempFile file(random_model({64, 64, 8, 8, 8, 128, kVocab, 512}, TensorType::q8_0, TensorType::q8_0, true, 5));
  ServerConfig config{.sequences_max = 4, .step_tokens_max = 64};
  int64_t kv_bytes_per_token = 0;
  const auto load = [&] {
    LoadOptions options;
    options.path = file.path();
    options.threads = 1;
    options.blocks_total = 40;
    options.step_tokens_max = 64;
    options.step_sequences_max = 4;
    options.kv_type = KvType::f32;
    auto loaded = load_model(options);
    kv_bytes_per_token = loaded->info().kv_bytes_per_token;
    return loaded;
  };
  const auto prompt = prompt_of(3, kPromptTokens);
  prefill = std::make_unique<Engine>(load(), config, folder / "p.sock");
  p = std::make_unique<Client>(prefill->path());
  p->hello();
  ASSERT_GE(kv_bytes_per_token * (kPromptTokens - kBlockTokens), kSharedBytesMin) << "worth an arena";
  std::vector<std::vector<int32_t>> said;
  uint64_t pushes = 0;  // the first computes, those behind it send what is cached
  const std::string unix_address = "unix:" + (folder / "kv.sock");
  for (const std::string& listen :
       {std::string(), unix_address, std::string("tcp:127.0.0.1:0"), unix_address + " tcp:127.0.0.1:0"}) {
    SCOPED_TRACE(listen);
    if (!listen.empty()) config.kv_listen = listen;
    decode = std::make_unique<Engine>(load(), config, folder / "d.sock");
    d = std::make_unique<Client>(decode->path());
    address = d->hello().kv_address;
    uint64_t reservation = 0;
    if (!listen.empty()) {
      const frame::Reserved reserved = reserve(7, prompt);
      p->send(push_frame(++pushes, prompt, reserved, address));
      EXPECT_TRUE(d->expect<frame::Transferred>().complete);
      EXPECT_EQ(p->finish_of(pushes).reason, FinishReason::Stop);
      reservation = 7;
    }
    d->send(submit_frame(50, prompt, 12, reservation));
    EXPECT_EQ(d->expect<frame::Admitted>().cached_tokens, listen.empty() ? 0u : 320u);
    EXPECT_EQ(d->finish_of(50).reason, FinishReason::Length);
    said.push_back(d->tokens[50]);
    EXPECT_EQ(said.back(), said.front());
    expect_nothing_held();
    decode->end();
  }
  EXPECT_EQ(said.front().size(), 12u);
}

}  // namespace
}  // namespace penstock
