// Connections that bring K and V. See receiver.h.
#include "kv/receiver.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>

#include "kv/endpoint.h"
#include "kv/piece.h"
#include "kv/transfer_wire.h"
#include "kv/transport.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

// Of one connection before the others have their turn.
constexpr size_t kBytesPerTurn = 4 * 1024 * 1024;
// A socket file of this host, and an address in each of some networks.
constexpr size_t kListenersMax = 8;
constexpr auto kAcceptPause = std::chrono::milliseconds(10);

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

// What the connections of one transfer have in common; all of them are served by one thread.
struct KvReceiver::Transfer {
  TransferGrant grant;
  uint64_t content = 0;
  std::vector<int32_t> blocks;
  std::vector<bool> begun;  // [blocks][layers] has arrived, or is on its way on one of the connections
  size_t missing = 0;       // of all of them, what has not arrived
  int32_t joined = 0;       // connections beside the first
  Clock::time_point heard;  // of any of them
  bool over = false;        // the first has left: nobody writes any more
  bool broken = false;      // another one has
};

//   Offer ─▶ Fingerprint ──attached──▶ Piece ─▶ Payload ─▶ Sum ─┐        Any fault, the peer's end, silence, or a transfer
//                                       ▲ ▲ │└─ END ─▶ Note     │        that is closed: Over, and what was attached is
//                                       │ └─┘ ALIVE     └▶ Ended│        detached as incomplete.
//                                       └───────────────────────┘        Ended: over as soon as the others have brought the rest.
//   Offer ──JOIN, of a transfer that is attached──▶ Piece, without END: it is over with the first, and the first with it.
class KvReceiver::Connection {
 public:
  Connection(KvReceiver& receiver, std::unique_ptr<Transport> transport, std::string peer)
      : receiver_(receiver), transport_(std::move(transport)), peer_(std::move(peer)), accepted_(Clock::now()), heard_(accepted_) {
    expect(State::Offer, sizeof(wire::OfferHead));
  }
  ~Connection() { leave(false); }

  // For poll().
  int fd() const { return transport_->fd(); }
  short events() const { return transport_->events(false); }
  // There is something to read whatever poll() says.
  bool has_bytes() const { return !over() && transport_->has_bytes(); }
  bool over() const { return state_ == State::Over; }
  void give_up() { leave(false); }
  // Whose it is, as peer_of() says.
  const std::string& peer() const { return peer_; }
  // Has shown no grant, and does not count as let in.
  bool is_newcomer() const { return !over() && transfer_ == nullptr; }
  // When it is given up unless something comes until then.
  Clock::time_point patience() const {
    const auto silence_max = receiver_.options_.silence_max;
    if (transfer_ == nullptr) return accepted_ + std::min(silence_max, receiver_.options_.grant_wait_max);
    return (state_ == State::Ended ? transfer_->heard : heard_) + silence_max;
  }
  // Nobody wants what it writes any more.
  bool closed() const {
    return transfer_ != nullptr && (transfer_->over || transfer_->broken ||
                                    !receiver_.table_.may_write(transfer_->grant.id, transfer_->grant.generation));
  }
  // Whether another connection has brought what the end waited for.
  void look_around() {
    if (state_ == State::Ended && transfer_->missing == 0) leave(true, std::move(note_));
  }

  // Reads what is there, up to its share.
  void read() {
    try {
      read_share();
    } catch (const std::exception&) {
      // Blocks on a device that cannot be written to: the step loop learns of it with its next step.
      leave(false);
    }
  }

 private:
  void read_share() {
    size_t taken = 0;
    while (!over() && taken < kBytesPerTurn) {
      if (complete()) {
        advance();
        continue;
      }
      // Before each write into blocks: they may have been closed meanwhile.
      if (closed()) return leave(false);
      const Moved moved = read_some();
      if (moved.over) return leave(false);
      if (moved.bytes == 0) return;
      heard_ = Clock::now();
      if (transfer_ != nullptr) transfer_->heard = heard_;
      taken += moved.bytes;
    }
  }

  enum class State { Offer, Fingerprint, Piece, Payload, Sum, Note, Ended, Over };

