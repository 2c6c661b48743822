// A peer with a grant says anything at all, most of it well formed. Its transfer ends, once; it is complete exactly where a
// plain reading of the same bytes says so, and then the blocks hold what was sent; no other block is ever touched. Nor does it matter who
// else says that they belong to it. In a file
// of its own, since it speaks to the receiver as peers do, over a socket.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
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
  TransferNote note;  // read after the end
  TransferTable table{[this](uint64_t, uint64_t, bool arrived, TransferNote said) {
    note = std::move(said);
    complete = arrived;
    ++ends;
  }};
  std::string folder = "/tmp/penstock-kv-fuzz-XXXXXX";
  KvReceiver receiver{view, "fuzz", table, "unix:" + std::string(mkdtemp(folder.data())) + "/kv.sock"};
};

// What the bytes behind an OFFER bring, and whether that is everything.
bool bring_everything(std::span<const std::byte> bytes, std::vector<std::byte>& payload, std::vector<std::byte>& note) {
  const auto take = [&](size_t count) {
    const auto taken = bytes.first(count);
    bytes = bytes.subspan(count);
    return taken;
  };
  // Behind its bytes, their checksum: what both are, or nothing.
  const auto summed = [&](size_t size) -> std::optional<std::span<const std::byte>> {
    if (bytes.size() < sizeof(uint64_t) || bytes.size() - sizeof(uint64_t) < size) return std::nullopt;
    const auto what = take(size);
    Checksum sum;
    sum.update(what);
    if (wire::read<uint64_t>(take(sizeof(uint64_t))) != sum.value()) return std::nullopt;
    return what;
  };
  payload.assign(kGranted.size() * kLayers * kBlockBytes, kUntouched);
  std::array<bool, kGranted.size() * kLayers> there{};
  while (bytes.size() >= sizeof(wire::PieceHead)) {
    const auto head = wire::read<wire::PieceHead>(take(sizeof(wire::PieceHead)));
    if (head.magic == wire::kEnd) {
      if (head.first != 0 || head.layer != 0 || head.layers != 0 || head.count != kGranted.size()) return false;
      if (!std::all_of(there.begin(), there.end(), [](bool is) { return is; })) return false;
      if (head.note_bytes == 0) return true;
      const auto said = head.note_bytes > wire::kNoteBytesMax ? std::nullopt : summed(head.note_bytes);
      if (said.has_value()) note.assign(said->begin(), said->end());
      return said.has_value();
    }
    if (head.note_bytes != 0) return false;
    if (head.magic == wire::kAlive && head.first == 0 && head.layer == 0 && head.layers == 0) continue;
    if (head.magic != wire::kBlocks || head.count == 0 || head.layers == 0) return false;
    if (uint64_t{head.first} + head.count > kGranted.size() || uint64_t{head.layer} + head.layers > kLayers) return false;
    const auto piece = summed(size_t{head.count} * head.layers * kBlockBytes);
    if (!piece.has_value()) return false;
    auto from = piece->begin();
    for (size_t block = head.first; block < head.first + head.count; ++block) {
      for (size_t layer = head.layer; layer < head.layer + head.layers; ++layer, from += kBlockBytes) {
        const size_t at = block * kLayers + layer;
        if (std::exchange(there[at], true)) return false;
        std::copy_n(from, kBlockBytes, payload.begin() + static_cast<std::ptrdiff_t>(at * kBlockBytes));
      }
    }
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
  // The layers: all of them, or what a byte says.
  const auto blocks = [&](uint8_t first, uint8_t count, uint8_t layers) {
    const uint32_t layer = layers & 1, of = (layers & 2) != 0 ? kLayers : (layers >> 2 & 3);
    wire::append(said, wire::PieceHead{.first = first, .count = count, .layer = layer, .layers = of});
    payload_at = said.size();
    return of;
  };
  while (!input.empty()) {
    switch (value() & 7) {
      case 0:
        payload(value());
        break;
      case 1:
        blocks(value() & 3, value(), value());
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
        const size_t layers = blocks(first, count, value());
        payload(count * layers * static_cast<size_t>(kBlockBytes));
        checksum();
        break;
      }
      case 7: {
        const uint8_t note = value();
        wire::append(said, wire::PieceHead{.magic = wire::kEnd, .count = kGranted.size(), .note_bytes = note});
        payload_at = said.size();
        payload(note);
        if (note > 0) checksum();
        break;
      }
    }
  }
  return said;
}

