// The socket thread. Owns the one connection that owns the engine, its handshake, PING, and the flow of bytes both
// ways; it never waits for a step. What the frames do to sequences is loop.h, where the bytes wait is mailbox.h.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "serve/frames.h"
#include "serve/listener.h"
#include "serve/mailbox.h"

namespace penstock {

//              accept()              HELLO            FrameError, overflow
//    (nobody) ───────────▶ Greeting ─────────▶ Open ───────────────────────▶ Closing
//        ▲                    │ peer gone         │ peer gone                   │ flushed, late, peer gone
//        └────────────────────┴───────────────────┴─────────────────────────────┘
//    Anything but HELLO, or HELLO too late, takes Greeting to Closing.
//
// Greeting  connected, nothing said yet; the step loop does not know of it.
// Open      the step loop was told Connected; frames go both ways.
// Closing   the step loop was told Disconnected; the FATAL is on its way, what arrives is ignored.
// While there is a connection in any of these, a second one is refused with FATAL.
class SocketServer {
 public:
  // All arguments must outlive run(). `stop` set and `wake` woken ask for a clean end, as SHUTDOWN does.
  SocketServer(Listener& listener, const frame::Ready& ready, Inbox& inbox, Outbox& outbox, const WakePipe& wake,
               const std::atomic<bool>& stop);

  // Serves until the outbox is closed and flushed. Throws std::system_error when poll() fails.
  void run();

 private:
  using Clock = std::chrono::steady_clock;
  enum class State : uint8_t { Nobody, Greeting, Open, Closing };

  int poll_timeout_ms() const;
  void accept_all();
  void refuse(const Descriptor& second, const std::string& reason);
  void read_some();
  void handle(Frame frame);
  void write_some();
  void begin_shutdown();
  void fail(const std::string& reason);
  void disconnect(const char* why);
  void tell_step_loop_gone();

  Listener& listener_;
  const frame::Ready& ready_;
  Inbox& inbox_;
  Outbox& outbox_;
  const WakePipe& wake_;
  const std::atomic<bool>& stop_;

  State state_ = State::Nobody;
  Descriptor connection_;
  ConnectionNumber number_ = 0;  // of the current or last connection
  FrameDecoder decoder_;
  std::vector<uint8_t> unsent_;
  size_t sent_bytes_ = 0;  // of unsent_
  bool shutting_down_ = false;
  // Greeting: HELLO must come before. Closing, and at the end: how long a slow reader is waited for.
  std::optional<Clock::time_point> patience_until_;
};

}  // namespace penstock
