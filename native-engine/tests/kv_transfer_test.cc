// K and V on their way between two engines. Goal: what has arrived is what was sent; whatever a peer says, forgets or
// breaks off, nothing is taken for complete that is not, nothing is written that may not be, and everything ends. What holds for
// every transport alike is kv_transport_test.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "kv/receiver.h"
#include "kv/sender.h"
#include "kv_transfer.h"

namespace penstock {
namespace {

using namespace penstock::testing;
using namespace std::chrono_literals;
using Ended = TransferEnds::End;

constexpr auto kPatient = 20'000ms;
constexpr auto kImpatient = 80ms;
constexpr auto kHeardInTime = 600ms;  // four signs of life, also where others want the cores

// --- Both sides over a real connection

class Transfer : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-kv-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory = pattern;
  }
  void TearDown() override {
    sender.reset();
    receiver.reset();
    EXPECT_FALSE(received.twice() || sent.twice()) << "something ended twice";
    EXPECT_TRUE(std::filesystem::is_empty(directory)) << "a socket is left behind";
    std::filesystem::remove_all(directory);
  }
  void receive(std::chrono::milliseconds silence_max = kPatient, size_t connections_max = 64) {
    const std::string address = GetParam() == std::string("unix") ? "unix:" + directory + "/kv.sock" : GetParam();
    receiver = std::make_unique<KvReceiver>(target.view, kFingerprint, table, address,
                                            ReceiverOptions{silence_max, connections_max});
  }
  void send_as(const std::string& fingerprint, std::chrono::milliseconds silence_max = kPatient) {
    sender = std::make_unique<KvSender>(
        source.view, fingerprint,
        [this](uint64_t id, bool arrived, const std::string& error) { sent.note(id, {arrived, error}); },
        SenderOptions{.silence_max = silence_max});
  }
  Push push(uint64_t id, const TransferGrant& grant) { return {id, receiver->address(), grant, kContent}; }
  // Everything of one transfer as bytes, and where messages end.
  TransferBytes stream(const TransferGrant& grant, std::vector<size_t>* boundaries = nullptr) {
    TransferBytes all = offer_bytes(grant, kContent, kFingerprint);
    if (boundaries != nullptr) *boundaries = {sizeof(wire::OfferHead), all.size()};
    for (const TransferBytes& part : {piece_bytes(source, 0, {0, 1}), piece_bytes(source, 2, {2}), end_bytes(3)}) {
      all.insert(all.end(), part.begin(), part.end());
      if (boundaries != nullptr) boundaries->push_back(all.size());
    }
    return all;
  }

  std::string directory;
  TransferPool source{3, 64, 500, 1};
  TransferPool target{3, 80, 500, 2};
  TransferEnds received, sent;
  TransferTable table{
      [this](uint64_t id, uint64_t, bool complete, TransferNote note) {
        notes[id] = note;
        received.note(id, {complete, {}});
      }};
  std::map<uint64_t, TransferNote> notes;  // read after the end
  std::unique_ptr<KvReceiver> receiver;
  std::unique_ptr<KvSender> sender;
};

TEST_P(Transfer, BringsEveryBlockAsItWasHoweverTheyBecomeComplete) {
  receive();
  send_as(kFingerprint);
  std::vector<int32_t> from(50), to(50);
  for (int32_t i = 0; i < 50; ++i) {
    from[static_cast<size_t>(i)] = (i * 7) % 64;
    to[static_cast<size_t>(i)] = (i * 11) % 80;
  }
  const TransferPool before = target;
  table.open(grant_of(9), kContent, to);
  sender->begin(push(1, grant_of(9)));
  size_t told = 0;
  for (const size_t count : {1u, 0u, 16u, 2u, 31u}) {
    sender->extend(1, std::span(from).subspan(told, count));
    told += count;
    std::this_thread::sleep_for(1ms);
  }
  sender->finish(1);
  EXPECT_TRUE(received.wait(9).good);
  EXPECT_TRUE(sent.wait(1).good);
  std::vector<bool> written(80, false);
  for (size_t i = 0; i < to.size(); ++i) {
    EXPECT_EQ(target.block(to[i]), source.block(from[i]));
    written[static_cast<size_t>(to[i])] = true;
  }
  for (int32_t block = 0; block < 80; ++block) {
    if (!written[static_cast<size_t>(block)]) {
      const auto held = before.view.at(0, block);
      const auto now = target.view.at(0, block);
      EXPECT_TRUE(std::equal(now.begin(), now.end(), held.begin())) << "block " << block << " is somebody else's";
    }
  }
}

