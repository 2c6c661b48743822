// The thread that takes in K and V from other engines. Owns its connections and when each of them ends; bytes go
// straight into reserved blocks (transport.h, piece.h), who may write where is transfer_table.h, their layout transfer_wire.h.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kv/endpoint.h"
#include "kv/transfer_table.h"
#include "kv/view.h"
#include "serve/descriptor.h"

namespace penstock {

struct ReceiverOptions {
  // A connection on which nothing comes for so long is given up: its blocks are waited for. So is one that has shown no
  // grant by then.
  std::chrono::milliseconds silence_max{10'000};
  // Connections at a time; more wait to be accepted.
  size_t connections_max = 64;
};

class KvReceiver {
 public:
  // Listens at every one of `address` (addresses_in()) and serves until destroyed. `kv` and `table` must outlive it. Throws as listen_at().
  KvReceiver(const KvView& kv, std::string fingerprint, TransferTable& table, std::string address,
             ReceiverOptions options = {});
  ~KvReceiver();
  KvReceiver(const KvReceiver&) = delete;
  KvReceiver& operator=(const KvReceiver&) = delete;

  // What senders connect to, each of them to the first that it reaches.
  const std::string& address() const { return address_; }

  // Some transfer was closed: whoever writes for it is sent away now, and not with its next bytes.
  void look() { wake_.wake(); }

 private:
  class Connection;
  struct Transfer;

  void run();

  KvView kv_;
  std::string fingerprint_;
  TransferTable& table_;
  ReceiverOptions options_;
  struct Listening {
    explicit Listening(std::string at) : address(std::move(at)), socket(listen_at(address)) {}
    ~Listening() { stop_listening(address); }
    Listening(const Listening&) = delete;
    Listening& operator=(const Listening&) = delete;
    std::string address;
    Descriptor socket;
  };
  std::vector<std::unique_ptr<Listening>> listeners_;
  std::string address_;
  WakePipe wake_;
  std::map<uint64_t, std::shared_ptr<Transfer>> transfers_;  // the thread's own: those that are attached
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace penstock
