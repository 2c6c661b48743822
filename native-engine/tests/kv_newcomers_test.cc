// Peers that connect and show no grant. Goal: however many there are, whoever has a grant is let in and stays, and what is known
// of a peer that waits is no more than its place.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>

#include <filesystem>
#include <memory>
#include <thread>

#include "kv/newcomers.h"
#include "kv_transport.h"

namespace penstock {
namespace {

using namespace penstock::testing;
using namespace std::chrono_literals;

constexpr auto kPatient = 60'000ms;  // longer than any test waits for anything: nothing here ends by itself

std::optional<size_t> gives_way(const std::vector<std::string>& peers, const std::string& peer, NewcomerLimits limits) {
  return who_gives_way(peers, peer, limits);
}

TEST(Newcomers, GiveWayOnlyWhereThereIsNoRoom) {
  EXPECT_EQ(gives_way({}, "a", {4, 2}), std::nullopt);
  EXPECT_EQ(gives_way({"a", "b"}, "a", {4, 2}), std::nullopt);
  EXPECT_EQ(gives_way({"a", "b", "b"}, "a", {4, 2}), std::nullopt);
  EXPECT_EQ(gives_way({"b", "a", "a"}, "a", {4, 2}), 1u) << "the oldest of a peer that has all it may have";
  EXPECT_EQ(gives_way({"a", "b", "c", "d"}, "e", {4, 2}), 0u) << "the oldest where all have as many";
  EXPECT_EQ(gives_way({"a", "b", "c", "d"}, "c", {4, 2}), 2u) << "the new one counts as its peer's";
  EXPECT_EQ(gives_way({"a", "b", "c", "b"}, "d", {4, 2}), 1u) << "the oldest of the peer that has most";
  EXPECT_EQ(gives_way({}, "a", {0, 0}), std::nullopt) << "one has a place whatever the limits";
  EXPECT_EQ(gives_way({"a"}, "b", {1, 1}), 0u);
}

// Whom the other side takes a connection from `from` to a listener at `at` for.
std::string taken_for(std::string at, const std::string& from = "") {
  const Descriptor listener = listen_at(at);
  Descriptor made;
  if (from.empty()) {
    made = connect_to(at);
  } else {
    made = Descriptor(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in own{}, other{};
    own.sin_family = other.sin_family = AF_INET;
    inet_pton(AF_INET, from.c_str(), &own.sin_addr);
    other.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    other.sin_port = htons(static_cast<uint16_t>(std::stoi(at.substr(at.rfind(':') + 1))));
    if (bind(made.get(), reinterpret_cast<sockaddr*>(&own), sizeof own) != 0 ||
        connect(made.get(), reinterpret_cast<sockaddr*>(&other), sizeof other) != 0)
      return "no connection";
  }
  pollfd polled{listener.get(), POLLIN, 0};
  if (poll(&polled, 1, 20'000) != 1) return "no connection";
  const Descriptor accepted(accept(listener.get(), nullptr, nullptr));
  stop_listening(at);
  return peer_of(accepted);
}

bool has_ipv6() {
  try {
    std::string at = "tcp:[::1]:0";
    listen_at(at);
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

TEST(PeerOf, IsAnAddressANetworkOrAUser) {
  EXPECT_EQ(taken_for("tcp:127.0.0.1:0"), "127.0.0.1");
  EXPECT_EQ(taken_for("tcp:127.0.0.1:0", "127.0.0.2"), "127.0.0.2");
  EXPECT_EQ(peer_of(Descriptor()), "");
  const std::string directory = temporary_folder();
  EXPECT_EQ(taken_for("unix:" + directory + "/kv.sock"), "user " + std::to_string(getuid()));
  std::filesystem::remove_all(directory);
  if (!has_ipv6()) GTEST_SKIP() << "no IPv6 here";
  EXPECT_EQ(taken_for("tcp:[::1]:0"), "::/64");
  EXPECT_EQ(taken_for("tcp:[::]:0", "127.0.0.3"), "127.0.0.3") << "an IPv4 address is one also to a socket that listens for both";
}

class Strangers : public TransportTest {
 protected:
  void receive_with(ReceiverOptions options) {
    receiver = std::make_unique<KvReceiver>(target.view, kFingerprint, table, listen_address(), options);
  }
  // Connects, and says nothing.
  std::unique_ptr<TransferPeer> stranger() const {
    for (int tries = 0;; ++tries) {
      try {
        return std::make_unique<TransferPeer>(receiver->address());
      } catch (const std::system_error&) {
        // A Unix socket's backlog is full.
        if (tries == 1000) throw;
        std::this_thread::sleep_for(1ms);
      }
    }
  }
  std::vector<std::unique_ptr<TransferPeer>> strangers(size_t count) const {
    std::vector<std::unique_ptr<TransferPeer>> all;
    while (all.size() < count) all.push_back(stranger());
    return all;
  }
  void expect_arrives(TransferPeer& peer) {
    EXPECT_TRUE(peer.send(stream()));
    EXPECT_EQ(peer.answer(), 0u);
    EXPECT_TRUE(received.wait(1).good);
    EXPECT_TRUE(has_first_blocks());
  }
};

TEST_P(Strangers, DoNotKeepOutWhoHasAGrant) {
  receive_with({.silence_max = kPatient, .connections_max = 4, .grant_wait_max = kPatient, .newcomers = {.places = 8, .per_peer = 8}});
  const auto mute = strangers(40);
  send_as(kFingerprint, kPatient);
  for (uint64_t id = 1; id <= 6; ++id) {
    table.open(grant_of(id), kContent, {1, 2, 3});
    sender->begin(push(id, grant_of(id)));
    sender->extend(id, std::vector<int32_t>{0, 1, 2});
    sender->finish(id);
    EXPECT_TRUE(sent.wait(id).good);
    EXPECT_TRUE(received.wait(id).good);
  }
  EXPECT_EQ(mute.front()->answer(), std::nullopt) << "the oldest has given way";
}

TEST_P(Strangers, DisplaceNobodyWhoWasLetIn) {
  receive_with({.silence_max = kPatient, .connections_max = 4, .grant_wait_max = kPatient, .newcomers = {.places = 2, .per_peer = 2}});
  table.open(grant_of(1), kContent, {1, 2, 3});
  TransferPeer peer(receiver->address());
  EXPECT_TRUE(peer.send(offer_bytes(grant_of(1), kContent, kFingerprint)));
  EXPECT_EQ(peer.answer(), 0u);
  const auto mute = strangers(20);
  EXPECT_EQ(mute[17]->answer(), std::nullopt) << "all have been accepted, two of them have places";
  expect_arrives(peer);
}

// One that shows its grant at last has its place by it, and is nobody's to displace.
TEST_P(Strangers, ThatShowAGrantAreNoneAnyMore) {
  receive_with({.silence_max = kPatient, .connections_max = 4, .grant_wait_max = kPatient, .newcomers = {.places = 2, .per_peer = 2}});
  table.open(grant_of(1), kContent, {1, 2, 3});
  const auto late = stranger();
  const TransferBytes offer = offer_bytes(grant_of(1), kContent, kFingerprint);
  EXPECT_TRUE(late->send(first_of(offer, 20)));
  const auto other = stranger();
  EXPECT_TRUE(late->send(std::span(offer).subspan(20)));
  EXPECT_EQ(late->answer(), 0u);
  const auto mute = strangers(20);
  EXPECT_EQ(other->answer(), std::nullopt);
  expect_arrives(*late);
}

// Whoever comes with its grant in hand takes none of their places, and so displaces nobody.
TEST_P(Strangers, DoNotGiveWayToWhoShowsAGrantAtOnce) {
  receive_with({.silence_max = kPatient, .connections_max = 1, .grant_wait_max = kPatient, .newcomers = {.places = 2, .per_peer = 2}});
  for (uint64_t id = 1; id <= 3; ++id) table.open(grant_of(id), kContent, {1, 2, 3});
  // While it is there nobody is accepted: what the others say is there when they are.
  const auto full = stranger();
  EXPECT_TRUE(full->send(offer_bytes(grant_of(2), kContent, kFingerprint)));
  EXPECT_EQ(full->answer(), 0u);
  const auto slow = stranger(), mute = stranger(), quick = stranger();
  const TransferBytes offer = offer_bytes(grant_of(1), kContent, kFingerprint);
  EXPECT_TRUE(slow->send(first_of(offer, 20)));
  EXPECT_TRUE(quick->send(offer_bytes(grant_of(3), kContent, kFingerprint)));
  full->hang_up();
  EXPECT_EQ(quick->answer(), 0u);
  EXPECT_TRUE(slow->send(std::span(offer).subspan(20)));
  EXPECT_EQ(slow->answer(), 0u);
  expect_arrives(*slow);
}

TEST_P(Strangers, HaveLessTimeThanWhoWasLetIn) {
  receive_with({.silence_max = kPatient, .grant_wait_max = 80ms});
  table.open(grant_of(1), kContent, {1, 2, 3});
  TransferPeer peer(receiver->address());
  EXPECT_TRUE(peer.send(offer_bytes(grant_of(1), kContent, kFingerprint)));
  EXPECT_EQ(peer.answer(), 0u);
  TransferPeer mute(receiver->address()), half(receiver->address());
  EXPECT_TRUE(half.send(first_of(offer_bytes(grant_of(2), kContent, kFingerprint), 20)));
  EXPECT_EQ(mute.answer(), std::nullopt);
  EXPECT_EQ(half.answer(), std::nullopt);
  expect_arrives(peer);
}

INSTANTIATE_TEST_SUITE_P(Over, Strangers,
                         ::testing::Values(TransportKind{"unix", true, false}, TransportKind{"tcp", false, false}),
                         [](const auto& which) { return std::string(which.param.name); });

class StrangersOfAnotherHost : public Strangers {};

// As on a network, where one host opens all it can and another one is slow.
TEST_P(StrangersOfAnotherHost, DisplaceTheirOwn) {
  receive_with({.silence_max = kPatient, .grant_wait_max = kPatient, .newcomers = {.places = 4, .per_peer = 4}});
  table.open(grant_of(1), kContent, {1, 2, 3});
  const Descriptor slow(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in own{}, other{};
  own.sin_family = other.sin_family = AF_INET;
  inet_pton(AF_INET, "127.0.0.2", &own.sin_addr);
  inet_pton(AF_INET, "127.0.0.1", &other.sin_addr);
  const std::string& at = receiver->address();
  other.sin_port = htons(static_cast<uint16_t>(std::stoi(at.substr(at.rfind(':') + 1))));
  if (bind(slow.get(), reinterpret_cast<sockaddr*>(&own), sizeof own) != 0) GTEST_SKIP() << "one loopback address only";
  ASSERT_EQ(connect(slow.get(), reinterpret_cast<sockaddr*>(&other), sizeof other), 0);
  const TransferBytes offer = offer_bytes(grant_of(1), kContent, kFingerprint);
  ASSERT_EQ(send(slow.get(), offer.data(), 20, MSG_NOSIGNAL), 20);
  const auto mute = strangers(40);
  EXPECT_EQ(mute[30]->answer(), std::nullopt) << "all that came before it have been accepted";
  ASSERT_EQ(send(slow.get(), offer.data() + 20, offer.size() - 20, MSG_NOSIGNAL), static_cast<ssize_t>(offer.size() - 20));
  wire::Answer answer{.refusal = 1};
  ASSERT_EQ(recv(slow.get(), &answer, sizeof answer, MSG_WAITALL), static_cast<ssize_t>(sizeof answer));
  EXPECT_EQ(answer.refusal, 0u);
  const TransferBytes rest = stream();
  size_t said = 0;
  while (said < rest.size()) {
    const ssize_t count = send(slow.get(), rest.data() + said, rest.size() - said, MSG_NOSIGNAL);
    ASSERT_GT(count, 0);
    said += static_cast<size_t>(count);
  }
  EXPECT_TRUE(received.wait(1).good);
}

INSTANTIATE_TEST_SUITE_P(Over, StrangersOfAnotherHost, ::testing::Values(TransportKind{"tcp", false, false}),
                         [](const auto& which) { return std::string(which.param.name); });

}  // namespace
}  // namespace penstock
