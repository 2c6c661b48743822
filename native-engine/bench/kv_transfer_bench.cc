// How fast K and V are handed over, over each kind of transport, beside a plain copy of the same bytes in the same seconds.
// Owns what is measured and prints one line of JSON for each measurement, and the time of
// the cores that all took; tables are bench/engine/handoff.ts.
//
//   kv-transfer-bench [--rounds N] [--latencies N]
//
// copy        memcpy, block of a layer by block of a layer, on one thread
// stream      a transport alone, no checksum: one thread writes, one reads
// transfer    KvSender to KvReceiver, as the engine does it: connection, grant, checksums on both sides, last answer; in several
//             streams, and "zerocopy" without a copy on the sender's side
// beside      as many transfers beside each other, each with its part of the blocks
// end         a transfer whose blocks have arrived but for its last ones: from telling of those to the last answer. Several
//             streams are as many groups of layers, told while others are computed: from telling of the last group; the time of the
//             cores is that of all groups
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "kv/endpoint.h"
#include "kv/receiver.h"
#include "kv/sender.h"
#include "kv/shared_memory.h"
#include "kv/transfer_wire.h"
#include "kv/transport.h"
#include "ops/memory.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLimit = std::chrono::seconds(60);
constexpr int32_t kStreamsMax = 4;

struct Layout {
  const char* name;
  int32_t layers;
  int64_t block_bytes;  // of a layer: 16 tokens, K and V, f16
  int32_t blocks;
};
// SmolLM2-135M: 3 KV heads of 64; a model of 8 billion weights: 8 KV heads of 128.
constexpr Layout kLayouts[] = {{"135M", 30, 12'288, 128}, {"8B", 32, 65'536, 48}};

struct Pool {
  explicit Pool(const Layout& layout)
      : memory(layout.layers * layout.block_bytes * layout.blocks),
        view{memory.data(), layout.layers, layout.blocks, layout.block_bytes} {
    for (int64_t i = 0; i < memory.bytes(); i += 8) std::memcpy(memory.data() + i, &i, sizeof i);
  }
  PageMemory memory;
  KvView view;
};

struct Taken {
  double seconds = 0;
  double cpu_seconds = 0;
};

double cpu_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

template <typename Body>
Taken timed(const Body& body) {
  const double cpu = cpu_seconds();
  const auto start = Clock::now();
  body();
  return {std::chrono::duration<double>(Clock::now() - start).count(), cpu_seconds() - cpu};
}

std::vector<int32_t> ids(int32_t first, int32_t count) {
  std::vector<int32_t> all(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) all[static_cast<size_t>(i)] = first + i;
  return all;
}

// Every block of every layer, in the order of a payload.
std::vector<iovec> parts_of(const KvView& kv, int32_t blocks) {
  std::vector<iovec> parts;
  for (int32_t block = 0; block < blocks; ++block) {
    for (int32_t layer = 0; layer < kv.layers; ++layer) {
      const auto bytes = kv.at(layer, block);
      parts.push_back({bytes.data(), bytes.size()});
    }
  }
  return parts;
}

Taken copy(const Pool& from, const Pool& to, int32_t blocks) {
  const std::vector<iovec> source = parts_of(from.view, blocks), target = parts_of(to.view, blocks);
  return timed([&] {
    for (size_t i = 0; i < source.size(); ++i) std::memcpy(target[i].iov_base, source[i].iov_base, source[i].iov_len);
  });
}