  void expect(State state, size_t bytes) {
    state_ = state;
    filled_ = 0;
    buffer_.resize(bytes);
  }

  bool complete() const { return state_ == State::Payload ? piece_.done() : filled_ == buffer_.size(); }

  // Of a head, or straight into the blocks.
  Moved read_some() {
    if (state_ == State::Payload) {
      const Moved moved = transport_->read(piece_.parts(), &piece_.sum());
      piece_.advance(moved.bytes);
      return moved;
    }
    const iovec part{buffer_.data() + filled_, buffer_.size() - filled_};
    const Moved moved = transport_->read({&part, 1});
    filled_ += moved.bytes;
    return moved;
  }

  // What was expected is there.
  void advance() {
    switch (state_) {
      case State::Offer: {
        offer_ = wire::read<wire::OfferHead>(buffer_);
        if (offer_.magic != wire::kOffer && offer_.magic != wire::kJoin) return refuse(TransferRefusal::Malformed);
        if (offer_.version != wire::kVersion) return refuse(TransferRefusal::Version);
        if ((offer_.features & ~transport_->features()) != 0 || offer_.fingerprint_bytes > wire::kFingerprintBytesMax)
          return refuse(TransferRefusal::Malformed);
        if (offer_.magic == wire::kJoin) return join();
        return expect(State::Fingerprint, offer_.fingerprint_bytes);
      }
      case State::Fingerprint:
        return attach();
      case State::Piece:
        return begin_piece();
      case State::Payload:
        return expect(State::Sum, sizeof(uint64_t));
      case State::Sum:
        // Of what lies in the blocks by now.
        if (wire::read<uint64_t>(buffer_) != piece_.sum().value()) return refuse(TransferRefusal::Checksum);
        transfer_->missing -= size_t{piece_head_.count} * piece_head_.layers;
        return expect(State::Piece, sizeof(wire::PieceHead));
      case State::Note:
        return end_with_note();
      case State::Ended:  // it goes on after its end
        return refuse(TransferRefusal::Malformed);
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
    transfer_ = std::make_shared<Transfer>();
    ++receiver_.let_in_;
    transfer_->grant = grant;
    transfer_->content = offer_.content;
    transfer_->blocks = std::move(writer.blocks);
    transfer_->begun.assign(transfer_->blocks.size() * static_cast<size_t>(receiver_.kv_.layers), false);
    transfer_->missing = transfer_->begun.size();
    transfer_->heard = Clock::now();
    receiver_.transfers_[grant.id] = transfer_;
    transport_->grant(offer_.features);
    answer(0);
    expect(State::Piece, sizeof(wire::PieceHead));
  }

  // The secret counts as for the first.
  void join() {
    if (offer_.features != 0 || offer_.fingerprint_bytes != 0) return refuse(TransferRefusal::Malformed);
    const auto found = receiver_.transfers_.find(offer_.id);
    if (found == receiver_.transfers_.end()) return refuse(TransferRefusal::Unknown);
    Transfer& transfer = *found->second;
    if (transfer.grant.generation != offer_.generation) return refuse(TransferRefusal::Stale);
    if (!equal_secrets(transfer.grant.secret, offer_.secret)) return refuse(TransferRefusal::Forbidden);
    if (transfer.content != offer_.content) return refuse(TransferRefusal::Content);
    // Without it the transfer goes on all the same; its place is another transfer's first connection's.
    if (transfer.joined + 1 >= wire::kStreamsMax || receiver_.is_full()) return refuse(TransferRefusal::Busy);
    ++transfer.joined;
    transfer_ = found->second;
    ++receiver_.let_in_;
    answer(0);
    expect(State::Piece, sizeof(wire::PieceHead));
  }

  void begin_piece() {
    const auto head = wire::read<wire::PieceHead>(buffer_);
    const bool is_blocks = head.magic == wire::kBlocks, is_end = head.magic == wire::kEnd;
    if ((!is_blocks && (head.first != 0 || head.layer != 0 || head.layers != 0)) || (!is_end && head.note_bytes != 0))
      return refuse(TransferRefusal::Malformed);
    if (head.magic == wire::kAlive) return expect(State::Piece, sizeof(wire::PieceHead));
    if (is_end) {
      if (head.note_bytes > wire::kNoteBytesMax || !attached_) return refuse(TransferRefusal::Malformed);
      // The others may be on their way with the rest.
      const bool whole = transfer_->missing == 0 || transfer_->joined > 0;
      if (head.count != transfer_->blocks.size() || !whole) return refuse(TransferRefusal::Incomplete);
      if (head.note_bytes == 0) return end();
      return expect(State::Note, head.note_bytes + sizeof(uint64_t));
    }
    if (!is_blocks || !is_missing(head)) return refuse(TransferRefusal::Malformed);
    piece_head_ = head;
    take_on();
    piece_ = Piece(receiver_.kv_, std::span(transfer_->blocks).subspan(head.first, head.count),
                   {static_cast<int32_t>(head.layer), static_cast<int32_t>(head.layers)}, PieceWay::in,
                   !transport_->reaches_device());
    expect(State::Payload, 0);
  }

  // All of it is of this transfer and none of it has come before, or is coming on another connection.
  bool is_missing(const wire::PieceHead& head) const {
    const auto layers = static_cast<size_t>(receiver_.kv_.layers);
    const size_t blocks = transfer_->blocks.size();
    if (head.count == 0 || head.first >= blocks || head.count > blocks - head.first) return false;
    if (head.layers == 0 || head.layer >= layers || head.layers > layers - head.layer) return false;
    for (size_t block = head.first; block < size_t{head.first} + head.count; ++block) {
      const auto from = transfer_->begun.begin() + static_cast<std::ptrdiff_t>(block * layers + head.layer);
      if (std::find(from, from + head.layers, true) != from + head.layers) return false;
    }
    return true;
  }

  // Nobody else brings what this piece does.
  void take_on() {
    const auto layers = static_cast<size_t>(receiver_.kv_.layers);
    for (size_t block = piece_head_.first; block < size_t{piece_head_.first} + piece_head_.count; ++block)
      std::fill_n(transfer_->begun.begin() + static_cast<std::ptrdiff_t>(block * layers + piece_head_.layer), piece_head_.layers,
                  true);
  }

  void end_with_note() {
    const auto note = std::span(buffer_).first(buffer_.size() - sizeof(uint64_t));
    Checksum sum;
    sum.update(note);
    if (wire::read<uint64_t>(std::span(buffer_).last(sizeof(uint64_t))) != sum.value())
      return refuse(TransferRefusal::Checksum);
    note_.assign(note.begin(), note.end());
    end();
  }

  void end() {
    if (transfer_->missing == 0) return leave(true, std::move(note_));
    expect(State::Ended, 1);
  }

  void refuse(TransferRefusal refusal) {
    answer(static_cast<uint32_t>(refusal));
    leave(false);
  }

  void answer(uint32_t refusal) {
    wire::Answer answer{.refusal = refusal};
    const iovec part{&answer, sizeof answer};
    // A connection has room for eight bytes, or is broken.
    [[maybe_unused]] const Moved sent = transport_->write({&part, 1});
  }

  void leave(bool complete, TransferNote note = {}) {
    if (state_ == State::Over) return;
    state_ = State::Over;
    if (transfer_ != nullptr) --receiver_.let_in_;
    if (transfer_ != nullptr && attached_) {
      transfer_->over = true;
      receiver_.transfers_.erase(offer_.id);
    } else if (transfer_ != nullptr) {
      transfer_->broken = true;
    }
    // Told first: whoever is told that everything is there finds it so.
    const bool wanted =
        std::exchange(attached_, false) &&
        receiver_.table_.detach(offer_.id, offer_.generation, complete, std::move(note));
    if (complete) answer(wanted ? 0 : static_cast<uint32_t>(TransferRefusal::Unknown));
    transport_.reset();
  }

  KvReceiver& receiver_;
  std::unique_ptr<Transport> transport_;
  std::string peer_;
  Clock::time_point accepted_;
  Clock::time_point heard_;
  State state_ = State::Offer;
  std::vector<std::byte> buffer_;
  size_t filled_ = 0;  // of the buffer
  wire::OfferHead offer_;
  bool attached_ = false;  // as the first of its transfer
  std::shared_ptr<Transfer> transfer_;
  TransferNote note_;      // of the end, which waits for the rest
  wire::PieceHead piece_head_;
  Piece piece_;
};

KvReceiver::KvReceiver(const KvView& kv, std::string fingerprint, TransferTable& table, std::string address,
                       ReceiverOptions options)
    : kv_(kv),
      fingerprint_(std::move(fingerprint)),
      table_(table),
      options_(options) {
  for (std::string& each : addresses_in(address)) {
    if (listeners_.size() == kListenersMax) throw std::invalid_argument("too many addresses to listen at");
    listeners_.push_back(std::make_unique<Listening>(std::move(each)));
    address_ += (address_.empty() ? "" : " ") + listeners_.back()->address;
  }
  if (listeners_.empty()) throw std::invalid_argument("no address to listen at");
  thread_ = std::thread([this] { run(); });
}

KvReceiver::~KvReceiver() {
  stop_ = true;
  wake_.wake();
  thread_.join();
}

void KvReceiver::run() {
  Connections connections;  // in the order in which they came
  std::vector<pollfd> polled;
  const size_t first = listeners_.size() + 1;  // of the connections in polled
  while (!stop_) {
    polled.clear();
    polled.push_back({wake_.fd(), POLLIN, 0});
    for (const auto& listener : listeners_) polled.push_back({is_full() ? -1 : listener->socket.get(), POLLIN, 0});
    auto until = Clock::time_point::max();
    for (const auto& connection : connections) {
      polled.push_back({connection->fd(), connection->events(), 0});
      until = std::min(until, connection->has_bytes() ? Clock::now() : connection->patience());
    }
    int timeout_ms = -1;
    if (!connections.empty()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
      timeout_ms = left < 0 ? 0 : static_cast<int>(std::min<int64_t>(left + 1, 60'000));
    }
    poll(polled.data(), static_cast<nfds_t>(polled.size()), timeout_ms);
    wake_.drain();
    for (size_t i = 0; i < connections.size(); ++i) {
      if (polled[first + i].revents != 0 || connections[i]->has_bytes()) connections[i]->read();
    }
    // Behind the reading of all: what one has brought, or broken off, another one waits for.
    for (const auto& connection : connections) {
      connection->look_around();
      if (connection->closed() || Clock::now() > connection->patience()) connection->give_up();
    }
    for (size_t i = 0; i < listeners_.size(); ++i) {
      if ((polled[1 + i].revents & POLLIN) != 0) accept_from(i, connections);
    }
    std::erase_if(connections, [](const auto& connection) { return connection->over(); });
  }
}

// Those that wait, as far as there is room for who has a grant.
void KvReceiver::accept_from(size_t listener, Connections& connections) {
  const Listening& at = *listeners_[listener];
  for (int accepted = 0; accepted < kWaitingMax && !is_full(); ++accepted) {
    Descriptor socket(accept(at.socket.get(), nullptr, nullptr));
    if (!socket.is_open()) {
      // Out of descriptors: what is asked for again at once is asked for in vain.
      if (!would_block()) std::this_thread::sleep_for(kAcceptPause);
      return;
    }
    set_nonblocking(socket.get());
    std::string peer = peer_of(socket);
    auto made = std::make_unique<Connection>(*this, accepted_transport(std::move(socket), at.address, kv_.access), std::move(peer));
    // What it has to show is often there by now, and then it needs no newcomer's place.
    made->read();
    if (made->is_newcomer()) make_room(made->peer(), connections);
    if (!made->over()) connections.push_back(std::move(made));
  }
}

// For one more newcomer of `peer`.
void KvReceiver::make_room(const std::string& peer, Connections& connections) {
  for (;;) {
    std::vector<std::string> peers;
    std::vector<Connection*> newcomers;
    for (const auto& connection : connections) {
      if (!connection->is_newcomer()) continue;
      peers.push_back(connection->peer());
      newcomers.push_back(connection.get());
    }
    const auto found = who_gives_way(peers, peer, options_.newcomers);
    if (!found.has_value()) return;
    // It may have shown its grant since it was last read; it is no newcomer in either case.
    newcomers[*found]->read();
    if (newcomers[*found]->is_newcomer()) newcomers[*found]->give_up();
  }
}

}  // namespace penstock