TEST_P(Transfer, CarriesManyAtATime) {
  receive(kPatient, 3);
  send_as(kFingerprint);
  for (uint64_t id = 1; id <= 16; ++id) {
    const auto first = static_cast<int32_t>(id - 1) * 4;
    table.open(grant_of(id, id), kContent, {first + 10, first + 11, first + 12});
    sender->begin(push(id + 100, grant_of(id, id)));
    sender->extend(id + 100, std::vector<int32_t>{first, first + 1, first + 2});
    sender->finish(id + 100);
  }
  for (uint64_t id = 1; id <= 16; ++id) {
    EXPECT_TRUE(received.wait(id).good);
    EXPECT_TRUE(sent.wait(id + 100).good);
    for (int32_t i = 0; i < 3; ++i) {
      const auto first = static_cast<int32_t>(id - 1) * 4;
      EXPECT_EQ(target.block(first + 10 + i), source.block(first + i));
    }
  }
}

TEST_P(Transfer, BringsANoteWithTheEndAndNoneOfWhatIsNotComplete) {
  receive();
  send_as(kFingerprint);
  TransferNote note(wire::kNoteBytesMax);
  for (size_t i = 0; i < note.size(); ++i) note[i] = static_cast<std::byte>(i * 7);
  for (const uint64_t id : {1u, 2u, 3u}) {
    table.open(grant_of(id), kContent, {1, 2});
    sender->begin(push(id, grant_of(id)));
    sender->extend(id, std::vector<int32_t>{5, 6});
    if (id == 3) continue;
    sender->finish(id, id == 1 ? note : TransferNote());
    EXPECT_TRUE(received.wait(id).good);
    EXPECT_EQ(notes.at(id), id == 1 ? note : TransferNote());
    EXPECT_TRUE(sent.wait(id).good);
  }
  sender->stop(3);
  sender->finish(3, note);
  EXPECT_FALSE(sent.wait(3).good);
  if (!table.close(3)) {
    EXPECT_FALSE(received.wait(3).good);
    EXPECT_TRUE(notes.at(3).empty());
  }
}

TEST_P(Transfer, TellsASenderWhyItIsRefused) {
  receive();
  send_as(kFingerprint);
  table.open(grant_of(1, 5), kContent, {1});
  TransferGrant forged = grant_of(1, 5);
  forged.secret[0] ^= 1;
  const auto error_of = [&](const Push& wanted) {
    sender->begin(wanted);
    sender->extend(wanted.id, std::vector<int32_t>{0});
    sender->finish(wanted.id);
    const Ended end = sent.wait(wanted.id);
    EXPECT_FALSE(end.good);
    return end.error;
  };
  EXPECT_EQ(error_of(push(1, forged)), "the grant is not good");
  EXPECT_EQ(error_of(push(2, grant_of(1, 4))), "the transfer is an earlier one");
  EXPECT_EQ(error_of(push(3, grant_of(2))), "the receiver knows no such transfer");
  Push other = push(4, grant_of(1, 5));
  other.content = kContent + 1;
  EXPECT_EQ(error_of(other), "the receiver expects other tokens");
  other.address = "unix:" + directory + "/nobody.sock";
  EXPECT_FALSE(error_of(other).empty());
  other.address = "anywhere";
  EXPECT_FALSE(error_of(other).empty());
  EXPECT_TRUE(received.none()) << "none of them was let in";
  EXPECT_TRUE(table.close(1));
}

