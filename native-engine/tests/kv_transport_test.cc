// Every kind of transport under the same demands. Goal: what has arrived is what was sent, in whatever pieces and however
// slowly it comes; whatever a peer says, repeats, breaks off or is killed in the middle of, nothing counts as complete that is
// not, no block is written to after it was given back, and everything ends.
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <functional>
#include <thread>

#include "kv_transport.h"

namespace penstock {
namespace {

using namespace penstock::testing;
using namespace std::chrono_literals;

// Longer than anything takes where others want the cores.
constexpr auto kImpatient = 300ms;

TransferBytes head_of(uint32_t first, uint32_t count) {
  TransferBytes out;
  wire::append(out, wire::PieceHead{.first = first, .count = count, .layers = 1});
  return out;
}

TransferBytes joined(std::initializer_list<TransferBytes> parts) {
  TransferBytes all;
  for (const TransferBytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

class EveryTransport : public TransportTest {
 protected:
  // What a peer that was let in is told after these bytes; the transfer of three blocks must have failed.
  TransferRefusal refusal_of(const TransferBytes& behind_offer) {
    const TransferGrant grant = grant_of(1, ++generation_);
    table.open(grant, kContent, {1, 2, 3});
    TransportPeer writer = peer();
    EXPECT_TRUE(writer.let_in(grant));
    writer.send(behind_offer);
    const auto refusal = writer.answer();
    EXPECT_FALSE(received.wait(1).good);
    EXPECT_TRUE(table.close(1)) << "nobody writes any more";
    return static_cast<TransferRefusal>(refusal.value_or(0));
  }
  uint64_t generation_ = 0;
};

TEST_P(EveryTransport, BringsEveryBlockAsItWasAndTouchesNoOther) {
  receive();
  send_as(kFingerprint);
  std::vector<int32_t> from(18), to(18);
  for (int32_t i = 0; i < 18; ++i) {
    from[static_cast<size_t>(i)] = (i * 7) % 20;
    to[static_cast<size_t>(i)] = (i * 11) % 24;
  }
  std::vector<TransferBytes> expected;
  for (int32_t block = 0; block < 24; ++block) expected.push_back(target.block(block));
  for (size_t i = 0; i < to.size(); ++i) expected[static_cast<size_t>(to[i])] = source.block(from[i]);
  for (uint64_t id = 1; id <= 2; ++id) {  // and again
    table.open(grant_of(id, id), kContent, to);
    sender->begin(push(1, grant_of(id, id)));
    size_t told = 0;
    for (const size_t count : {1u, 0u, 8u, 2u, 7u}) {
      sender->extend(1, std::span(from).subspan(told, count));
      told += count;
      std::this_thread::sleep_for(1ms);
    }
    sender->finish(1);
    EXPECT_TRUE(received.wait(id).good);
    EXPECT_TRUE(sent.wait(1).good);
    for (int32_t block = 0; block < 24; ++block) EXPECT_EQ(target.block(block), expected[static_cast<size_t>(block)]);
    for (const int32_t block : to) target.fill(block, std::byte{0});
  }
}

TEST_P(EveryTransport, CarriesManyAtATime) {
  receive();
  send_as(kFingerprint);
  for (uint64_t id = 1; id <= 8; ++id) {
    const auto first = static_cast<int32_t>(id - 1) * 2;
    table.open(grant_of(id, id), kContent, {first + 5, first + 6});
    sender->begin(push(id + 100, grant_of(id, id)));
    sender->extend(id + 100, std::vector<int32_t>{first, first + 1});
    sender->finish(id + 100);
  }
  for (uint64_t id = 1; id <= 8; ++id) {
    EXPECT_TRUE(received.wait(id).good);
    EXPECT_TRUE(sent.wait(id + 100).good);
    const auto first = static_cast<int32_t>(id - 1) * 2;
    for (int32_t i = 0; i < 2; ++i) EXPECT_EQ(target.block(first + 5 + i), source.block(first + i));
  }
}

TEST_P(EveryTransport, TakesAPeersBytesWhereverTheyGo) {
  receive();
  table.open(grant_of(1), kContent, {1, 2, 3});
  TransportPeer writer = peer();
  EXPECT_TRUE(writer.let_in(grant_of(1)));
  EXPECT_EQ(writer.shares(), GetParam().shares) << "an arena for those that ask for one, and for nobody else";
  writer.send(stream());
  EXPECT_EQ(writer.answer(), 0u);
  EXPECT_TRUE(received.wait(1).good);
  EXPECT_TRUE(has_first_blocks());
}

TEST_P(EveryTransport, GivesNothingToWhomItDoesNotLetIn) {
  receive();
  table.open(grant_of(1, 5), kContent, {1});
  TransferGrant forged = grant_of(1, 5);
  forged.secret[0] ^= 1;
  const auto refusal_to = [&](const TransferGrant& grant, uint64_t content) {
    TransportPeer writer = peer();
    writer.send(writer.offer(grant, content));
    const auto refusal = writer.answer();
    EXPECT_FALSE(writer.shares()) << "memory comes after the grant";
    EXPECT_EQ(writer.answer(), std::nullopt);
    return static_cast<TransferRefusal>(refusal.value_or(0));
  };
  EXPECT_EQ(refusal_to(forged, kContent), TransferRefusal::Forbidden);
  EXPECT_EQ(refusal_to(grant_of(1, 4), kContent), TransferRefusal::Stale);
  EXPECT_EQ(refusal_to(grant_of(2), kContent), TransferRefusal::Unknown);
  EXPECT_EQ(refusal_to(grant_of(1, 5), kContent + 1), TransferRefusal::Content);
  EXPECT_TRUE(received.none()) << "none of them was let in";
  TransportPeer first = peer();
  EXPECT_TRUE(first.let_in(grant_of(1, 5)));
  EXPECT_EQ(refusal_to(grant_of(1, 5), kContent), TransferRefusal::Busy);
  first.send(joined({piece_bytes(source, 0, {4}), end_bytes(1)}));
  EXPECT_EQ(first.answer(), 0u) << "the second one changed nothing";
  EXPECT_TRUE(received.wait(1).good);
  EXPECT_EQ(refusal_to(grant_of(1, 5), kContent), TransferRefusal::Unknown) << "a grant is good once";
}

TEST_P(EveryTransport, TellsASenderWhyItIsRefused) {
  receive();
  send_as("layout/2");
  table.open(grant_of(1), kContent, {1});
  const auto error_of = [&](const TransferGrant& grant) {
    sender->begin(push(1, grant));
    sender->extend(1, std::vector<int32_t>{0});
    sender->finish(1);
    return sent.wait(1).error;
  };
  EXPECT_EQ(error_of(grant_of(1, 7)), "the transfer is an earlier one");
  EXPECT_EQ(error_of(grant_of(1)), "the receiver's blocks have another layout");
  EXPECT_FALSE(received.wait(1).good);
  EXPECT_EQ(error_of(grant_of(1)), "the receiver knows no such transfer");
}

TEST_P(EveryTransport, TakesNothingForCompleteThatBreaksOffAnywhere) {
  receive();
  std::vector<size_t> cuts;
  const size_t whole = stream(&cuts).size();
  for (const size_t at : std::vector<size_t>(cuts)) {
    cuts.push_back(at - 1);
    cuts.push_back(at - 10'000);
    if (at < whole) cuts.push_back(at + 1);
  }
  cuts.push_back(0);
  uint64_t generation = 0;
  for (const size_t cut : cuts) {
    SCOPED_TRACE("cut at " + std::to_string(cut));
    const TransferGrant grant = grant_of(1, ++generation);
    table.open(grant, kContent, {1, 2, 3});
    TransportPeer writer = peer();
    EXPECT_TRUE(writer.let_in(grant));
    writer.send(first_of(stream(), cut));
    if (cut == whole) {
      EXPECT_EQ(writer.answer(), 0u);
    }
    writer.hang_up();
    EXPECT_EQ(received.wait(1).good, cut == whole);
    EXPECT_TRUE(table.close(1));
  }
}

TEST_P(EveryTransport, RefusesPiecesThatAreDamagedRepeatedLateOrOfNothing) {
  receive();
  const TransferBytes first = piece_bytes(source, 0, {0}), second = piece_bytes(source, 1, {1});
  TransferBytes damaged = piece_bytes(source, 0, {0, 1, 2});
  damaged[sizeof(wire::PieceHead) + 100'000] ^= std::byte{1};
  EXPECT_EQ(refusal_of(damaged), TransferRefusal::Checksum);
  damaged = piece_bytes(source, 0, {0, 1, 2});
  damaged.back() ^= std::byte{128};
  EXPECT_EQ(refusal_of(damaged), TransferRefusal::Checksum);
  EXPECT_EQ(refusal_of(joined({second, end_bytes(3)})), TransferRefusal::Incomplete) << "the first one is missing";
  EXPECT_EQ(refusal_of(joined({first, first})), TransferRefusal::Malformed);
  EXPECT_EQ(refusal_of(joined({first, second, first})), TransferRefusal::Malformed);
  EXPECT_EQ(refusal_of(joined({first, end_bytes(3)})), TransferRefusal::Incomplete);
  EXPECT_EQ(refusal_of(joined({first, end_bytes(1)})), TransferRefusal::Incomplete);
  for (const TransferBytes& bad : {head_of(0, 0), head_of(0, 4), head_of(0, UINT32_MAX), TransferBytes(24)})
    EXPECT_EQ(refusal_of(bad), TransferRefusal::Malformed);
}

TEST_P(EveryTransport, TakesLayersOfBlocksInAnyOrderAndEachOfThemOnce) {
  receive();
  // Of five layers: those of two blocks in two groups, those of a third in three.
  const auto front = piece_bytes(source, 0, {0, 1}, 0, 2), back = piece_bytes(source, 0, {0, 1}, 2, 3);
  const auto third = joined({piece_bytes(source, 2, {2}, 4, 1), piece_bytes(source, 2, {2}, 0, 3)});
  const auto last = piece_bytes(source, 2, {2}, 3, 1);
  const std::vector<TransferBytes> orders = {joined({front, back, third, last}), joined({last, back, third, front}),
                                             joined({third, front, last, back})};
  for (const TransferBytes& order : orders) {
    for (const int32_t block : {1, 2, 3}) target.fill(block, std::byte{0});
    const TransferGrant grant = grant_of(1, ++generation_);
    table.open(grant, kContent, {1, 2, 3});
    TransportPeer writer = peer();
    EXPECT_TRUE(writer.let_in(grant));
    writer.send(joined({order, end_bytes(3)}));
    EXPECT_EQ(writer.answer(), 0u);
    EXPECT_TRUE(received.wait(1).good);
    EXPECT_TRUE(has_first_blocks());
  }
  EXPECT_EQ(refusal_of(joined({front, third, last, end_bytes(3)})), TransferRefusal::Incomplete);
  EXPECT_EQ(refusal_of(joined({front, back, third, end_bytes(3)})), TransferRefusal::Incomplete);
  EXPECT_EQ(refusal_of(joined({front, back, front})), TransferRefusal::Malformed);
  EXPECT_EQ(refusal_of(joined({front, piece_bytes(source, 1, {1}, 1, 1)})), TransferRefusal::Malformed);
  EXPECT_EQ(refusal_of(joined({back, piece_bytes(source, 0, {0, 1})})), TransferRefusal::Malformed);
  TransferBytes damaged = back;
  damaged[sizeof(wire::PieceHead) + 100] ^= std::byte{4};
  EXPECT_EQ(refusal_of(joined({front, damaged})), TransferRefusal::Checksum);
  for (const auto& [layer, layers] : std::vector<std::pair<uint32_t, uint32_t>>{{0, 6}, {5, 1}, {1, 5}, {1, UINT32_MAX}}) {
    TransferBytes head;
    wire::append(head, wire::PieceHead{.first = 0, .count = 1, .layer = layer, .layers = layers});
    EXPECT_EQ(refusal_of(head), TransferRefusal::Malformed);
  }
  // The writer dies between the last group and the end.
  const TransferGrant grant = grant_of(1, ++generation_);
  table.open(grant, kContent, {1, 2, 3});
  TransportPeer writer = peer();
  EXPECT_TRUE(writer.let_in(grant));
  writer.send(orders[0]);
  writer.hang_up();
  EXPECT_FALSE(received.wait(1).good);
  EXPECT_TRUE(table.close(1));
}

TEST_P(EveryTransport, CommitsWhatWasSentAndNothingElseUnderRandomDamage) {
  receive();
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (uint64_t generation = 1; generation <= 60; ++generation) {
    const TransferGrant grant = grant_of(generation, generation);
    table.open(grant, kContent, {1, 2, 3});
    TransportPeer writer = peer();
    TransferBytes offer = writer.offer(grant), bytes = stream();
    const uint32_t what = random() % 8;
    if (what >= 1 && what < 4) {
      // Not the wishes for an arena: without one it goes another way and is as good, and with one that this writer cannot take it
      // has hung up before the other side knows.
      const size_t at = random() % offer.size();
      const uint32_t bit = random() % 8;
      if (at == offsetof(wire::OfferHead, features) && bit < 2) continue;
      offer[at] ^= static_cast<std::byte>(1u << bit);
      writer.send(offer);
    } else if (what >= 4) {
      // Heads and sums as often as payloads.
      const size_t at = random() % 2 == 0 ? random() % bytes.size() : random() % 16;
      bytes[at] ^= static_cast<std::byte>(1u << (random() % 8));
    }
    if ((what == 0 || what >= 4) && writer.let_in(grant)) writer.send(bytes);
    writer.finish();
    const auto end = received.now(generation);
    EXPECT_EQ(end.has_value() && end->good, what == 0);
    EXPECT_TRUE(what != 0 || has_first_blocks());
    EXPECT_TRUE(table.close(generation)) << "nobody writes any more";
    for (const int32_t block : {1, 2, 3}) target.fill(block, std::byte{0});
  }
}

TEST_P(EveryTransport, GivesUpAPeerThatFallsSilentAnywhere) {
  receive(kImpatient);
  TransportPeer mute = peer();
  EXPECT_EQ(mute.answer(), std::nullopt);
  uint64_t generation = 0;
  for (const size_t heard : {size_t{0}, size_t{10}, size_t{16}, size_t{100'000}, stream().size() - 1}) {
    const TransferGrant grant = grant_of(1, ++generation);
    table.open(grant, kContent, {1, 2, 3});
    TransportPeer writer = peer();
    EXPECT_TRUE(writer.let_in(grant));
    writer.send(first_of(stream(), heard));
    EXPECT_EQ(writer.answer(), std::nullopt);
    EXPECT_FALSE(received.wait(1).good) << heard << " bytes were heard";
  }
}

TEST_P(EveryTransport, WaitsForASlowPeerThatIsHeardOf) {
  constexpr auto kPause = 30ms;
  receive(20 * kPause);
  table.open(grant_of(1), kContent, {1, 2, 3});
  TransportPeer writer = peer();
  EXPECT_TRUE(writer.let_in(grant_of(1)));
  const TransferBytes bytes = stream();
  // Longer than it may be silent, all in all.
  for (size_t at = 0; at < bytes.size();) {
    const size_t here = std::min<size_t>(at % 2 == 0 ? 8'001 : 9'001, bytes.size() - at);
    writer.send(std::span(bytes).subspan(at, here));
    at += here;
    std::this_thread::sleep_for(kPause);
  }
  EXPECT_EQ(writer.answer(), 0u);
  EXPECT_TRUE(received.wait(1).good);
  EXPECT_TRUE(has_first_blocks());
}

TEST_P(EveryTransport, ASenderGivesUpAReceiverThatSaysNothing) {
  std::string address = listen_address();
  const Descriptor listener = listen_at(address);
  send_as(kFingerprint, kImpatient);
  sender->begin(push_to(address, 1, grant_of(1)));
  EXPECT_EQ(sent.wait(1).error, "the receiver is silent");
  stop_listening(address);
}

TEST_P(EveryTransport, WritesNothingOnceItHasSaidThatItIsOver) {
  receive();
  std::mt19937 random(7);
  std::vector<int32_t> blocks(20);
  for (int32_t i = 0; i < 20; ++i) blocks[static_cast<size_t>(i)] = i;
  for (uint64_t generation = 1; generation <= 15; ++generation) {
    const TransferGrant grant = grant_of(1, generation);
    table.open(grant, kContent, blocks);
    std::atomic<bool> let_in{false};
    std::thread writer([&] {
      TransportPeer writing = peer();
      const bool good = writing.let_in(grant);
      let_in = true;
      for (uint32_t i = 0; good && i < 20; ++i)
        if (!writing.send(piece_bytes(source, i, {static_cast<int32_t>(i)}))) return;
    });
    while (!let_in) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 4000));
    if (!table.close(1)) receiver->look();
    EXPECT_FALSE(received.wait(1).good);
    // The blocks are somebody else's from here on.
    for (const int32_t block : blocks) target.fill(block, std::byte{42});
    writer.join();
    for (const int32_t block : blocks)
      for (const std::byte byte : target.block(block)) ASSERT_EQ(byte, std::byte{42}) << "block " << block;
  }
}

TEST_P(EveryTransport, StopsInEachPhase) {
  receive();
  send_as(kFingerprint);
  for (uint64_t phase = 0; phase < 4; ++phase) {
    SCOPED_TRACE("phase " + std::to_string(phase));
    table.open(grant_of(phase), kContent, {1, 2});
    sender->begin(push(7, grant_of(phase)));
    if (phase >= 1) std::this_thread::sleep_for(5ms);  // offered by now
    if (phase >= 2) sender->extend(7, std::vector<int32_t>{0});
    if (phase >= 3) {
      sender->extend(7, std::vector<int32_t>{1});
      sender->finish(7);
    }
    sender->stop(7);
    const bool arrived = sent.wait(7).good;
    EXPECT_TRUE(phase == 3 || !arrived) << "only what was told to the end can have arrived";
    if (arrived) {
      EXPECT_TRUE(received.wait(phase).good);
    } else if (!table.close(phase)) {
      EXPECT_FALSE(received.wait(phase).good);
    }
  }
  sender->stop(99);
}

// --- A writer that is another process

class WriterProcess {
 public:
  // Before there are threads, or the child would inherit locks that they hold.
  // `write` is called in the child, and says by `begun` that its first bytes are on their way.
  using Write = std::function<void(const std::string& address, const TransferGrant& grant, const WakePipe& begun)>;
  explicit WriterProcess(const Write& write) {
    int ends[2];
    if (pipe(ends) != 0) throw std::runtime_error("pipe");
    child_ = fork();
    if (child_ == 0) {
      close(ends[1]);
      char address[256] = {};
      TransferGrant grant;
      if (read(ends[0], address, sizeof address) == sizeof address && read(ends[0], &grant, sizeof grant) == sizeof grant)
        write(address, grant, begun_);
      _exit(0);
    }
    close(ends[0]);
    order_ = Descriptor(ends[1]);
  }
  ~WriterProcess() { kill(); }
  void start(const std::string& address, const TransferGrant& grant) {
    char text[256] = {};
    address.copy(text, sizeof text - 1);
    ASSERT_EQ(write(order_.get(), text, sizeof text), static_cast<ssize_t>(sizeof text));
    ASSERT_EQ(write(order_.get(), &grant, sizeof grant), static_cast<ssize_t>(sizeof grant));
    pollfd polled{begun_.fd(), POLLIN, 0};
    ASSERT_EQ(poll(&polled, 1, 20'000), 1) << "it did not begin";
  }
  void signal(int number) { ::kill(child_, number); }
  void kill() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = -1;
  }

 private:
  WakePipe begun_;
  pid_t child_ = -1;
  Descriptor order_;
};

TEST_P(EveryTransport, LosesNothingToAWriterThatIsKilledOrStoppedAtAnyInstant) {
  // Seven that are killed and one that is stopped, and goes on when the blocks are somebody else's.
  constexpr size_t kWriters = 8;
  const bool shares = GetParam().shares;
  std::vector<std::unique_ptr<WriterProcess>> writers;
  for (size_t i = 0; i < kWriters; ++i) {
    writers.push_back(std::make_unique<WriterProcess>(
        [&](const std::string& address, const TransferGrant& grant, const WakePipe& begun) {
          TransportPeer writing(address, shares);
          if (!writing.let_in(grant)) return;
          // Also between groups of layers.
          for (uint32_t at = 0; writing.send(piece_bytes(source, at, {0, 1}, 0, 2)) &&
                                writing.send(piece_bytes(source, at, {0, 1}, 2, 3));
               at += 2)
            begun.wake();
        }));
  }
  receive();
  std::mt19937 random(11);
  std::vector<int32_t> blocks(2'000'000 / 16);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i % 24);
  for (size_t i = 0; i < kWriters; ++i) {
    SCOPED_TRACE("writer " + std::to_string(i));
    // As many as it can never send, which makes all of the pool its own, again and again.
    const TransferGrant grant = grant_of(1, i + 1);
    table.open(grant, kContent, blocks);
    writers[i]->start(receiver->address(), grant);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    if (i + 1 < kWriters) {
      writers[i]->kill();
      EXPECT_FALSE(received.wait(1).good) << "without anybody's asking";
      EXPECT_TRUE(table.close(1));
      continue;
    }
    writers[i]->signal(SIGSTOP);
    if (!table.close(1)) receiver->look();
    EXPECT_FALSE(received.wait(1).good) << "nobody waits for it to go on";
    for (int32_t block = 0; block < 24; ++block) target.fill(block, std::byte{42});
    writers[i]->signal(SIGCONT);
    std::this_thread::sleep_for(50ms);
    for (int32_t block = 0; block < 24; ++block)
      for (const std::byte byte : target.block(block)) ASSERT_EQ(byte, std::byte{42}) << "block " << block;
  }
}

INSTANTIATE_TEST_SUITE_P(Over, EveryTransport, ::testing::ValuesIn(kTransportKinds),
                         [](const auto& which) { return std::string(which.param.name); });

}  // namespace
}  // namespace penstock
