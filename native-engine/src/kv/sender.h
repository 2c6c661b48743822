// The thread that hands K and V to other engines, straight from the cache. Owns connections to receivers and when each of
// them ends; how bytes cross is transport.h; which blocks are complete, and that they stay as they are, is the step loop's.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kv/piece.h"
#include "kv/transfer_table.h"
#include "kv/transport.h"
#include "kv/view.h"
#include "serve/descriptor.h"

namespace penstock {

struct Push {
  uint64_t id = 0;  // the sender's own, unique among live ones
  std::string address;  // one or more, see addresses_in(): the first that can be reached is taken
  TransferGrant grant;
  uint64_t content = 0;  // names what is sent, see transfer_wire.h
  uint32_t blocks = 0;   // that will follow; 0: not known. Few of them are not worth an arena.
};

struct SenderOptions {
  // A receiver from which nothing comes, or that takes nothing, for so long is given up.
  std::chrono::milliseconds silence_max{10'000};
  // Connections of a transfer over TCP, at most, and how many bytes are worth each of them. Blocks on a device have one: they pass
  // memory of which there is little.
  int32_t streams_max = 4;
  int64_t stream_bytes_min = 16 * 1024 * 1024;
  // Over the loopback device several carry what one does, see docs/engine.md.
  bool several_on_loopback = false;
  ZeroCopy zero_copy = ZeroCopy::automatic;
};

// For a transfer of so many bytes.
int32_t streams_for(int64_t bytes, const SenderOptions& options);

class KvSender {
 public:
  // `ended` is called from the sender's thread, once for each push: its blocks are not read any more. `arrived`: the
  // receiver has everything. `error` says why not.
  using Ended = std::function<void(uint64_t id, bool arrived, const std::string& error)>;

  // `kv` must outlive it.
  KvSender(const KvView& kv, std::string fingerprint, Ended ended, SenderOptions options = {});
  ~KvSender();
  KvSender(const KvSender&) = delete;
  KvSender& operator=(const KvSender&) = delete;

  // Connects and offers. Blocks follow by extend(). The id of an earlier push may be used again once that has ended.
  void begin(Push push);
  // These blocks are complete and stay as they are; in order, behind those that were told before.
  void extend(uint64_t id, std::span<const int32_t> blocks);
  // Some layers of them are, from number `first` of the transfer's blocks on: each layer of each block is told once, in any order.
  void extend(uint64_t id, uint32_t first, std::span<const int32_t> blocks, LayerSpan layers);
  // Everything has been told. `note`: for the other engine, at most wire::kNoteBytesMax; it comes with the last answer.
  void finish(uint64_t id, TransferNote note = {});
  // Nobody wants it any more: ended() follows at once, with arrived false. Unknown ids are ignored.
  void stop(uint64_t id);

 private:
  class Connection;
  struct Told {
    std::optional<uint32_t> first;  // absent: behind all that were told
    std::vector<int32_t> blocks;
    LayerSpan layers;
  };
  // What the step loop has said of one push and the sender's thread has not taken yet.
  struct News {
    std::unique_ptr<Push> begin;
    std::vector<Told> told;
    bool finished = false;
    TransferNote note;
    bool stopped = false;
  };

  void tell(uint64_t id, const std::function<void(News&)>& write);
  void run();
  void take_news();

  KvView kv_;
  std::string fingerprint_;
  Ended ended_;
  SenderOptions options_;
  WakePipe wake_;
  std::mutex mutex_;
  std::map<uint64_t, News> news_;
  bool leave_ = false;
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;  // the thread's own
  std::thread thread_;
};

}  // namespace penstock