TEST_P(Transfer, RefusesBlocksOfAnotherLayoutAndASecondWriter) {
  receive();
  send_as("layout/2");
  table.open(grant_of(1), kContent, {1});
  sender->begin(push(1, grant_of(1)));
  EXPECT_EQ(sent.wait(1).error, "the receiver's blocks have another layout");
  EXPECT_FALSE(received.wait(1).good);
  table.open(grant_of(2), kContent, {1});
  TransferPeer first(receiver->address()), second(receiver->address());
  first.send(offer_bytes(grant_of(2), kContent, kFingerprint));
  EXPECT_EQ(first.answer(), 0u);
  second.send(offer_bytes(grant_of(2), kContent, kFingerprint));
  EXPECT_EQ(second.answer(), static_cast<uint32_t>(TransferRefusal::Busy));
  first.send(piece_bytes(source, 0, {4}));
  first.send(end_bytes(1));
  EXPECT_EQ(first.answer(), 0u) << "the second one changed nothing";
  EXPECT_TRUE(received.wait(2).good);
}

TEST_P(Transfer, TakesNothingForCompleteThatBreaksOffAnywhere) {
  receive();
  std::vector<size_t> cuts;
  const size_t whole = stream(grant_of(1), &cuts).size();
  const size_t attached_from = cuts[1];
  for (const size_t at : std::vector<size_t>(cuts)) {
    cuts.push_back(at - 1);
    cuts.push_back(at + 1);
  }
  cuts.push_back(0);
  uint64_t generation = 0;
  for (const size_t cut : cuts) {
    if (cut > whole) continue;
    SCOPED_TRACE("cut at " + std::to_string(cut));
    const TransferGrant grant = grant_of(1, ++generation);
    table.open(grant, kContent, {1, 2, 3});
    TransferPeer peer(receiver->address());
    peer.send(first_of(stream(grant), cut));
    if (cut >= attached_from) {
      EXPECT_EQ(peer.answer(), 0u);
      if (cut == whole) {
        EXPECT_EQ(peer.answer(), 0u);
      }
      peer.hang_up();
      EXPECT_EQ(received.wait(1).good, cut == whole);
    } else {
      peer.hang_up();
      EXPECT_TRUE(table.close(1)) << "nobody was let in";
    }
  }
}

