// Connections that bring K and V. See receiver.h.
#include "kv/receiver.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "kv/checksum.h"
#include "kv/endpoint.h"
#include "kv/transfer_wire.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

// Of one connection before the others have their turn.
constexpr size_t kBytesPerTurn = 4 * 1024 * 1024;
constexpr auto kAcceptPause = std::chrono::milliseconds(10);

#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

//   Offer ─▶ Fingerprint ──attached──▶ Piece ─▶ Payload ─▶ Sum ─┐        Any fault, the peer's end, silence, or a transfer
//                                       ▲ ▲ │└─ END ──▶ Over    │        that is closed: Over, and what was attached is
//                                       │ └─┘ ALIVE             │        detached as incomplete.
//                                       └───────────────────────┘
class KvReceiver::Connection {
 public:
  Connection(KvReceiver& receiver, Descriptor socket)
      : receiver_(receiver), socket_(std::move(socket)), accepted_(Clock::now()), heard_(accepted_) {
    expect(State::Offer, sizeof(wire::OfferHead));
  }
  ~Connection() { leave(false); }

  int fd() const { return socket_.get(); }
  bool over() const { return state_ == State::Over; }
  void give_up() { leave(false); }
  // When it is given up unless something comes until then.
  Clock::time_point patience(std::chrono::milliseconds silence_max) const {
    return (attached_ ? heard_ : accepted_) + silence_max;
  }
  // Nobody wants what it writes any more.
  bool closed() const { return attached_ && !receiver_.table_.may_write(offer_.id, offer_.generation); }

  // Reads what is there, up to its share.
  void read() {
    size_t taken = 0;
    while (!over() && taken < kBytesPerTurn) {
      const std::span<std::byte> into = target();
      if (into.empty()) {
        advance();
        continue;
      }
      // Before each write into blocks: they may have been closed meanwhile.
      if (closed()) return leave(false);
      const ssize_t count = recv(socket_.get(), into.data(), into.size(), 0);
      if (count == 0) return leave(false);
      if (count < 0) return would_block() ? void() : leave(false);
      heard_ = Clock::now();
      const auto got = static_cast<size_t>(count);
      if (state_ == State::Payload) sum_.update(into.first(got));
      filled_ += got;
      taken += got;
      if (got == into.size()) advance();
    }
  }

 private:
  enum class State { Offer, Fingerprint, Piece, Payload, Sum, Over };

  void expect(State state, size_t bytes) {
    state_ = state;
    filled_ = 0;
    if (state != State::Payload) buffer_.resize(bytes);
  }

  // Where the next bytes go: the rest of a head, or of a block of a layer.
  std::span<std::byte> target() {
    if (state_ != State::Payload) return std::span(buffer_).subspan(filled_);
    return receiver_.kv_.at(layer_, blocks_[next_]).subspan(filled_);
  }

  // What was expected is there.
  void advance() {
    switch (state_) {
      case State::Offer: {
        offer_ = wire::read<wire::OfferHead>(buffer_);
        if (offer_.magic != wire::kOffer || offer_.version != wire::kVersion || offer_.reserved != 0 ||
            offer_.fingerprint_bytes > wire::kFingerprintBytesMax)
          return refuse(TransferRefusal::Malformed);
        return expect(State::Fingerprint, offer_.fingerprint_bytes);
      }
      case State::Fingerprint:
        return attach();
      case State::Piece:
        return begin_piece();
      case State::Payload:
        filled_ = 0;
        if (++layer_ < receiver_.kv_.layers) return;
        layer_ = 0;
        if (++next_ < piece_end_) return;
        return expect(State::Sum, sizeof(uint64_t));
      case State::Sum:
        if (wire::read<uint64_t>(buffer_) != sum_.value()) return refuse(TransferRefusal::Checksum);
        return expect(State::Piece, sizeof(wire::PieceHead));
      case State::Over:
        return;
    }
  }

  void attach() {
    const std::string theirs(reinterpret_cast<const char*>(buffer_.data()), buffer_.size());
    const TransferGrant grant{offer_.id, offer_.generation, offer_.secret};
    TransferTable::Writer writer;
    const auto refusal = receiver_.table_.attach(grant, offer_.content, writer);
    if (refusal.has_value()) return refuse(*refusal);
    attached_ = true;
    // After the grant: who has none learns nothing of what is computed here.
    if (theirs != receiver_.fingerprint_) return refuse(TransferRefusal::Layout);
    blocks_ = std::move(writer.blocks);
    answer(0);
    expect(State::Piece, sizeof(wire::PieceHead));
  }

