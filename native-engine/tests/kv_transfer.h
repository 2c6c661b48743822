// Memory that stands for a paged cache, and a peer that says what it likes, for tests of the KV transport. Every wait has a
// limit, so that a lost answer fails a test and does not hang it.
#pragma once

#include <sys/socket.h>
#include <sys/time.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kv/checksum.h"
#include "kv/endpoint.h"
#include "kv/transfer_table.h"
#include "kv/transfer_wire.h"
#include "kv/view.h"

namespace penstock::testing {

using TransferBytes = std::vector<std::byte>;

inline constexpr uint64_t kContent = 77;
inline constexpr const char* kFingerprint = "layout/1";

inline TransferGrant grant_of(uint64_t id, uint64_t generation = 1) {
  return {id, generation, {1, 2, 3, static_cast<uint8_t>(generation)}};
}

inline TransferBytes first_of(TransferBytes bytes, size_t count) {
  bytes.resize(count);
  return bytes;
}

struct TransferPool {
  TransferPool(int32_t layers, int32_t blocks, int64_t block_bytes, uint32_t seed)
      : bytes(static_cast<size_t>(layers * blocks * block_bytes)),
        view{bytes.data(), layers, blocks, block_bytes} {
    std::mt19937 random(seed);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  }
  TransferBytes block(int32_t id) const {
    TransferBytes all;
    for (int32_t layer = 0; layer < view.layers; ++layer) {
      const auto part = view.at(layer, id);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  void fill(int32_t id, std::byte value) {
    for (int32_t layer = 0; layer < view.layers; ++layer)
      for (std::byte& byte : view.at(layer, id)) byte = value;
  }

  std::vector<std::byte> bytes;
  KvView view;
};

// What came to an end, from whichever thread.
class TransferEnds {
 public:
  struct End {
    bool good = false;
    std::string error;
  };
  void note(uint64_t id, End end) {
    std::lock_guard lock(mutex_);
    if (!ends_.emplace(id, std::move(end)).second) twice_ = true;
    changed_.notify_all();
  }
  // The end of `id`, which the next one may then use again.
  End wait(uint64_t id) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return ends_.contains(id); }))
      throw std::runtime_error("transfer " + std::to_string(id) + " did not end");
    const End end = ends_.at(id);
    ends_.erase(id);
    return end;
  }
  std::optional<End> now(uint64_t id) {
    std::lock_guard lock(mutex_);
    const auto found = ends_.find(id);
    return found == ends_.end() ? std::nullopt : std::optional(found->second);
  }
  bool none() {
    std::lock_guard lock(mutex_);
    return ends_.empty();
  }
  bool twice() {
    std::lock_guard lock(mutex_);
    return twice_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, End> ends_;
  bool twice_ = false;
};

// A blocking connection that sends whatever it is told to.
class TransferPeer {
 public:
  explicit TransferPeer(const std::string& address) : socket_(connect_to(address)) {
    // connect_to() is for poll(): from here on every call waits, but not for ever.
    const timeval limit{.tv_sec = 20, .tv_usec = 0};
    fcntl(socket_.get(), F_SETFL, fcntl(socket_.get(), F_GETFL) & ~O_NONBLOCK);
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  }
  // False: the other side is gone.
  bool send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return false;
      bytes = bytes.subspan(static_cast<size_t>(count));
    }
    return true;
  }
  // The refusal of the next answer, 0 for none; nullopt: the connection ended without one.
  std::optional<uint32_t> answer() {
    std::byte bytes[sizeof(wire::Answer)];
    for (size_t at = 0; at < sizeof bytes;) {
      const ssize_t count = recv(socket_.get(), bytes + at, sizeof bytes - at, 0);
      if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) throw std::runtime_error("no answer came");
      if (count <= 0) return std::nullopt;
      at += static_cast<size_t>(count);
    }
    const auto answer = wire::read<wire::Answer>(bytes);
    if (answer.magic != wire::kAnswer) throw std::runtime_error("not an answer");
    return answer.refusal;
  }
  void hang_up() { socket_.reset(); }
  // Says that nothing more comes, and returns when the other side is gone too.
  void finish() {
    shutdown(socket_.get(), SHUT_WR);
    while (answer().has_value()) {
    }
  }

 private:
  Descriptor socket_;
};

inline TransferBytes offer_bytes(const TransferGrant& grant, uint64_t content, const std::string& fingerprint) {
  TransferBytes out;
  wire::append(out, wire::OfferHead{.id = grant.id,
                                    .generation = grant.generation,
                                    .secret = grant.secret,
                                    .content = content,
                                    .fingerprint_bytes = static_cast<uint32_t>(fingerprint.size())});
  for (const char letter : fingerprint) out.push_back(static_cast<std::byte>(letter));
  return out;
}

// `layers`: of each block, all of them where none are named.
inline TransferBytes piece_bytes(const TransferPool& pool, uint32_t first, const std::vector<int32_t>& blocks,
                                 uint32_t layer = 0, uint32_t layers = 0) {
  TransferBytes out;
  if (layers == 0) layers = static_cast<uint32_t>(pool.view.layers);
  wire::append(out, wire::PieceHead{
                        .first = first, .count = static_cast<uint32_t>(blocks.size()), .layer = layer, .layers = layers});
  Checksum sum;
  for (const int32_t id : blocks) {
    for (uint32_t at = layer; at < layer + layers; ++at) {
      const auto part = pool.view.at(static_cast<int32_t>(at), id);
      sum.update(part);
      out.insert(out.end(), part.begin(), part.end());
    }
  }
  wire::append(out, sum.value());
  return out;
}

inline TransferBytes end_bytes(uint32_t count, const TransferBytes& note = {}) {
  TransferBytes out;
  wire::append(out, wire::PieceHead{
                        .magic = wire::kEnd, .count = count, .note_bytes = static_cast<uint32_t>(note.size())});
  if (note.empty()) return out;
  Checksum sum;
  sum.update(note);
  out.insert(out.end(), note.begin(), note.end());
  wire::append(out, sum.value());
  return out;
}

}  // namespace penstock::testing