// What poll() says of it. The fuzzer's own clock interrupts calls that wait.
short wait_for(int peer, short events) {
  pollfd polled{peer, events, 0};
  int count = 0;
  do {
    count = poll(&polled, 1, kPatienceMs);
  } while (count < 0 && errno == EINTR);
  require(count == 1);
  return polled.revents;
}

// Until the receiver has answered an offer.
void wait_for_answer(int peer) {
  std::array<std::byte, sizeof(wire::Answer)> answer;
  for (size_t got = 0; got < answer.size();) {
    wait_for(peer, POLLIN);
    const ssize_t count = recv(peer, answer.data() + got, answer.size() - got, 0);
    require(count > 0 || (count < 0 && would_block()));
    if (count > 0) got += static_cast<size_t>(count);
  }
}

// Sends everything, unless the other side has had enough, and waits for it to be done.
void say(int peer, std::span<const std::byte> bytes) {
  bool ended = false;
  while (!bytes.empty() && !ended) {
    if ((wait_for(peer, POLLOUT) & POLLOUT) == 0) break;
    const ssize_t count = send(peer, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count > 0) bytes = bytes.subspan(static_cast<size_t>(count));
    ended = count < 0 && !would_block();
  }
  shutdown(peer, SHUT_WR);
  for (ended = false; !ended;) {
    wait_for(peer, POLLIN);
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
  const Descriptor peer = connect_to(fuzzed.receiver.address());
  if (offers && offer.features == 0 && (how & 64) != 0) {
    // Somebody joins who does not know all of the grant, and says the same: it changes nothing.
    require(send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
    bytes.clear();
    wait_for_answer(peer.get());
    std::vector<std::byte> joining;
    wire::append(joining, wire::OfferHead{
                              .magic = wire::kJoin, .id = 1, .generation = generation, .secret = grant.secret, .content = 5});
    // In what proves the grant: id, generation, secret and content.
    const size_t at = offsetof(wire::OfferHead, id) + size % (offsetof(wire::OfferHead, fingerprint_bytes) - offsetof(wire::OfferHead, id));
    joining[at] ^= static_cast<std::byte>(1 + how % 255);
    joining.insert(joining.end(), behind.begin(), behind.end());
    say(connect_to(fuzzed.receiver.address()).get(), joining);
  }
  bytes.insert(bytes.end(), behind.begin(), behind.end());
  say(peer.get(), bytes);

  require(fuzzed.table.close(1));  // nobody writes any more
  std::vector<std::byte> payload, note;
  if (offer.features == 0) {
    require(fuzzed.complete == (offers && bring_everything(behind, payload, note)));
    if (fuzzed.complete) require(fuzzed.note == note);
  }
  require(fuzzed.ends <= 1 && (fuzzed.ends == 1 || !offers || offer.features != 0));
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    for (int32_t block = 0; block < kPoolBlocks; ++block) {
      const auto part = fuzzed.view.at(layer, block);
      const auto at = std::find(kGranted.begin(), kGranted.end(), block);
      if (at == kGranted.end()) {
        require(std::all_of(part.begin(), part.end(), [](std::byte b) { return b == kUntouched; }));
      } else if (fuzzed.complete && offer.features == 0) {
        const auto index = static_cast<size_t>(at - kGranted.begin()) * kLayers + static_cast<size_t>(layer);
        require(std::equal(part.begin(), part.end(), payload.begin() + static_cast<std::ptrdiff_t>(index * kBlockBytes)));
      }
    }
  }
  return 0;
}