  void begin_piece() {
    const auto head = wire::read<wire::PieceHead>(buffer_);
    if (head.reserved != 0 || (head.magic != wire::kBlocks && head.first != 0)) return refuse(TransferRefusal::Malformed);
    if (head.magic == wire::kAlive) return expect(State::Piece, sizeof(wire::PieceHead));
    if (head.magic == wire::kEnd) {
      if (head.count != blocks_.size() || next_ != blocks_.size()) return refuse(TransferRefusal::Incomplete);
      leave(true);
      return;
    }
    if (head.magic != wire::kBlocks || head.first != next_ || head.count == 0 || head.count > blocks_.size() - next_)
      return refuse(TransferRefusal::Malformed);
    piece_end_ = next_ + head.count;
    sum_ = Checksum();
    layer_ = 0;
    expect(State::Payload, 0);
  }

  void refuse(TransferRefusal refusal) {
    answer(static_cast<uint32_t>(refusal));
    leave(false);
  }

  void answer(uint32_t refusal) {
    const wire::Answer answer{.refusal = refusal};
    // A connection has room for eight bytes, or is broken.
    [[maybe_unused]] const ssize_t sent = send(socket_.get(), &answer, sizeof answer, kSendFlags);
  }

  void leave(bool complete) {
    if (state_ == State::Over) return;
    state_ = State::Over;
    // Told first: whoever is told that everything is there finds it so.
    const bool wanted =
        std::exchange(attached_, false) && receiver_.table_.detach(offer_.id, offer_.generation, complete);
    if (complete) answer(wanted ? 0 : static_cast<uint32_t>(TransferRefusal::Unknown));
    socket_.reset();
  }

  KvReceiver& receiver_;
  Descriptor socket_;
  Clock::time_point accepted_;
  Clock::time_point heard_;
  State state_ = State::Offer;
  std::vector<std::byte> buffer_;
  size_t filled_ = 0;  // of the buffer, or of the block of a layer
  wire::OfferHead offer_;
  bool attached_ = false;
  std::vector<int32_t> blocks_;
  size_t next_ = 0;  // of blocks_: everything before it has arrived
  size_t piece_end_ = 0;
  int32_t layer_ = 0;
  Checksum sum_;
};

KvReceiver::KvReceiver(const KvView& kv, std::string fingerprint, TransferTable& table, std::string address,
                       ReceiverOptions options)
    : kv_(kv),
      fingerprint_(std::move(fingerprint)),
      table_(table),
      address_(std::move(address)),
      options_(options),
      listener_(listen_at(address_)),
      thread_([this] { run(); }) {}

KvReceiver::~KvReceiver() {
  stop_ = true;
  wake_.wake();
  thread_.join();
  stop_listening(address_);
}

void KvReceiver::run() {
  std::vector<std::unique_ptr<Connection>> connections;
  std::vector<pollfd> polled;
  while (!stop_) {
    polled.clear();
    polled.push_back({wake_.fd(), POLLIN, 0});
    const bool accepts = connections.size() < options_.connections_max;
    polled.push_back({accepts ? listener_.get() : -1, POLLIN, 0});
    auto until = Clock::time_point::max();
    for (const auto& connection : connections) {
      polled.push_back({connection->fd(), POLLIN, 0});
      until = std::min(until, connection->patience(options_.silence_max));
    }
    int timeout_ms = -1;
    if (!connections.empty()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
      timeout_ms = static_cast<int>(std::clamp<int64_t>(left + 1, 0, 60'000));
    }
    poll(polled.data(), static_cast<nfds_t>(polled.size()), timeout_ms);
    wake_.drain();
    for (size_t i = 0; i < connections.size(); ++i) {
      if (polled[i + 2].revents != 0) connections[i]->read();
      if (connections[i]->closed() || Clock::now() > connections[i]->patience(options_.silence_max))
        connections[i]->give_up();
    }
    std::erase_if(connections, [](const auto& connection) { return connection->over(); });
    if ((polled[1].revents & POLLIN) == 0) continue;
    Descriptor accepted(accept(listener_.get(), nullptr, nullptr));
    if (!accepted.is_open()) {
      // Out of descriptors: what is asked for again at once is asked for in vain.
      if (!would_block()) std::this_thread::sleep_for(kAcceptPause);
      continue;
    }
    set_nonblocking(accepted.get());
    connections.push_back(std::make_unique<Connection>(*this, std::move(accepted)));
  }
}

}  // namespace penstock
