// What the socket thread and the step thread say to each other. Owns the two queues between them and their bounds; no
// file descriptor, no model. Safe from both threads.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "serve/frames.h"

namespace penstock {

// Bytes of commands that may wait while a step runs: two of the largest frames. Beyond it the socket is not read.
inline constexpr size_t kInboxBytesMax = 2 * kFrameBodyBytesMax;
// Bytes that may wait for a slow agent. Credits keep it far below: a token costs at most 180 bytes, so this is the
// output of 90,000 credits nobody reads. An agent that gets here has granted what it does not take.
inline constexpr size_t kOutboxBytesMax = 16 * 1024 * 1024;

// Connections are numbered from 1, so that what is said late about one never reaches the next.
using ConnectionNumber = uint64_t;

namespace event {
struct Connected {
  ConnectionNumber connection;
};
struct Disconnected {};
struct Shutdown {};
struct GrammarsCompiled {};
// From the transport's threads: the writer of a reservation has left, the reader of a sequence's blocks has.
struct TransferEnded {
  uint64_t id;
  uint64_t generation;
  bool complete;
  TransferNote note;
};
struct PushEnded {
  uint64_t id;
  bool arrived;
  std::string error;
};
}  // namespace event

using Event = std::variant<event::Connected, event::Disconnected, event::Shutdown, frame::Submit, frame::Cancel,
                           frame::Credit, frame::Vocabulary, frame::Reserve, frame::Renew, frame::Release, frame::Push,
                           event::GrammarsCompiled, event::TransferEnded, event::PushEnded>;

// Socket thread and the threads of the transport → step thread.
class Inbox {
 public:
  // `on_room` is called, from the step thread, when a full inbox has been emptied.
  explicit Inbox(std::function<void()> on_room) : on_room_(std::move(on_room)) {}

  // Always succeeds; the socket thread stops reading frames while full().
  void post(Event event);
  bool full() const;
  // Moves everything that waits to `events` (cleared first), waiting for something until then; nullopt: for ever.
  void take(std::vector<Event>& events, std::optional<std::chrono::steady_clock::time_point> until);

 private:
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Event> events_;
  size_t bytes_ = 0;
  std::function<void()> on_room_;
};

// Both threads → the owner's socket. Frames are appended whole, in order.
class Outbox {
 public:
  // `on_bytes` is called after bytes, or the end, were added; it must be cheap and may come from either thread.
  explicit Outbox(std::function<void()> on_bytes) : on_bytes_(std::move(on_bytes)) {}

  // From now on only frames for this connection are kept; nullopt: none are. What waits is dropped.
  void open(std::optional<ConnectionNumber> connection);
  // Frames for another connection than the open one are dropped, and so is everything after an overflow.
  void append(ConnectionNumber connection, const Frame& frame);
  // Moves what waits to the end of `bytes` and returns how much that was. It counts as waiting until sent() is told.
  size_t take(std::vector<uint8_t>& bytes);
  void sent(size_t count);

  size_t waiting_bytes() const;
  bool overflowed() const;
  // The step loop has ended: nothing more will come.
  void close();
  bool closed() const;

 private:
  mutable std::mutex mutex_;
  std::vector<uint8_t> bytes_;
  std::optional<ConnectionNumber> connection_;
  size_t unsent_bytes_ = 0;  // taken and not yet sent
  bool overflowed_ = false;
  bool closed_ = false;
  std::function<void()> on_bytes_;
};

}  // namespace penstock
