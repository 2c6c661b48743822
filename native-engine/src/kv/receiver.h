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
#include "kv/newcomers.h"
#include "kv/transfer_table.h"
#include "kv/view.h"
#include "serve/descriptor.h"

namespace penstock {

struct ReceiverOptions {
  // A connection on which nothing comes for so long is given up: its blocks are waited for.
  std::chrono::milliseconds silence_max{10'000};
  // Connections at a time that have shown a grant. Where they are as many, no other is accepted and none joins another any more, so
  // that there may be more by those that were there before, `newcomers`.
  size_t connections_max = 64;
  // One that has shown no grant has a place of another kind, for so long, however much it says, and gives way to those that come
  // after it (newcomers.h). Of one peer as many as wait to be accepted: a sender may open them at once.
  std::chrono::milliseconds grant_wait_max{3'000};
  NewcomerLimits newcomers{.places = 2 * kWaitingMax, .per_peer = kWaitingMax};
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
  using Connections = std::vector<std::unique_ptr<Connection>>;

  void run();
  void accept_from(size_t listener, Connections& connections);
  void make_room(const std::string& peer, Connections& connections);
  bool is_full() const { return let_in_ >= options_.connections_max; }

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
  // The thread's own.
  std::map<uint64_t, std::shared_ptr<Transfer>> transfers_;  // those that are attached
  size_t let_in_ = 0;  // connections that have shown a grant
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace penstock
