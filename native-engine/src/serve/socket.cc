// poll() loop of the socket thread. See socket.h.
#include "serve/socket.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <type_traits>
#include <utility>

#include "serve/log.h"

namespace penstock {
namespace {

constexpr size_t kReadBytes = 64 * 1024;
// Rounds of reading per wake-up, so that a flood of frames cannot keep PONGs and output from leaving.
constexpr int kReadsPerTurn = 16;
// A reader that has not taken the last frames by then will not.
constexpr auto kFlushTime = std::chrono::seconds(2);
// An agent says HELLO at once; without a limit, a stray connection would keep the engine from its agent.
constexpr auto kGreetingTime = std::chrono::seconds(5);

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

// macOS has no MSG_NOSIGNAL; the process ignores SIGPIPE anyway.
#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif

}  // namespace

SocketServer::SocketServer(Listener& listener, const frame::Ready& ready, Inbox& inbox, Outbox& outbox,
                           const WakePipe& wake, const std::atomic<bool>& stop)
    : listener_(listener), ready_(ready), inbox_(inbox), outbox_(outbox), wake_(wake), stop_(stop) {}

void SocketServer::run() {
  for (;;) {
    if (stop_) begin_shutdown();
    if (state_ == State::Open && outbox_.overflowed()) {
      log_line(LogLevel::Warn, "agent_does_not_read", {{"waiting_bytes", outbox_.waiting_bytes()}});
      disconnect("overflow");
    }
    if (state_ != State::Nobody) write_some();
    const bool late = patience_until_.has_value() && Clock::now() >= *patience_until_;
    if (state_ == State::Closing && (late || unsent_.empty())) disconnect("closed");
    if (state_ == State::Greeting && late) fail("no HELLO came");
    if (outbox_.closed()) {
      // The step loop has said its last word; it only has to leave.
      if (!patience_until_.has_value()) patience_until_ = Clock::now() + kFlushTime;
      if (state_ == State::Nobody || late || (unsent_.empty() && outbox_.waiting_bytes() == 0)) return;
    }

    const bool listens_to_owner = (state_ == State::Greeting || state_ == State::Open) && !inbox_.full();
    const auto owner_events = static_cast<short>((listens_to_owner ? POLLIN : 0) | (unsent_.empty() ? 0 : POLLOUT));
    pollfd polled[3] = {
        {.fd = wake_.fd(), .events = POLLIN, .revents = 0},
        {.fd = listener_.fd(), .events = POLLIN, .revents = 0},
        {.fd = connection_.get(), .events = owner_events, .revents = 0},  // a negative fd is skipped
    };
    if (poll(polled, 3, poll_timeout_ms()) < 0 && errno != EINTR)
      throw std::system_error(errno, std::generic_category(), "poll");
    if (polled[0].revents != 0) wake_.drain();
    if (polled[2].revents != 0) {
      const bool gone = (polled[2].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
      if (listens_to_owner)
        read_some();
      else if (gone)
        disconnect("hung_up");
    }
    // After the owner: when it left in this very turn, the next one takes its place.
    if (polled[1].revents != 0) accept_all();
  }
}

int SocketServer::poll_timeout_ms() const {
  if (!patience_until_.has_value()) return -1;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(*patience_until_ - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(left + 1, 0));
}

void SocketServer::accept_all() {
  for (Descriptor accepted = listener_.accept(); accepted.is_open(); accepted = listener_.accept()) {
    if (shutting_down_) {
      refuse(accepted, "the engine is shutting down");
    } else if (state_ != State::Nobody) {
      refuse(accepted, "the engine is owned by another connection");
    } else {
      connection_ = std::move(accepted);
      state_ = State::Greeting;
      patience_until_ = Clock::now() + kGreetingTime;
      decoder_ = {};
      outbox_.open(++number_);
      log_line(LogLevel::Debug, "connected", {{"connection", number_}});
    }
  }
}

void SocketServer::refuse(const Descriptor& second, const std::string& reason) {
  std::vector<uint8_t> bytes;
  append_frame(bytes, frame::Fatal{reason});
  // A fresh socket has room for it. Should the peer be gone already, there is nobody to tell.
  [[maybe_unused]] const ssize_t sent = send(second.get(), bytes.data(), bytes.size(), kSendFlags);
  log_line(LogLevel::Warn, "connection_refused", {{"reason", reason}});
}

void SocketServer::read_some() {
  uint8_t bytes[kReadBytes];
  for (int turn = 0; turn < kReadsPerTurn; ++turn) {
    const ssize_t count = recv(connection_.get(), bytes, sizeof bytes, 0);
    if (count == 0) return disconnect("end_of_stream");
    if (count < 0) return would_block() ? void() : disconnect("read_error");
    try {
      decoder_.push({bytes, static_cast<size_t>(count)});
      while (state_ == State::Greeting || state_ == State::Open) {
        std::optional<Frame> frame = decoder_.next();
        if (!frame.has_value()) break;
        handle(std::move(*frame));
      }
    } catch (const FrameError& error) {
      fail(error.what());
    }
    if (state_ == State::Closing || inbox_.full()) return;
  }
}

void SocketServer::handle(Frame frame) {
  std::visit(
      [&](auto& body) {
        using Body = std::remove_reference_t<decltype(body)>;
        if constexpr (std::is_same_v<Body, frame::Hello>) {
          if (state_ != State::Greeting) return fail("HELLO came twice");
          if (body.protocol != kEngineProtocol)
            return fail("protocol " + std::to_string(body.protocol) + " is not spoken here, only " +
                        std::to_string(kEngineProtocol));
          state_ = State::Open;
          patience_until_.reset();
          outbox_.append(number_, ready_);
          inbox_.post(event::Connected{number_});
        } else if (state_ == State::Greeting) {
          fail("the first frame must be HELLO");
        } else if constexpr (std::is_same_v<Body, frame::Ping>) {
          outbox_.append(number_, frame::Pong{body.nonce});
        } else if constexpr (std::is_same_v<Body, frame::Shutdown>) {
          begin_shutdown();
        } else if constexpr (std::is_same_v<Body, frame::Submit>) {
          if (shutting_down_)
            outbox_.append(number_,
                           frame::Rejected{body.id, frame::RejectCode::Draining, "the engine is shutting down"});
          else
            inbox_.post(std::move(body));
        } else if constexpr (std::is_same_v<Body, frame::Push>) {
          if (shutting_down_)
            outbox_.append(number_,
                           frame::Rejected{body.id, frame::RejectCode::Draining, "the engine is shutting down"});
          else
            inbox_.post(std::move(body));
        } else if constexpr (std::is_same_v<Body, frame::Reserve>) {
          if (shutting_down_)
            outbox_.append(number_, frame::Reserved{.id = body.id, .code = frame::ReserveCode::Draining, .grant = {}});
          else
            inbox_.post(std::move(body));
        } else if constexpr (std::is_same_v<Body, frame::Cancel> || std::is_same_v<Body, frame::Credit> ||
                             std::is_same_v<Body, frame::Vocabulary> || std::is_same_v<Body, frame::Renew> ||
                             std::is_same_v<Body, frame::Release>) {
          inbox_.post(body);
        } else {
          fail("a frame that only an engine sends");
        }
      },
      frame);
}

void SocketServer::write_some() {
  outbox_.take(unsent_);
  while (sent_bytes_ < unsent_.size()) {
    const ssize_t count =
        send(connection_.get(), unsent_.data() + sent_bytes_, unsent_.size() - sent_bytes_, kSendFlags);
    if (count < 0) {
      if (!would_block()) return disconnect("write_error");
      break;
    }
    sent_bytes_ += static_cast<size_t>(count);
    outbox_.sent(static_cast<size_t>(count));
  }
  // Small leftovers are moved to the front, large ones only when half is gone: each byte is moved a bounded number of
  // times.
  if (sent_bytes_ * 2 >= unsent_.size()) {
    unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(sent_bytes_));
    sent_bytes_ = 0;
  }
}

void SocketServer::begin_shutdown() {
  if (std::exchange(shutting_down_, true)) return;
  log_line(LogLevel::Info, "shutting_down");
  inbox_.post(event::Shutdown{});
}

// Says why and ends the connection. The bytes already due go first, so that the peer sees what happened in order.
void SocketServer::fail(const std::string& reason) {
  log_line(LogLevel::Warn, "protocol_error", {{"connection", number_}, {"reason", reason}});
  outbox_.take(unsent_);
  append_frame(unsent_, frame::Fatal{reason});
  tell_step_loop_gone();
  outbox_.open(std::nullopt);
  state_ = State::Closing;
  patience_until_ = Clock::now() + kFlushTime;
}

void SocketServer::disconnect(const char* why) {
  log_line(LogLevel::Debug, "disconnected", {{"connection", number_}, {"why", why}});
  tell_step_loop_gone();
  outbox_.open(std::nullopt);
  connection_.reset();
  state_ = State::Nobody;
  unsent_.clear();
  sent_bytes_ = 0;
  patience_until_.reset();
}

void SocketServer::tell_step_loop_gone() {
  if (state_ == State::Open) inbox_.post(event::Disconnected{});
}

}  // namespace penstock
