// A whole serving engine in this process, and the two halves of a hand-over, for tests.
#pragma once

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "fake_runner.h"
#include "serve/log.h"
#include "serve/server.h"
#include "serve_client.h"

namespace penstock::testing {

class TempFolder {
 public:
  TempFolder() : path_((std::filesystem::temp_directory_path() / "penstock-serve-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp");
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class Engine {
 public:
  Engine(std::unique_ptr<Runner> runner, const ServerConfig& config, const std::string& path)
      : path_(path),
        runner_(std::move(runner)),
        fake_(dynamic_cast<FakeRunner*>(runner_.get())),
        listener_(std::make_unique<Listener>(path)),
        thread_([this, config] { run_server(*listener_, *runner_, config, wake_, stop_); }) {}
  ~Engine() { end(); }

  void end() {
    if (!thread_.joinable()) return;
    stop_ = true;
    wake_.wake();
    if (fake_ != nullptr) fake_->go();
    thread_.join();
    listener_.reset();
  }
  const std::string& path() const { return path_; }
  FakeRunner& fake() { return *fake_; }

 private:
  std::string path_;
  WakePipe wake_;
  std::atomic<bool> stop_{false};
  std::unique_ptr<Runner> runner_;
  FakeRunner* fake_;
  std::unique_ptr<Listener> listener_;
  std::thread thread_;
};

inline frame::Reserve reserve_frame(uint64_t id, const std::vector<uint32_t>& tokens, uint32_t lease_ms = 60'000) {
  return {.id = id, .tokens = tokens, .lease_ms = lease_ms};
}

// What an agent makes of the answer to its RESERVE.
inline frame::Push push_frame(uint64_t id, std::vector<uint32_t> tokens, const frame::Reserved& reserved,
                              const std::string& address) {
  tokens.resize(std::min<size_t>(tokens.size(), reserved.blocks * kBlockTokens));
  frame::Push push;
  push.id = id;
  push.tokens = std::move(tokens);
  push.first_block = reserved.cached_blocks;
  push.address = address;
  push.grant = reserved.grant;
  return push;
}

}  // namespace penstock::testing
