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

class KvSender {
 public:
  // A receiver from which nothing comes, or that takes nothing, for so long is given up.
  static constexpr std::chrono::milliseconds kSilenceMax{10'000};
  // `ended` is called from the sender's thread, once for each push: its blocks are not read any more. `arrived`: the
  // receiver has everything. `error` says why not.
  using Ended = std::function<void(uint64_t id, bool arrived, const std::string& error)>;

  // `kv` must outlive it.
  KvSender(const KvView& kv, std::string fingerprint, Ended ended, std::chrono::milliseconds silence_max = kSilenceMax);
  ~KvSender();
  KvSender(const KvSender&) = delete;
  KvSender& operator=(const KvSender&) = delete;

  // Connects and offers. Blocks follow by extend(). The id of an earlier push may be used again once that has ended.
  void begin(Push push);
  // These blocks are complete and stay as they are; in order, behind those that were told before.
  void extend(uint64_t id, std::span<const int32_t> blocks);
  // Some layers of them are, from number `first` of the transfer's blocks on: each layer of each block is told once, in any order.
  // Of blocks on a device, all layers.
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
  std::chrono::milliseconds silence_max_;
  WakePipe wake_;
  std::mutex mutex_;
  std::map<uint64_t, News> news_;
  bool leave_ = false;
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;  // the thread's own
  std::thread thread_;
};

}  // namespace penstock
