// A peer with a grant says anything at all, most of it well formed. Its transfer ends, once; it is complete exactly where a
// plain reading of the same bytes says so, and then the blocks hold what was sent; no other block is ever touched. In a file
// of its own, since it speaks to the receiver as peers do, over a socket.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include "kv/checksum.h"
#include "kv/endpoint.h"
#include "kv/receiver.h"
#include "kv/transfer_wire.h"

namespace {

using namespace penstock;

constexpr int32_t kLayers = 2, kPoolBlocks = 6;
constexpr int64_t kBlockBytes = 24;
constexpr std::array<int32_t, 3> kGranted = {4, 1, 3};
constexpr std::byte kUntouched{0xee};
constexpr int kPatienceMs = 10'000;

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

void require(bool holds) {
  if (!holds) std::abort();
}

struct Fuzzed {
  std::vector<std::byte> memory = std::vector<std::byte>(kLayers * kPoolBlocks * kBlockBytes);
  KvView view{memory.data(), kLayers, kPoolBlocks, kBlockBytes};
  std::atomic<int> ends{0};
  std::atomic<bool> complete{false};
  TransferTable table{[this](uint64_t, uint64_t, bool arrived) {
    complete = arrived;
    ++ends;
  }};
  std::string folder = "/tmp/penstock-kv-fuzz-XXXXXX";
  KvReceiver receiver{view, "fuzz", table, "unix:" + std::string(mkdtemp(folder.data())) + "/kv.sock"};
};

// What the bytes behind an OFFER bring, and whether that is everything.
bool bring_everything(std::span<const std::byte> bytes, std::vector<std::byte>& payload) {
  const auto take = [&](size_t count) {
    const auto taken = bytes.first(count);
    bytes = bytes.subspan(count);
    return taken;
  };
  uint32_t next = 0;
  while (bytes.size() >= sizeof(wire::PieceHead)) {
    const auto head = wire::read<wire::PieceHead>(take(sizeof(wire::PieceHead)));
    if (head.reserved != 0) return false;
    if (head.magic == wire::kEnd) return head.first == 0 && head.count == kGranted.size() && next == kGranted.size();
    if (head.magic == wire::kAlive && head.first == 0) continue;
    if (head.magic != wire::kBlocks || head.first != next || head.count == 0 || head.count > kGranted.size() - next)
      return false;
    const size_t size = head.count * static_cast<size_t>(kLayers * kBlockBytes);
    if (bytes.size() < size + sizeof(uint64_t)) return false;
    const auto piece = take(size);
    Checksum sum;
    sum.update(piece);
    if (wire::read<uint64_t>(take(sizeof(uint64_t))) != sum.value()) return false;
    payload.insert(payload.end(), piece.begin(), piece.end());
    next += head.count;
  }
  return false;
}

// Turns the fuzzer's bytes into what is said: messages, so that it need not guess numbers and checksums, or bytes as they are.
std::vector<std::byte> speech(std::span<const uint8_t> input) {
  std::vector<std::byte> said;
  size_t payload_at = 0;
  const auto value = [&]() -> uint8_t {
    if (input.empty()) return 0;
    const uint8_t first = input[0];
    input = input.subspan(1);
    return first;
  };
  const auto payload = [&](size_t count) {
    for (size_t i = 0; i < count; ++i) said.push_back(static_cast<std::byte>(value()));
  };
  const auto checksum = [&] {
    Checksum sum;
    sum.update(std::span(said).subspan(payload_at));
    wire::append(said, sum.value());
  };
  const auto blocks = [&](uint8_t first, uint8_t count) {
    wire::append(said, wire::PieceHead{.first = first, .count = count});
    payload_at = said.size();
  };
  while (!input.empty()) {
    switch (value() & 7) {
      case 0:
        payload(value());
        break;
      case 1:
        blocks(value() & 3, value());
        break;
      case 2:
        payload(kLayers * kBlockBytes);
        break;
      case 3:
        checksum();
        break;
      case 4:
        wire::append(said, wire::PieceHead{.magic = wire::kAlive});
        break;
      case 5:
        wire::append(said, wire::PieceHead{.magic = wire::kEnd, .count = value()});
        break;
      case 6: {
        const uint8_t first = value() & 3, count = value() & 3;
        blocks(first, count);
        payload(count * static_cast<size_t>(kLayers * kBlockBytes));
        checksum();
        break;
      }
      case 7:
        wire::append(said, wire::PieceHead{.magic = wire::kEnd, .count = kGranted.size()});
        break;
    }
  }
  return said;
}

// Sends everything, unless the other side has had enough, and waits for it to be done.
void say(int peer, std::span<const std::byte> bytes) {
  bool ended = false;
  const auto wait = [&](short events) {
    pollfd polled{peer, events, 0};
    require(poll(&polled, 1, kPatienceMs) == 1);
    return polled.revents;
  };
  while (!bytes.empty() && !ended) {
    if ((wait(POLLOUT) & POLLOUT) == 0) break;
    const ssize_t count = send(peer, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count > 0) bytes = bytes.subspan(static_cast<size_t>(count));
    ended = count < 0 && !would_block();
  }
  shutdown(peer, SHUT_WR);
  for (ended = false; !ended;) {
    wait(POLLIN);
    std::array<std::byte, 64> answer;
    const ssize_t count = recv(peer, answer.data(), answer.size(), 0);
    ended = count == 0 || (count < 0 && !would_block());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Fuzzed fuzzed;
  static uint64_t generation = 0;
  if (size == 0) return 0;
  const uint8_t how = data[0];
  const TransferGrant grant{.id = 1, .generation = ++generation, .secret = {7}};
  fuzzed.ends = 0;
  fuzzed.complete = false;
  std::fill(fuzzed.memory.begin(), fuzzed.memory.end(), kUntouched);
  fuzzed.table.open(grant, 5, {kGranted.begin(), kGranted.end()});

  const std::vector<std::byte> behind = speech({data + 1, size - 1});
  std::vector<std::byte> bytes;
  const bool offers = how % 8 != 0;
  wire::OfferHead offer{.id = 1, .generation = generation, .secret = grant.secret, .content = 5, .fingerprint_bytes = 4};
  // Now and then one that asks for more.
  if (how % 8 == 1) offer.features = how >> 3;
  if (offers) {
    wire::append(bytes, offer);
    for (const char letter : {'f', 'u', 'z', 'z'}) bytes.push_back(static_cast<std::byte>(letter));
  }
  bytes.insert(bytes.end(), behind.begin(), behind.end());
  say(connect_to(fuzzed.receiver.address()).get(), bytes);

  require(fuzzed.table.close(1));  // nobody writes any more
  std::vector<std::byte> payload;
  if (offer.features == 0) require(fuzzed.complete == (offers && bring_everything(behind, payload)));
  require(fuzzed.ends <= 1 && (fuzzed.ends == 1 || !offers || offer.features != 0));
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    for (int32_t block = 0; block < kPoolBlocks; ++block) {
      const auto part = fuzzed.view.at(layer, block);
      const auto at = std::find(kGranted.begin(), kGranted.end(), block);
      if (at == kGranted.end()) {
        require(std::all_of(part.begin(), part.end(), [](std::byte b) { return b == kUntouched; }));
      } else if (fuzzed.complete && offer.features == 0) {
        const auto index = static_cast<size_t>((at - kGranted.begin()) * kLayers + layer);
        require(std::equal(part.begin(), part.end(), payload.begin() + static_cast<std::ptrdiff_t>(index * kBlockBytes)));
      }
    }
  }
  return 0;
}