// Moves all parts through one side of a transport.
void pump(Transport& transport, std::vector<iovec> parts, bool writes) {
  constexpr size_t kPartsPerCall = 16;
  size_t at = 0;
  while (at < parts.size() || transport.has_unsent()) {
    const std::span<const iovec> now = std::span(parts).subspan(at, std::min(kPartsPerCall, parts.size() - at));
    const Moved moved = writes ? transport.write(now) : transport.read(now);
    if (moved.over) throw std::runtime_error("the stream broke");
    for (size_t left = moved.bytes; left > 0;) {
      const size_t here = std::min(left, parts[at].iov_len);
      parts[at].iov_base = static_cast<std::byte*>(parts[at].iov_base) + here;
      parts[at].iov_len -= here;
      left -= here;
      if (parts[at].iov_len == 0) ++at;
    }
    if (moved.bytes > 0 || transport.has_bytes()) continue;
    pollfd polled{transport.fd(), transport.events(writes), 0};
    if (poll(&polled, 1, 10'000) == 0) throw std::runtime_error("the stream stands still");
    // Room that was given back; nothing else is said in this direction.
    std::byte answer[8];
    const iovec part{answer, sizeof answer};
    if (writes && (polled.revents & POLLIN) != 0 && transport.read({&part, 1}).over) throw std::runtime_error("gone");
  }
}

Taken stream(const Pool& from, const Pool& to, int32_t blocks, std::string address, bool shares) {
  const Descriptor listener = listen_at(address);
  const std::unique_ptr<Transport> source = open_transport(address, {.shares = shares});
  pollfd polled{listener.get(), POLLIN, 0};
  poll(&polled, 1, 10'000);
  Descriptor socket(accept(listener.get(), nullptr, nullptr));
  set_nonblocking(socket.get());
  const std::unique_ptr<Transport> target = accepted_transport(std::move(socket), address);
  stop_listening(address);
  const Taken taken = timed([&] {
    target->grant(source->features());
    std::thread reader([&] { pump(*target, parts_of(to.view, blocks), false); });
    if (source->features() != 0) {
      // The arena is on its way already; taking it says so to the reader.
      std::byte nothing[8];
      const iovec part{nothing, sizeof nothing};
      source->read({&part, 1});
    }
    pump(*source, parts_of(from.view, blocks), true);
    reader.join();
  });
  return taken;
}

// One of several groups of all layers.
LayerSpan group_of(const KvView& kv, int32_t group, int32_t groups) {
  const int32_t first = kv.layers * group / groups;
  return {first, kv.layers * (group + 1) / groups - first};
}

// Both ends of transfers, and when they are over.
class Engines {
 public:
  Engines(const Pool& from, const Pool& to, const std::string& address, SenderOptions options = {})
      : table_([](uint64_t, uint64_t, bool, TransferNote) {}),
        receiver_(to.view, "layout", table_, address),
        sender_(from.view, "layout", [this](uint64_t, bool arrived, const std::string& error) {
          std::lock_guard lock(mutex_);
          if (!arrived) error_ = error;
          ++ended_;
          changed_.notify_all();
        }, options) {}

  void begin(uint64_t id, int32_t first, int32_t blocks, bool shares) {
    const TransferGrant grant{id, ++generation_, {}};
    table_.open(grant, 0, ids(first, blocks));
    // Of an unknown number, the sender asks for shared memory; of one block, for nothing.
    const bool streams = receiver_.address().starts_with("tcp:");
    sender_.begin({id, receiver_.address(), grant, 0, shares ? 0u : streams ? static_cast<uint32_t>(blocks) : 1u});
  }
  void tell(uint64_t id, int32_t first, int32_t blocks) { sender_.extend(id, ids(first, blocks)); }
  void tell_layers(uint64_t id, int32_t first, int32_t blocks, LayerSpan layers) {
    sender_.extend(id, static_cast<uint32_t>(first), ids(first, blocks), layers);
  }
  void finish(uint64_t id) { sender_.finish(id); }
  void wait(int32_t transfers) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kLimit, [&] { return ended_ == transfers; })) throw std::runtime_error("a transfer hangs");
    if (!error_.empty()) throw std::runtime_error(error_);
    ended_ = 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int32_t ended_ = 0;
  std::string error_;
  uint64_t generation_ = 0;
  TransferTable table_;
  KvReceiver receiver_;
  KvSender sender_;
};

Taken transfer(Engines& engines, int32_t blocks, int32_t transfers, bool shares) {
  return timed([&] {
    for (int32_t i = 0; i < transfers; ++i) {
      const int32_t first = blocks * i / transfers, count = blocks * (i + 1) / transfers - first;
      const auto id = static_cast<uint64_t>(i + 1);
      engines.begin(id, first, count, shares);
      engines.tell(id, first, count);
      engines.finish(id);
    }
    engines.wait(transfers);
  });
}

// The last blocks of a transfer whose others have arrived, told in groups of layers.
Taken end(Engines& engines, const KvView& kv, int32_t blocks, int32_t last, int32_t groups, bool shares) {
  constexpr auto kPause = std::chrono::milliseconds(4);  // what the layers of a group may take to compute
  engines.begin(1, 0, blocks, shares);
  engines.tell(1, 0, blocks - last);
  std::this_thread::sleep_for(std::chrono::milliseconds(40));
  const double cpu = cpu_seconds();
  for (int32_t group = 0; group + 1 < groups; ++group) {
    engines.tell_layers(1, blocks - last, last, group_of(kv, group, groups));
    std::this_thread::sleep_for(kPause);
  }
  Taken taken = timed([&] {
    engines.tell_layers(1, blocks - last, last, group_of(kv, groups - 1, groups));
    engines.finish(1);
    engines.wait(1);
  });
  taken.cpu_seconds = cpu_seconds() - cpu;
  return taken;
}

void print(const char* what, const Layout& layout, const char* way, int32_t streams, int32_t blocks, int32_t round,
           const Taken& taken) {
  const double bytes = static_cast<double>(layout.layers) * static_cast<double>(layout.block_bytes) * blocks;
  std::printf("{\"what\":\"%s\",\"layout\":\"%s\",\"blockBytes\":%lld,\"way\":\"%s\",\"streams\":%d,\"round\":%d,"
              "\"bytes\":%.0f,\"seconds\":%.9f,\"cpuSeconds\":%.6f}\n",
              what, layout.name, static_cast<long long>(layout.block_bytes), way, streams, round, bytes, taken.seconds,
              taken.cpu_seconds);
  std::fflush(stdout);
}

struct Way {
  const char* name;
  std::string address;
  bool shares;
};

void measure(const Layout& layout, const std::vector<Way>& ways, int32_t rounds, int32_t latencies) {
  const Pool from(layout), to(layout);
  for (int32_t round = -1; round < rounds; ++round) {  // the first one warms up
    const auto say = [&](const char* what, const char* way, int32_t streams, int32_t blocks, const Taken& taken) {
      if (round >= 0) print(what, layout, way, streams, blocks, round, taken);
    };
    say("copy", "memcpy", 1, layout.blocks, copy(from, to, layout.blocks));
    for (const Way& way : ways) {
      say("stream", way.name, 1, layout.blocks, stream(from, to, layout.blocks, way.address, way.shares));
      Engines engines(from, to, way.address);
      say("transfer", way.name, 1, layout.blocks, transfer(engines, layout.blocks, 1, way.shares));
      if (!way.address.starts_with("tcp:")) continue;
      say("beside", way.name, kStreamsMax, layout.blocks, transfer(engines, layout.blocks, kStreamsMax, way.shares));
      for (int32_t streams = 2; streams <= kStreamsMax; streams *= 2) {
        Engines several(from, to, way.address, {.streams_max = streams, .stream_bytes_min = 1, .several_on_loopback = true});
        say("transfer", way.name, streams, layout.blocks, transfer(several, layout.blocks, 1, way.shares));
      }
      Engines uncopied(from, to, way.address, {.zero_copy = ZeroCopy::always});
      say("zerocopy", way.name, 1, layout.blocks, transfer(uncopied, layout.blocks, 1, way.shares));
    }
  }
  for (const Way& way : ways) {
    Engines engines(from, to, way.address);
    for (int32_t blocks = 1; blocks <= layout.blocks; blocks *= 2) {
      for (int32_t round = 0; round < latencies; ++round)
        print("latency", layout, way.name, 1, blocks, round, transfer(engines, blocks, 1, way.shares));
    }
    constexpr int32_t kLastBlocks = 8;  // of a prompt that is computed 128 tokens at a time
    for (int32_t round = 0; round < latencies; ++round) {
      for (const int32_t groups : {1, 2, 5, 10, layout.layers})
        print("end", layout, way.name, groups, kLastBlocks, round,
              end(engines, from.view, 2 * kLastBlocks, kLastBlocks, groups, way.shares));
    }
  }
}

int run(int argc, char** argv) {
  int32_t rounds = 7, latencies = 15;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (flag == "--rounds") {
      rounds = std::atoi(argv[i + 1]);
    } else if (flag == "--latencies") {
      latencies = std::atoi(argv[i + 1]);
    } else {
      throw std::invalid_argument("unknown option " + std::string(flag));
    }
  }
  std::string pattern = (std::filesystem::temp_directory_path() / "penstock-kv-bench-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
  const std::string unix_address = "unix:" + pattern + "/kv.sock";
  const std::vector<Way> ways = {
      {"shared", unix_address, true}, {"unix", unix_address, false}, {"tcp", "tcp:127.0.0.1:0", false}};
  for (const Layout& layout : kLayouts) measure(layout, ways, rounds, latencies);
  std::filesystem::remove_all(pattern);
  // For whoever asks what others did meanwhile.
  std::printf("{\"what\":\"all\",\"cpuSeconds\":%.6f}\n", cpu_seconds());
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  try {
    return penstock::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kv-transfer-bench: %s\n", error.what());
    return 1;
  }
}
