// A transfer over several connections, and sending without a copy. Goal: what has arrived is what was sent, whichever connection carried
// it; one of them that breaks, lies or falls silent ends the transfer, and nothing of it counts; nobody joins without the secret;
// no memory is given back that the system still reads.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <random>

#include "kv/zero_copy.h"
#include "kv_transport.h"

namespace penstock {
namespace {

using namespace penstock::testing;
using namespace std::chrono_literals;

constexpr SenderOptions kFourStreams{.silence_max = 20s, .streams_max = 4, .stream_bytes_min = 1, .several_on_loopback = true};

class Streams : public TransportTest {
 protected:
  void send_with(SenderOptions options) {
    sender = std::make_unique<KvSender>(
        source.view, kFingerprint,
        [this](uint64_t id, bool arrived, const std::string& error) { sent.note(id, {arrived, error}); }, options);
  }
  Push large(uint64_t id, const TransferGrant& grant) const { return {id, receiver->address(), grant, kContent, 20}; }
  static TransferBytes join_bytes(const TransferGrant& grant, uint64_t content = kContent) {
    TransferBytes out;
    wire::append(out, wire::OfferHead{.magic = wire::kJoin, .id = grant.id, .generation = grant.generation,
                                      .secret = grant.secret, .content = content});
    return out;
  }
  // A transfer of three blocks, whose first connection is let in.
  TransferGrant let_in(TransferPeer& first) {
    const TransferGrant grant = grant_of(1, ++generation_);
    table.open(grant, kContent, {1, 2, 3});
    first.send(offer_bytes(grant, kContent, kFingerprint));
    EXPECT_EQ(first.answer(), 0u);
    return grant;
  }
  std::optional<TransferRefusal> refusal_of(const TransferBytes& bytes) {
    TransferPeer peer(receiver->address());
    peer.send(bytes);
    const auto answer = peer.answer();
    return answer.has_value() ? std::optional(static_cast<TransferRefusal>(*answer)) : std::nullopt;
  }