TEST_P(Transfer, RefusesWhatIsDamagedOutOfOrderOrNotThisProtocol) {
  receive();
  uint64_t generation = 0;
  const auto refusal_of = [&](const TransferBytes& behind_offer) {
    const TransferGrant grant = grant_of(1, ++generation);
    table.open(grant, kContent, {1, 2, 3});
    TransferPeer peer(receiver->address());
    peer.send(offer_bytes(grant, kContent, kFingerprint));
    EXPECT_EQ(peer.answer(), 0u);
    peer.send(behind_offer);
    const auto refusal = peer.answer();
    EXPECT_FALSE(received.wait(1).good);
    return static_cast<TransferRefusal>(refusal.value_or(0));
  };
  TransferBytes damaged = piece_bytes(source, 0, {0, 1, 2});
  damaged[sizeof(wire::PieceHead) + 700] ^= std::byte{1};
  EXPECT_EQ(refusal_of(damaged), TransferRefusal::Checksum);
  damaged = piece_bytes(source, 0, {0, 1, 2});
  damaged.back() ^= std::byte{128};
  EXPECT_EQ(refusal_of(damaged), TransferRefusal::Checksum);
  EXPECT_EQ(refusal_of(end_bytes(3)), TransferRefusal::Incomplete);
  EXPECT_EQ(refusal_of(end_bytes(0)), TransferRefusal::Incomplete);
  const auto head = [](uint32_t first, uint32_t count) {
    TransferBytes out;
    wire::append(out, wire::PieceHead{.first = first, .count = count, .layers = 3});
    return out;
  };
  for (const TransferBytes& bad : {head(3, 1), head(0, 0), head(0, 4), head(0, UINT32_MAX), TransferBytes(24)})
    EXPECT_EQ(refusal_of(bad), TransferRefusal::Malformed);
  // A note that is damaged, or longer than any.
  const TransferBytes all = piece_bytes(source, 0, {0, 1, 2});
  TransferBytes note = end_bytes(3, TransferBytes(40));
  note[sizeof(wire::PieceHead) + 7] ^= std::byte{1};
  note.insert(note.begin(), all.begin(), all.end());
  EXPECT_EQ(refusal_of(note), TransferRefusal::Checksum);
  note = end_bytes(3, TransferBytes(wire::kNoteBytesMax + 1));
  note.resize(sizeof(wire::PieceHead));
  EXPECT_EQ(refusal_of(note), TransferRefusal::Malformed);
  // Before the grant.
  wire::OfferHead offer{.version = wire::kVersion + 1};
  for (int i = 0; i < 3; ++i) {
    if (i == 1) offer = {.magic = 0x20544547};
    if (i == 2) offer = {.fingerprint_bytes = wire::kFingerprintBytesMax + 1};
    TransferBytes bytes;
    wire::append(bytes, offer);
    TransferPeer peer(receiver->address());
    peer.send(bytes);
    const auto right = i == 0 ? TransferRefusal::Version : TransferRefusal::Malformed;
    EXPECT_EQ(peer.answer(), static_cast<uint32_t>(right));
  }
}

TEST_P(Transfer, SurvivesRandomDamageAndCommitsOnlyWhatWasSent) {
  receive();
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (uint64_t generation = 1; generation <= 150; ++generation) {
    const TransferGrant grant = grant_of(generation, generation);
    TransferBytes bytes = stream(grant);
    // Also beyond the offer, or hardly any would be let in.
    const size_t from = random() % 2 == 0 ? 0 : sizeof(wire::OfferHead) + 8;
    const size_t at = from + random() % (bytes.size() - from);
    const uint32_t bit = random() % 8;
    // Not the wishes for an arena: they are granted, and this writer cannot read what is then said.
    if (at == offsetof(wire::OfferHead, features) && bit < 2) continue;
    table.open(grant, kContent, {1, 2, 3});
    bytes[at] ^= static_cast<std::byte>(1u << bit);
    if (random() % 8 == 0) bytes = stream(grant);
    const bool intact = bytes == stream(grant);
    TransferPeer peer(receiver->address());
    peer.send(bytes);
    peer.finish();
    const auto end = received.now(generation);
    if (end.has_value() && end->good) {
      for (int32_t i = 0; i < 3; ++i) ASSERT_EQ(target.block(1 + i), source.block(i));
    }
    EXPECT_EQ(end.has_value() && end->good, intact);
    EXPECT_TRUE(table.close(generation)) << "nobody writes any more";
  }
}

TEST_P(Transfer, GivesUpAPeerThatSaysNothing) {
  receive(kImpatient);
  // Without a word, without a whole offer, in the middle of a block.
  TransferPeer mute(receiver->address());
  EXPECT_EQ(mute.answer(), std::nullopt);
  TransferPeer half(receiver->address());
  half.send(first_of(stream(grant_of(1)), 20));
  EXPECT_EQ(half.answer(), std::nullopt);
  table.open(grant_of(1), kContent, {1, 2, 3});
  TransferPeer stalled(receiver->address());
  stalled.send(first_of(stream(grant_of(1)), 200));
  EXPECT_EQ(stalled.answer(), 0u);
  EXPECT_EQ(stalled.answer(), std::nullopt);
  EXPECT_FALSE(received.wait(1).good);
}

