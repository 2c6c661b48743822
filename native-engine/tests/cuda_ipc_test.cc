// Keys and values from one device engine to another. Goal: they arrive as they were, between two processes through memory of the
// device that both have mapped, elsewhere through memory of the processor, and what is damaged on the way is refused.
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "cuda_models.h"
#include "hf_writer.h"
#include "kv/access.h"
#include "kv/receiver.h"
#include "kv/sender.h"
#include "kv_transfer.h"
#include "model/cuda/kv_blocks.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr int kBlocks = 20;  // more than go in one piece
constexpr uint64_t kTransfer = 1;

constexpr int32_t kLayers = 5;

std::vector<uint8_t> model_file() {
  ModelShape shape = kSmallShape;
  shape.layers = kLayers;
  return random_model(shape, TensorType::q8_0, TensorType::q8_0, true, 51);
}

struct Computed {
  std::unique_ptr<Runner> runner;
  std::vector<int32_t> blocks;
};

// A runner that has computed a prompt of whole blocks.
Computed computed(const std::string& path) {
  Computed made{load_model(device_options(path)), {}};
  TestBlocks pool(made.runner->info().blocks_total, 9);
  std::vector<TestSequence> one(1);
  one[0].tokens = some_ids(kBlocks * kBlockTokens, 4);
  catch_up(*made.runner, pool, one, 0, 64);
  made.blocks = one[0].blocks;
  return made;
}

TransferBytes bytes_of(Runner& runner, const std::vector<int32_t>& blocks) {
  TransferBytes bytes(blocks.size() * static_cast<size_t>(runner.kv().bytes_per_block()));
  runner.kv().access->read(blocks, {0, runner.kv().layers}, bytes);
  return bytes;
}

std::vector<int32_t> target_blocks() {
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < kBlocks; ++i) blocks.push_back((i * 7 + 3) % 64);
  return blocks;
}

struct Receiving {
  Receiving(Runner& runner, const std::string& address)
      : table([this](uint64_t id, uint64_t, bool complete, TransferNote) { ends.note(id, {complete, ""}); }),
        receiver(runner.kv(), runner.info().kv_fingerprint, table, address) {
    table.open(grant_of(kTransfer), kContent, target_blocks());
  }
  TransferEnds ends;
  TransferTable table;
  KvReceiver receiver;
};

// As steps tell them that fill some blocks each, but in an order in which no layers wait for others in the sender to go with them.
void tell_by_layers(KvSender& sender, uint64_t id, const std::vector<int32_t>& blocks) {
  for (size_t first = 0; first < blocks.size(); first += 6) {
    const auto some = std::span(blocks).subspan(first, std::min<size_t>(6, blocks.size() - first));
    for (const LayerSpan layers : {LayerSpan{2, 2}, LayerSpan{0, 2}, LayerSpan{4, 1}})
      sender.extend(id, static_cast<uint32_t>(first), some, layers);
  }
}

TransferEnds::End sent_by(const Computed& source, const std::string& address, bool by_layers) {
  TransferEnds ends;
  KvSender sender(source.runner->kv(), source.runner->info().kv_fingerprint,
                  [&](uint64_t id, bool arrived, const std::string& error) { ends.note(id, {arrived, error}); });
  sender.begin({.id = 5, .address = address, .grant = grant_of(kTransfer), .content = kContent, .blocks = kBlocks});
  if (by_layers)
    tell_by_layers(sender, 5, source.blocks);
  else
    sender.extend(5, source.blocks);
  sender.finish(5);
  return ends.wait(5);
}

// In one process no memory can be mapped twice, so that the engines agree on another way.
TEST(CudaHandOff, ArrivesInTheProcessThatSent) {
  const TempFile file(model_file());
  const Computed source = computed(file.path());
  const TempFolder folder;
  for (const std::string& address : {std::string("tcp:127.0.0.1:0"), "unix:" + folder.path() + "/d.sock"}) {
    for (const bool by_layers : {false, true}) {
      const auto target = load_model(device_options(file.path()));
      Receiving receiving(*target, address);
      const TransferEnds::End end = sent_by(source, receiving.receiver.address(), by_layers);
      EXPECT_TRUE(end.good) << address << ": " << end.error;
      EXPECT_TRUE(receiving.ends.wait(kTransfer).good);
      EXPECT_EQ(bytes_of(*target, target_blocks()), bytes_of(*source.runner, source.blocks));
    }
  }
}

constexpr char kSenderModel[] = "PENSTOCK_TEST_SENDER_MODEL";
constexpr char kSenderAddress[] = "PENSTOCK_TEST_SENDER_ADDRESS";
constexpr char kSenderByLayers[] = "PENSTOCK_TEST_SENDER_BY_LAYERS";

// The sender is a program of its own, this test once more: a process that was forked off one that has touched a device can use none.
TEST(CudaHandOff, ArrivesFromAnotherProcessThroughMemoryOfTheDevice) {
  if (const char* model = std::getenv(kSenderModel)) {
    const TransferEnds::End end = sent_by(computed(model), std::getenv(kSenderAddress), std::getenv(kSenderByLayers) != nullptr);
    ASSERT_TRUE(end.good) << end.error;
    return;
  }
  const TempFile file(model_file());
  const TempFolder folder;
  const Computed same = computed(file.path());
  for (const bool by_layers : {false, true}) {
    const auto target = load_model(device_options(file.path()));
    pid_t child = 0;
    {
      Receiving receiving(*target, "unix:" + folder.path() + "/d.sock");
      ASSERT_EQ(setenv(kSenderModel, file.path().c_str(), 1), 0);
      ASSERT_EQ(setenv(kSenderAddress, receiving.receiver.address().c_str(), 1), 0);
      ASSERT_EQ(by_layers ? setenv(kSenderByLayers, "1", 1) : 0, 0);
      child = fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        execl("/proc/self/exe", "cuda_ipc_test", "--gtest_filter=*ArrivesFromAnotherProcess*", "--gtest_brief=1", nullptr);
        _exit(2);
      }
      ASSERT_EQ(unsetenv(kSenderModel), 0);
      EXPECT_TRUE(receiving.ends.wait(kTransfer).good);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    const auto* blocks = dynamic_cast<const cuda::KvBlocks*>(target->kv().access);
    EXPECT_GT(blocks->bytes_through_rings(), static_cast<uint64_t>(kBlocks * target->kv().bytes_per_block()));
    EXPECT_EQ(bytes_of(*target, target_blocks()), bytes_of(*same.runner, same.blocks)) << (by_layers ? "by layers" : "whole");
  }
}

}  // namespace
}  // namespace penstock