  uint64_t generation_ = 0;
};

TEST_P(Streams, BringEveryBlockWhicheverCarriesIt) {
  receive();
  for (const ZeroCopy zero_copy : {ZeroCopy::off, ZeroCopy::always, ZeroCopy::automatic}) {
    send_with({.silence_max = 20s, .streams_max = 4, .stream_bytes_min = 1, .several_on_loopback = true, .zero_copy = zero_copy});
    std::mt19937 random(5);
    for (int round = 0; round < 6; ++round) {
      for (int32_t id = 0; id < 24; ++id) target.fill(id, std::byte{0});
      const TransferGrant grant = grant_of(1, ++generation_);
      std::vector<int32_t> from(20), to(20);
      for (int32_t i = 0; i < 20; ++i) from[static_cast<size_t>(i)] = i, to[static_cast<size_t>(i)] = 23 - i;
      std::shuffle(from.begin(), from.end(), random);
      table.open(grant, kContent, to);
      sender->begin(large(1, grant));
      for (size_t told = 0; told < from.size();) {
        const size_t here = std::min(from.size() - told, size_t{1} + random() % 4);
        const auto blocks = std::span(from).subspan(told, here);
        sender->extend(1, static_cast<uint32_t>(told), blocks, {0, 2});
        if (round % 2 == 0) std::this_thread::sleep_for(500us);
        sender->extend(1, static_cast<uint32_t>(told), blocks, {2, 3});
        told += here;
      }
      sender->finish(1);
      EXPECT_TRUE(sent.wait(1).good);
      EXPECT_TRUE(received.wait(1).good);
      for (size_t i = 0; i < from.size(); ++i) ASSERT_EQ(target.block(to[i]), source.block(from[i])) << i;
    }
  }
}

TEST_P(Streams, TakeTheEndForTheEndOnlyWhenTheOthersHaveBroughtTheRest) {
  receive();
  for (const bool note : {false, true}) {
    TransferPeer first(receiver->address());
    const TransferGrant grant = let_in(first);
    TransferPeer second(receiver->address());
    second.send(join_bytes(grant));
    EXPECT_EQ(second.answer(), 0u);
    first.send(piece_bytes(source, 0, {0}));
    first.send(end_bytes(3, note ? TransferBytes(30) : TransferBytes()));
    std::this_thread::sleep_for(5ms);
    EXPECT_TRUE(received.none());
    second.send(piece_bytes(source, 2, {2}));
    second.send(piece_bytes(source, 1, {1}));
    EXPECT_EQ(first.answer(), 0u);
    EXPECT_TRUE(received.wait(1).good);
    EXPECT_TRUE(has_first_blocks());
    EXPECT_EQ(second.answer(), std::nullopt) << "it is over with the first";
  }
}

TEST_P(Streams, EndTheTransferWhereOneOfThemBreaksOrLies) {
  receive(300ms);
  enum class Fault { GoneIdle, GoneInPiece, GoneAfterEnd, Damaged, Twice, AtOnce, SaysEnd, Silent, FirstGone, Closed, MoreAfterEnd };
  for (const Fault fault : {Fault::GoneIdle, Fault::GoneInPiece, Fault::GoneAfterEnd, Fault::Damaged, Fault::Twice, Fault::AtOnce,
                            Fault::SaysEnd, Fault::Silent, Fault::FirstGone, Fault::Closed, Fault::MoreAfterEnd}) {
    SCOPED_TRACE(static_cast<int>(fault));
    TransferPeer first(receiver->address());
    const TransferGrant grant = let_in(first);
    TransferPeer second(receiver->address());
    second.send(join_bytes(grant));
    EXPECT_EQ(second.answer(), 0u);
    first.send(piece_bytes(source, 0, {0}));
    TransferBytes piece = piece_bytes(source, 1, {1, 2});
    switch (fault) {
      case Fault::GoneIdle:
        second.hang_up();
        break;
      case Fault::GoneInPiece:
        second.send(first_of(piece, piece.size() - 1));
        second.hang_up();
        break;
      case Fault::GoneAfterEnd:
        first.send(end_bytes(3));
        second.send(first_of(piece, 100));
        second.hang_up();
        break;
      case Fault::Damaged:
        piece[5'000] ^= std::byte{1};
        second.send(piece);
        EXPECT_EQ(second.answer(), static_cast<uint32_t>(TransferRefusal::Checksum));
        break;
      case Fault::Twice:
        first.send(piece_bytes(source, 1, {1}));
        std::this_thread::sleep_for(20ms);
        second.send(piece);
        break;
      case Fault::AtOnce: {  // one block on both, each of which is whole; another one never
        const TransferBytes same = piece_bytes(source, 1, {1});
        first.send(first_of(same, same.size() - 1));
        std::this_thread::sleep_for(20ms);
        second.send(same);
        std::this_thread::sleep_for(20ms);
        first.send(std::span(same).last(1));
        first.send(end_bytes(3));
        break;
      }
      case Fault::SaysEnd:
        second.send(piece);
        second.send(end_bytes(3));
        break;
      case Fault::Silent:
        first.send(end_bytes(3));
        break;
      case Fault::FirstGone:
        first.hang_up();
        break;
      case Fault::Closed:
        EXPECT_FALSE(table.close(1));
        receiver->look();
        break;
      case Fault::MoreAfterEnd:
        first.send(end_bytes(3));
        first.send(piece);
        break;
    }
    EXPECT_FALSE(received.wait(1).good);
    for (const int32_t block : {1, 2, 3}) target.fill(block, std::byte{42});
    second.send(piece_bytes(source, 1, {1, 2}));
    std::this_thread::sleep_for(5ms);
    for (const int32_t block : {1, 2, 3})
      for (const std::byte byte : target.block(block)) ASSERT_EQ(byte, std::byte{42}) << "nobody writes any more";
  }
}

TEST_P(Streams, NobodyJoinsWithoutTheSecretOrBeforeTheFirst) {
  receive();
  const TransferGrant early = grant_of(9);
  table.open(early, kContent, {7});
  EXPECT_EQ(refusal_of(join_bytes(early)), TransferRefusal::Unknown) << "nobody is let in yet";
  EXPECT_TRUE(table.close(9));
  TransferPeer first(receiver->address());
  const TransferGrant grant = let_in(first);
  TransferGrant wrong = grant;
  wrong.secret[15] ^= 1;
  EXPECT_EQ(refusal_of(join_bytes(wrong)), TransferRefusal::Forbidden);
  wrong = grant;
  --wrong.generation;
  EXPECT_EQ(refusal_of(join_bytes(wrong)), TransferRefusal::Stale);
  EXPECT_EQ(refusal_of(join_bytes(grant, kContent + 1)), TransferRefusal::Content);
  TransferBytes bytes = join_bytes(grant);
  auto head = wire::read<wire::OfferHead>(bytes);
  head.version = wire::kVersion - 1;
  std::memcpy(bytes.data(), &head, sizeof head);
  EXPECT_EQ(refusal_of(bytes), TransferRefusal::Version);
  head = {.magic = wire::kJoin, .id = grant.id, .generation = grant.generation, .secret = grant.secret, .content = kContent,
          .fingerprint_bytes = 4};
  std::memcpy(bytes.data(), &head, sizeof head);
  EXPECT_EQ(refusal_of(bytes), TransferRefusal::Malformed);
  // As many as there may be, and no more.
  std::vector<std::unique_ptr<TransferPeer>> others;
  for (int32_t i = 1; i < wire::kStreamsMax; ++i) {
    others.push_back(std::make_unique<TransferPeer>(receiver->address()));
    others.back()->send(join_bytes(grant));
    EXPECT_EQ(others.back()->answer(), 0u);
  }
  EXPECT_EQ(refusal_of(join_bytes(grant)), TransferRefusal::Busy);
  first.send(piece_bytes(source, 0, {0, 1, 2}));
  first.send(end_bytes(3));
  EXPECT_EQ(first.answer(), 0u) << "none of it has touched the transfer";
  EXPECT_TRUE(received.wait(1).good);
}

// Between hosts each connection has its own way: that the others are closed may be heard before the answer to the end.
TEST_P(Streams, HaveArrivedWhereTheOthersAreClosedBeforeTheAnswerIsHeard) {
  for (const bool arrives : {true, false}) {
    std::string address = "tcp:127.0.0.1:0";
    const Descriptor listener = listen_at(address);
    const auto next = [&] {
      pollfd polled{listener.get(), POLLIN, 0};
      EXPECT_EQ(poll(&polled, 1, 20'000), 1);
      return Descriptor(accept(listener.get(), nullptr, nullptr));
    };
    const auto take = [](const Descriptor& from, size_t count) {
      TransferBytes bytes(count);
      EXPECT_EQ(recv(from.get(), bytes.data(), count, MSG_WAITALL), static_cast<ssize_t>(count));
      return bytes;
    };
    const auto let = [](const Descriptor& in) {
      const wire::Answer answer;
      EXPECT_EQ(::send(in.get(), &answer, sizeof answer, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof answer));
    };
    send_with({.silence_max = 20s, .streams_max = 2, .stream_bytes_min = 1, .several_on_loopback = true});
    sender->begin({1, address, grant_of(1), kContent, 20});
    const Descriptor first = next();
    take(first, offer_bytes(grant_of(1), kContent, kFingerprint).size());
    let(first);
    Descriptor second = next();
    take(second, sizeof(wire::OfferHead));
    let(second);
    std::this_thread::sleep_for(20ms);
    sender->finish(1);
    EXPECT_EQ(wire::read<wire::PieceHead>(take(first, sizeof(wire::PieceHead))).magic, wire::kEnd);
    second.reset();
    std::this_thread::sleep_for(50ms);
    EXPECT_TRUE(sent.none());
    if (arrives) let(first);
    else shutdown(first.get(), SHUT_RDWR);
    EXPECT_EQ(sent.wait(1).good, arrives);
  }
}

TEST_P(Streams, StopInEachPhase) {
  receive();
  for (const ZeroCopy zero_copy : {ZeroCopy::off, ZeroCopy::always}) {
    for (int phase = 0; phase < 12; ++phase) {
      SCOPED_TRACE("phase " + std::to_string(phase));
      SenderOptions options = kFourStreams;
      options.zero_copy = zero_copy;
      send_with(options);
      const TransferGrant grant = grant_of(1, ++generation_);
      std::vector<int32_t> blocks(20);
      for (int32_t i = 0; i < 20; ++i) blocks[static_cast<size_t>(i)] = i;
      table.open(grant, kContent, blocks);
      sender->begin(large(1, grant));
      for (const int32_t block : blocks) sender->extend(1, std::span(&block, 1));
      std::this_thread::sleep_for(std::chrono::microseconds(150 * phase));
      if (phase % 2 == 0) sender->stop(1);
      else sender.reset();
      EXPECT_FALSE(sent.wait(1).good);
      if (!table.close(1)) {
        receiver->look();
        EXPECT_FALSE(received.wait(1).good);
      } else if (received.now(1).has_value()) {
        EXPECT_FALSE(received.wait(1).good);
      }
    }
  }
}

TEST_P(Streams, GoWithFewerWhereTheReceiverTakesNoMoreConnections) {
  receiver = std::make_unique<KvReceiver>(target.view, kFingerprint, table, listen_address(), ReceiverOptions{.connections_max = 2});
  send_with(kFourStreams);
  for (uint64_t id = 1; id <= 3; ++id) {
    table.open(grant_of(id), kContent, {static_cast<int32_t>(id), static_cast<int32_t>(id + 3)});
    sender->begin(large(id, grant_of(id)));
    sender->extend(id, std::vector<int32_t>{0, 1});
    sender->finish(id);
  }
  for (uint64_t id = 1; id <= 3; ++id) {
    EXPECT_TRUE(sent.wait(id).good);
    EXPECT_TRUE(received.wait(id).good);
    EXPECT_EQ(target.block(static_cast<int32_t>(id + 3)), source.block(1));
  }
}

// Those that have joined as well as the first ones.
TEST_P(Streams, LeaveTheirPlacesToOthersWhenTheTransferIsOver) {
  receiver = std::make_unique<KvReceiver>(target.view, kFingerprint, table, listen_address(), ReceiverOptions{.connections_max = 2});
  for (int round = 0; round < 3; ++round) {
    TransferPeer first(receiver->address());
    const TransferGrant grant = let_in(first);
    TransferPeer second(receiver->address());
    second.send(join_bytes(grant));
    EXPECT_EQ(second.answer(), 0u);
    first.hang_up();
    EXPECT_FALSE(received.wait(1).good);
    EXPECT_EQ(second.answer(), std::nullopt);
  }
}

// One that was accepted before, and joins when those that were let in are as many as there may be.
TEST_P(Streams, TakeNoPlaceWhereThereIsNone) {
  receiver = std::make_unique<KvReceiver>(target.view, kFingerprint, table, listen_address(), ReceiverOptions{.connections_max = 2});
  TransferPeer first(receiver->address());
  const TransferBytes join = join_bytes(let_in(first));
  TransferPeer joining(receiver->address());
  EXPECT_TRUE(joining.send(first_of(join, 20)));
  table.open(grant_of(2), kContent, {4});
  TransferPeer other(receiver->address());
  EXPECT_TRUE(other.send(offer_bytes(grant_of(2), kContent, kFingerprint)));
  EXPECT_EQ(other.answer(), 0u);
  EXPECT_TRUE(joining.send(std::span(join).subspan(20)));
  EXPECT_EQ(joining.answer(), static_cast<uint32_t>(TransferRefusal::Busy));
  EXPECT_TRUE(first.send(stream()));
  EXPECT_EQ(first.answer(), 0u);
  EXPECT_TRUE(received.wait(1).good);
  EXPECT_TRUE(has_first_blocks());
}

// Who has given one up would have it accepted all the same, as one that has joined and broken off.
TEST_P(Streams, WaitForThoseThatAreAcceptedLateAsLongAsTheTransferLasts) {
  receiver = std::make_unique<KvReceiver>(target.view, kFingerprint, table, listen_address(),
                                          ReceiverOptions{.silence_max = 500ms, .connections_max = 2});
  // Is let in, says nothing more, and has its place until it is given up.
  table.open(grant_of(2), kContent, {4});
  TransferPeer other(receiver->address());
  other.send(offer_bytes(grant_of(2), kContent, kFingerprint));
  EXPECT_EQ(other.answer(), 0u);
  SenderOptions options = kFourStreams;
  options.silence_max = 200ms;
  send_with(options);
  table.open(grant_of(1), kContent, {1, 2, 3});
  sender->begin(large(1, grant_of(1)));
  sender->extend(1, std::vector<int32_t>{0, 1});
  std::this_thread::sleep_for(800ms);
  sender->extend(1, std::vector<int32_t>{2});
  sender->finish(1);
  EXPECT_TRUE(sent.wait(1).good);
  EXPECT_TRUE(received.wait(1).good);
  EXPECT_FALSE(received.wait(2).good);
  EXPECT_TRUE(has_first_blocks());
}

INSTANTIATE_TEST_SUITE_P(Over, Streams, ::testing::Values(TransportKind{"tcp", false, false}),
                         [](const auto& which) { return std::string(which.param.name); });

TEST(StreamsFor, AreAsManyAsTheBytesAreWorth) {
  const SenderOptions options{.streams_max = 4, .stream_bytes_min = 1000};
  EXPECT_EQ(streams_for(0, options), 1);
  EXPECT_EQ(streams_for(1999, options), 1);
  EXPECT_EQ(streams_for(2000, options), 2);
  EXPECT_EQ(streams_for(1'000'000, options), 4);
  EXPECT_EQ(streams_for(1'000'000, {.streams_max = 1000, .stream_bytes_min = 1}), wire::kStreamsMax);
}

// Both ends of a connection over the loopback device, where the system copies what it was asked not to copy, and says so.
class ZeroCopying : public ::testing::Test {
 protected:
  void connect(bool keeps) {
    std::string address = "tcp:127.0.0.1:0";
    const Descriptor listener = listen_at(address);
    stream = std::make_unique<ZeroCopyStream>(connect_to(address), keeps);
    pollfd polled{listener.get(), POLLIN, 0};
    ASSERT_EQ(poll(&polled, 1, 20'000), 1);
    other = Descriptor(accept(listener.get(), nullptr, nullptr));
  }
  size_t send(Checksum* sum) {
    iovec part{bytes.data(), bytes.size()};
    pollfd polled{stream->fd(), POLLOUT, 0};
    EXPECT_EQ(poll(&polled, 1, 20'000), 1);
    return stream->write({&part, 1}, sum).bytes;
  }
  void take(size_t count) {
    std::vector<std::byte> got(count);
    for (size_t at = 0; at < count;) {
      const ssize_t here = recv(other.get(), got.data() + at, count - at, 0);
      ASSERT_GT(here, 0);
      ASSERT_TRUE(std::equal(got.begin() + static_cast<std::ptrdiff_t>(at), got.begin() + static_cast<std::ptrdiff_t>(at) + here,
                             bytes.begin() + static_cast<std::ptrdiff_t>(at)));
      at += static_cast<size_t>(here);
    }
  }
  void wait_until_settled() {
    for (int i = 0; i < 2000 && !stream->is_settled(); ++i) {
      pollfd polled{stream->fd(), 0, 0};
      poll(&polled, 1, 10);
      stream->settle();
    }
    EXPECT_TRUE(stream->is_settled());
  }

  std::vector<std::byte> bytes = TransferPool(1, 1, 100'000, 9).bytes;
  std::unique_ptr<ZeroCopyStream> stream;
  Descriptor other;
};

TEST_F(ZeroCopying, IsSettledWhenTheSystemSaysSoAndGivesUpWhereItCopiesAllTheSame) {
  for (const bool keeps : {false, true}) {
    connect(keeps);
    if (!stream->is_on()) GTEST_SKIP() << "this system sends nothing without a copy";
    Checksum sum, right;
    const size_t count = send(&sum);
    EXPECT_EQ(stream->sent(), 1u);
    take(count);
    right.update(std::span(bytes).first(count));
    EXPECT_EQ(sum.value(), right.value());
    wait_until_settled();
    EXPECT_EQ(stream->is_on(), keeps);
    take(send(&sum));
    EXPECT_EQ(stream->sent(), keeps ? 2u : 1u);
    wait_until_settled();
  }
}

TEST_F(ZeroCopying, CopiesWhatIsNoBlock) {
  connect(true);
  take(send(nullptr));
  EXPECT_EQ(stream->sent(), 0u) << "heads and notes are written over at once";
  bytes.resize(kZeroCopyBytesMin - 1);
  Checksum sum;
  take(send(&sum));
  EXPECT_EQ(stream->sent(), 0u);
  EXPECT_TRUE(stream->is_settled());
}

TEST_F(ZeroCopying, IsSettledSoonAfterItIsAbandonedAlthoughNobodyReads) {
  connect(true);
  if (!stream->is_on()) GTEST_SKIP() << "this system sends nothing without a copy";
  Checksum sum;
  // Until the socket takes no more.
  for (size_t sent_bytes = 1; sent_bytes > 0;) {
    iovec part{bytes.data(), bytes.size()};
    sent_bytes = stream->write({&part, 1}, &sum).bytes;
  }
  EXPECT_GT(stream->sent(), 0u);
  stream->settle();
  stream->abandon();
  wait_until_settled();
}

}  // namespace
}  // namespace penstock