TEST_P(Transfer, DoesNotLetAPeerWithoutAGrantStayByTricklingBytes) {
  receive(kImpatient);
  TransferPeer trickling(receiver->address());
  const TransferBytes offer = offer_bytes(grant_of(1), kContent, kFingerprint);
  size_t sent_bytes = 0;
  while (sent_bytes < offer.size() - 1 && trickling.send(std::span(offer).subspan(sent_bytes, 1))) {
    ++sent_bytes;
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_LT(sent_bytes, offer.size() - 1);
}

TEST_P(Transfer, WaitsForBlocksThatAreStillBeingComputed) {
  receive(kHeardInTime);
  send_as(kFingerprint, kHeardInTime);
  table.open(grant_of(1), kContent, {1, 2});
  sender->begin(push(1, grant_of(1)));
  std::this_thread::sleep_for(1.5 * kHeardInTime);
  sender->extend(1, std::vector<int32_t>{0});
  std::this_thread::sleep_for(1.5 * kHeardInTime);
  sender->extend(1, std::vector<int32_t>{1});
  sender->finish(1);
  EXPECT_TRUE(received.wait(1).good);
  EXPECT_TRUE(sent.wait(1).good);
}

TEST_P(Transfer, EndsPushesWhenTheEngineStops) {
  receive();
  send_as(kFingerprint);
  table.open(grant_of(1), kContent, {1, 2});
  sender->begin(push(7, grant_of(1)));
  sender->extend(7, std::vector<int32_t>{0});
  // Wherever it is by then.
  std::this_thread::sleep_for(5ms);
  sender.reset();
  EXPECT_FALSE(sent.wait(7).good);
  if (!table.close(1)) {
    EXPECT_FALSE(received.wait(1).good);
  }
}

TEST_P(Transfer, WritesNothingOnceItHasSaidThatItIsOver) {
  receive();
  std::mt19937 random(7);
  for (uint64_t generation = 1; generation <= 40; ++generation) {
    const TransferGrant grant = grant_of(1, generation);
    std::vector<int32_t> blocks(64);
    for (int32_t i = 0; i < 64; ++i) blocks[static_cast<size_t>(i)] = i;
    table.open(grant, kContent, blocks);
    std::atomic<bool> attached{false};
    std::thread writer([&] {
      TransferPeer peer(receiver->address());
      peer.send(offer_bytes(grant, kContent, kFingerprint));
      if (peer.answer() != 0u) return;
      attached = true;
      for (uint32_t i = 0; i < 64; ++i)
        if (!peer.send(piece_bytes(source, i, {static_cast<int32_t>(i)}))) return;
    });
    while (!attached) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1500));
    if (!table.close(1)) {
      receiver->look();
      EXPECT_FALSE(received.wait(1).good);
    } else {
      EXPECT_FALSE(received.wait(1).good) << "the writer went by itself";
    }
    // The blocks are somebody else's from here on.
    for (const int32_t block : blocks) target.fill(block, std::byte{42});
    writer.join();
    for (const int32_t block : blocks)
      for (const std::byte byte : target.block(block)) ASSERT_EQ(byte, std::byte{42}) << "block " << block;
  }
}

TEST_P(Transfer, SendsAWriterThatHasFallenSilentAwayWhenItsTransferIsClosed) {
  receive();
  table.open(grant_of(1), kContent, {1, 2, 3});
  TransferPeer silent(receiver->address());
  silent.send(first_of(stream(grant_of(1)), 200));
  EXPECT_EQ(silent.answer(), 0u);
  EXPECT_FALSE(table.close(1));
  receiver->look();
  EXPECT_FALSE(received.wait(1).good) << "long before its silence is over";
  EXPECT_EQ(silent.answer(), std::nullopt);
}

INSTANTIATE_TEST_SUITE_P(Over, Transfer, ::testing::Values("unix", "tcp:127.0.0.1:0"),
                         [](const auto& which) { return std::string(which.param).substr(0, which.param[0] == 'u' ? 4 : 3); });

}  // namespace
}  // namespace penstock
