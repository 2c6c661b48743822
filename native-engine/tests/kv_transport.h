// A peer that speaks through a transport and says what it likes, and both sides of a hand-over over each kind of transport,
// for tests. Every wait has a limit, so that a lost byte fails a test and does not hang it.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <deque>
#include <filesystem>
#include <memory>

#include "kv/receiver.h"
#include "kv/sender.h"
#include "kv/shared_memory.h"
#include "kv/transport.h"
#include "kv_transfer.h"

namespace penstock::testing {

class TransportPeer {
 public:
  TransportPeer(const std::string& address, bool shares) : transport_(open_transport(address, {.shares = shares})) {}

  // With what this transport asks for.
  TransferBytes offer(const TransferGrant& grant, uint64_t content = kContent) const {
    TransferBytes out = offer_bytes(grant, content, kFingerprint);
    auto head = wire::read<wire::OfferHead>(out);
    head.features = transport_->features();
    std::memcpy(out.data(), &head, sizeof head);
    return out;
  }
  bool let_in(const TransferGrant& grant) { return send(offer(grant)) && answer() == 0u; }

  // False: the other side is gone.
  bool send(std::span<const std::byte> bytes) {
    while (!gone_ && (!bytes.empty() || transport_->has_unsent())) {
      wait(true);
      if (gone_) break;
      const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
      const Moved moved = bytes.empty() ? transport_->write({}) : transport_->write({&part, 1});
      // What it said before it went is still to be heard.
      while (moved.over && !gone_) wait(false);
      bytes = bytes.subspan(moved.bytes);
    }
    return !gone_;
  }
  // The refusal of the next answer, 0 for none; nullopt: the connection ended without one.
  std::optional<uint32_t> answer() {
    while (answers_.empty() && !gone_) wait(false);
    if (answers_.empty()) return std::nullopt;
    const uint32_t refusal = answers_.front();
    answers_.pop_front();
    return refusal;
  }
  bool shares() const {
    const auto* shared = dynamic_cast<const SharedSource*>(transport_.get());
    return shared != nullptr && shared->shares();
  }
  int fd() const { return transport_->fd(); }
  void hang_up() { transport_.reset(); }
  // Says that nothing more comes, and returns when the other side is gone too.
  void finish() {
    shutdown(transport_->fd(), SHUT_WR);
    while (answer().has_value()) {
    }
  }

 private:
  // Until it can go on, taking in what is said meanwhile.
  void wait(bool to_write) {
    pollfd polled{transport_->fd(), transport_->events(to_write), 0};
    if (poll(&polled, 1, 20'000) == 0) throw std::runtime_error("nothing moved for 20 s");
    if ((polled.revents & (POLLIN | POLLHUP | POLLERR)) == 0) return;
    const iovec part{in_ + in_bytes_, sizeof in_ - in_bytes_};
    const Moved moved = transport_->read({&part, 1});
    if (moved.over) gone_ = true;
    in_bytes_ += moved.bytes;
    if (in_bytes_ < sizeof in_) return;
    in_bytes_ = 0;
    const auto answer = wire::read<wire::Answer>(in_);
    if (answer.magic != wire::kAnswer) throw std::runtime_error("not an answer");
    answers_.push_back(answer.refusal);
  }

  std::unique_ptr<Transport> transport_;
  std::byte in_[sizeof(wire::Answer)] = {};
  size_t in_bytes_ = 0;
  std::deque<uint32_t> answers_;
  bool gone_ = false;
};

// A kind of transport.
struct TransportKind {
  const char* name;
  bool is_unix;
  bool shares;
};
inline constexpr TransportKind kTransportKinds[] = {{"shared", true, true}, {"unix", true, false}, {"tcp", false, false}};

inline std::string temporary_folder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "penstock-kv-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
  return pattern;
}

// A receiver and what it writes to.
class TransportTest : public ::testing::TestWithParam<TransportKind> {
 protected:
  void TearDown() override {
    sender.reset();
    receiver.reset();
    EXPECT_FALSE(received.twice() || sent.twice()) << "something ended twice";
    EXPECT_TRUE(std::filesystem::is_empty(directory)) << "a socket is left behind";
    std::filesystem::remove_all(directory);
  }
  std::string listen_address() const { return GetParam().is_unix ? "unix:" + directory + "/kv.sock" : "tcp:127.0.0.1:0"; }
  void receive(std::chrono::milliseconds silence_max = std::chrono::seconds(20)) { receive_at(listen_address(), silence_max); }
  void receive_at(const std::string& address, std::chrono::milliseconds silence_max = std::chrono::seconds(20)) {
    receiver = std::make_unique<KvReceiver>(target.view, kFingerprint, table, address,
                                            ReceiverOptions{.silence_max = silence_max});
  }
  void send_as(const std::string& fingerprint, std::chrono::milliseconds silence_max = std::chrono::seconds(20)) {
    sender = std::make_unique<KvSender>(
        source.view, fingerprint,
        [this](uint64_t id, bool arrived, const std::string& error) { sent.note(id, {arrived, error}); },
        SenderOptions{.silence_max = silence_max});
  }
  // Whether the sender takes shared memory is decided by how much it is told to come.
  Push push_to(const std::string& address, uint64_t id, const TransferGrant& grant) const {
    return {id, address, grant, kContent, GetParam().shares ? 0u : 1u};
  }
  Push push(uint64_t id, const TransferGrant& grant) const { return push_to(receiver->address(), id, grant); }
  TransportPeer peer() const { return TransportPeer(receiver->address(), GetParam().shares); }
  // Everything behind the offer of a transfer of three blocks, and where messages end.
  TransferBytes stream(std::vector<size_t>* boundaries = nullptr) const {
    TransferBytes all;
    for (const TransferBytes& part : {piece_bytes(source, 0, {0, 1}), piece_bytes(source, 2, {2}), end_bytes(3)}) {
      all.insert(all.end(), part.begin(), part.end());
      if (boundaries != nullptr) boundaries->push_back(all.size());
    }
    return all;
  }
  bool has_first_blocks() const {
    for (int32_t i = 0; i < 3; ++i)
      if (target.block(1 + i) != source.block(i)) return false;
    return true;
  }

  std::string directory = temporary_folder();
  // A block of all layers is larger than what is told at a time, so pieces of it are on their way in an arena.
  TransferPool source{5, 20, 15'000, 1};
  TransferPool target{5, 24, 15'000, 2};
  TransferEnds received, sent;
  TransferTable table{[this](uint64_t id, uint64_t, bool complete, TransferNote) { received.note(id, {complete, {}}); }};
  std::unique_ptr<KvReceiver> receiver;
  std::unique_ptr<KvSender> sender;
};

}  // namespace penstock::testing
