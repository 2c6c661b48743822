// The agent's side of the socket, for tests. Owns a blocking connection and what has arrived on it; every wait has a
// limit, so that a lost frame fails a test and does not hang it.
#pragma once

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "serve/frames.h"

namespace penstock {

class Client {
 public:
  explicit Client(const std::string& path) {
    fd_ = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    const timeval limit{.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      throw std::runtime_error("cannot connect");
  }
  ~Client() { hang_up(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void hang_up() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  bool send_bytes(const std::vector<uint8_t>& bytes) {
    size_t at = 0;
    while (at < bytes.size()) {
      const ssize_t count = ::send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (count <= 0) return false;
      at += static_cast<size_t>(count);
    }
    return true;
  }
  bool send(const Frame& frame) {
    std::vector<uint8_t> bytes;
    append_frame(bytes, frame);
    return send_bytes(bytes);
  }

  // The next frame of any type; nullopt when the engine closed the connection.
  std::optional<Frame> receive() {
    for (;;) {
      if (auto frame = decoder_.next()) return frame;
      uint8_t bytes[4096];
      const ssize_t count = recv(fd_, bytes, sizeof bytes, 0);
      if (count == 0 || (count < 0 && errno == ECONNRESET)) return std::nullopt;
      if (count < 0) throw std::runtime_error("nothing came from the engine");
      decoder_.push({bytes, static_cast<size_t>(count)});
    }
  }
  // The next frame of type T. Tokens and ends passed on the way are kept in `tokens` and `finished`.
  template <typename T>
  T expect() {
    for (;;) {
      auto frame = receive();
      if (!frame.has_value()) throw std::runtime_error("the engine closed the connection");
      note(*frame);
      if (auto* body = std::get_if<T>(&*frame)) return std::move(*body);
      if (auto* fatal = std::get_if<frame::Fatal>(&*frame)) throw std::runtime_error("FATAL: " + fatal->message);
    }
  }
  frame::Ready hello() {
    send(frame::Hello{kEngineProtocol});
    return expect<frame::Ready>();
  }
  Finished finish_of(uint64_t id) {
    while (!finished.contains(id)) expect<Finished>();
    return finished.at(id);
  }
  // STATS for which `holds` is true; STATS come on their own at least every second.
  template <typename Holds>
  frame::Stats stats_where(Holds holds) {
    for (;;) {
      const auto stats = expect<frame::Stats>();
      if (holds(stats)) return stats;
    }
  }

  // STATS for which `holds` is true and that know of everything sent before: behind a sequence that came after it.
  template <typename Holds>
  frame::Stats settled(Holds holds) {
    frame::Submit last;
    last.id = UINT64_MAX - settled_++;
    last.prompt = {1};
    last.credit_tokens = 1;
    send(last);
    finish_of(last.id);
    return stats_where(holds);
  }

  std::map<uint64_t, std::vector<int32_t>> tokens;
  std::map<uint64_t, std::vector<frame::Token>> details;
  std::map<uint64_t, Finished> finished;

  void note(const Frame& frame) {
    if (const auto* body = std::get_if<frame::Tokens>(&frame)) {
      for (const frame::Token& token : body->tokens) {
        if (finished.contains(token.id)) throw std::runtime_error("a token came after the end");
        tokens[token.id].push_back(static_cast<int32_t>(token.token));
        details[token.id].push_back(token);
      }
    }
    if (const auto* body = std::get_if<Finished>(&frame)) {
      if (!finished.emplace(body->id, *body).second) throw std::runtime_error("a sequence ended twice");
    }
  }

 private:
  int fd_ = -1;
  uint64_t settled_ = 0;
  FrameDecoder decoder_;
};

}  // namespace penstock
