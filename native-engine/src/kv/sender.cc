// Connections that carry K and V away. See sender.h.
#include "kv/sender.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <stdexcept>
#include <utility>

#include "kv/endpoint.h"
#include "kv/piece.h"
#include "kv/shared_memory.h"
#include "kv/transfer_wire.h"
#include "kv/transport.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

// A piece is what is acknowledged by one checksum: large enough that heads cost nothing, small enough that a fault is
// noticed soon.
constexpr size_t kBlocksPerPiece = 16;
constexpr size_t kBytesPerTurn = 4 * 1024 * 1024;
// While the next blocks are being computed the receiver hears of us so often before it gives us up.
constexpr int kAlivesPerSilence = 4;

const char* words(uint32_t refusal) {
  switch (static_cast<TransferRefusal>(refusal)) {
    case TransferRefusal::Unknown:
      return "the receiver knows no such transfer";
    case TransferRefusal::Stale:
      return "the transfer is an earlier one";
    case TransferRefusal::Forbidden:
      return "the grant is not good";
    case TransferRefusal::Busy:
      return "the transfer is under way already";
    case TransferRefusal::Layout:
      return "the receiver's blocks have another layout";
    case TransferRefusal::Malformed:
      return "the receiver does not understand";
    case TransferRefusal::Checksum:
      return "the blocks were damaged on their way";
    case TransferRefusal::Incomplete:
      return "the receiver expects other blocks";
    case TransferRefusal::Content:
      return "the receiver expects other tokens";
    case TransferRefusal::Version:
      return "the receiver speaks another version";
  }
  return "the receiver refused for a reason unknown here";
}

// Whether it is said by the one that is meant. The secret came first, so the others may be somebody else's, whose socket
// has the same path on this host, or whose number is that of another transfer.
bool is_final(uint32_t refusal) {
  switch (static_cast<TransferRefusal>(refusal)) {
    case TransferRefusal::Busy:
    case TransferRefusal::Layout:
    case TransferRefusal::Content:
      return true;
    default:
      return false;
  }
}

}  // namespace

//   Offering ◀─┐ the next address, if any: cannot be reached, silent, or not the one that is meant
//      │   └───┘
//   Offering ──ANSWER 0──▶ Sending ──everything sent, finish()──▶ Waiting ──ANSWER 0──▶ Over (arrived)
//       any refusal, fault, silence, stop() ─────────────────────────────────────────▶ Over
class KvSender::Connection {
 public:
  // Throws as connect_to() where no address can be tried.
  Connection(const KvView& kv, const std::string& fingerprint, const Push& push)
      : kv_(kv), fingerprint_(fingerprint), push_(push), addresses_(addresses_in(push.address)) {
    if (addresses_.empty()) throw std::invalid_argument("no address to send to");
    open_next();
  }

  // For poll().
  int fd() const { return transport_->fd(); }
  short events() const { return transport_->events(wants_write()); }
  bool over() const { return over_; }
  bool arrived() const { return arrived_; }
  const std::string& error() const { return error_; }
  // Who waits for blocks to be computed waits for nobody else.
  bool awaits_peer() const { return state_ != State::Sending || wants_write(); }
  bool wants_write() const { return out_sent_ < out_.size() || in_payload() || can_begin_piece() || can_end(); }

  // When something is to be done unless something moves until then: give up, or say that we are still there.
  Clock::time_point patience(std::chrono::milliseconds silence_max) const {
    return moved_ + (awaits_peer() ? silence_max : silence_max / kAlivesPerSilence);
  }
  void lose_patience() {
    if (awaits_peer()) return fail("the receiver is silent");
    wire::append(out_, wire::PieceHead{.magic = wire::kAlive});
    moved_ = Clock::now();
  }

  void extend(const Told& told) {
    if (told.blocks.empty()) return;
    if (!wants_write()) moved_ = Clock::now();
    const size_t first = told.first.value_or(static_cast<uint32_t>(blocks_.size())), count = told.blocks.size();
    blocks_.resize(std::max(blocks_.size(), first + count));
    std::copy(told.blocks.begin(), told.blocks.end(), blocks_.begin() + static_cast<std::ptrdiff_t>(first));
    // What waits together goes together, or a slow line would carry as many heads as a fast one.
    if (!unsent_.empty()) {
      Unsent& last = unsent_.back();
      if (last.first + last.count == first && last.layers == told.layers) {
        last.count += count;
        return;
      }
      if (last.first == first && last.count == count && last.layers.end() == told.layers.first) {
        last.layers.count += told.layers.count;
        return;
      }
    }
    unsent_.push_back({first, count, told.layers});
  }
  void finish(TransferNote note) {
    if (!wants_write()) moved_ = Clock::now();
    finished_ = true;
    note_ = std::move(note);
  }
  // Over, whoever else could be tried.
  void end(const std::string& error) {
    if (over_) return;
    over_ = true;
    error_ = error;
    transport_.reset();
  }

  void read() {
    while (!over_) {
      const iovec part{in_ + in_bytes_, sizeof in_ - in_bytes_};
      const Moved moved = transport_->read({&part, 1});
      if (moved.over) return fail(moved.error == 0 ? "the receiver closed the connection" : std::strerror(moved.error));
      if (moved.bytes == 0) return;
      moved_ = Clock::now();
      in_bytes_ += moved.bytes;
      if (in_bytes_ == sizeof in_ && answered()) return;
    }
  }

  void write() {
    if (transport_->has_unsent() && lost(transport_->write({}))) return;
    for (size_t taken = 0; prepare() && taken < kBytesPerTurn;) {
      const Moved moved = write_some();
      if (lost(moved) || moved.bytes == 0) return;
      moved_ = Clock::now();
      taken += moved.bytes;
    }
  }

 private:
  enum class State { Offering, Sending, Waiting };

  bool in_payload() const { return !piece_blocks_.empty(); }
  bool can_begin_piece() const { return state_ == State::Sending && !unsent_.empty(); }
  bool can_end() const { return state_ == State::Sending && finished_ && unsent_.empty() && !in_payload(); }

  // Makes sure that there is something to write. False: there is nothing.
  bool prepare() {
    if (out_sent_ < out_.size()) return true;
    out_.clear();
    out_sent_ = 0;
    if (in_payload()) {
      if (!piece_.done()) return true;
      wire::append(out_, piece_.sum().value());
      piece_blocks_.clear();
    } else if (can_begin_piece()) {
      begin_piece();
    } else if (can_end()) {
      wire::append(out_, wire::PieceHead{.magic = wire::kEnd,
                                         .count = static_cast<uint32_t>(blocks_.size()),
                                         .note_bytes = static_cast<uint32_t>(note_.size())});
      if (!note_.empty()) {
        Checksum sum;
        sum.update(note_);
        out_.insert(out_.end(), note_.begin(), note_.end());
        wire::append(out_, sum.value());
      }
      state_ = State::Waiting;
    } else {
      return false;
    }
    return true;
  }

  void begin_piece() {
    Unsent& next = unsent_.front();
    const size_t count = std::min(next.count, kBlocksPerPiece);
    const auto from = blocks_.begin() + static_cast<std::ptrdiff_t>(next.first);
    piece_blocks_.assign(from, from + static_cast<std::ptrdiff_t>(count));
    piece_ = Piece(kv_, piece_blocks_, next.layers, PieceWay::out, !transport_->reaches_device());
    wire::append(out_, wire::PieceHead{.first = static_cast<uint32_t>(next.first),
                                       .count = static_cast<uint32_t>(count),
                                       .layer = static_cast<uint32_t>(next.layers.first),
                                       .layers = static_cast<uint32_t>(next.layers.count)});
    next.first += count;
    next.count -= count;
    if (next.count == 0) unsent_.pop_front();
  }

  // What prepare() has made sure of.
  Moved write_some() {
    if (out_sent_ < out_.size()) {
      const iovec part{out_.data() + out_sent_, out_.size() - out_sent_};
      const Moved moved = transport_->write({&part, 1});
      out_sent_ += moved.bytes;
      return moved;
    }
    const Moved moved = transport_->write(piece_.parts(), &piece_.sum());
    piece_.advance(moved.bytes);
    return moved;
  }

  // True: the connection is over.
  bool lost(const Moved& moved) {
    if (!moved.over) return false;
    const size_t attempt = attempts_;
    read();  // what the receiver said before it went says more
    if (!over_ && attempt == attempts_) fail(std::strerror(moved.error));
    return true;
  }

  // Connects to the next address that can be tried.
  void open_next() {
    for (;;) {
      try {
        const int64_t bytes = static_cast<int64_t>(push_.blocks) * kv_.bytes_per_block();
        // From a device the way over a socket is the longest, whatever there is to send.
        const bool shares = push_.blocks == 0 || bytes >= kSharedBytesMin || kv_.access != nullptr;
        transport_ = open_transport(addresses_[attempts_++], shares, kv_.access);
        break;
      } catch (const std::exception&) {
        if (attempts_ == addresses_.size()) throw;
      }
    }
    moved_ = Clock::now();
    in_bytes_ = 0;
    out_.clear();
    out_sent_ = 0;
    wire::append(out_, wire::OfferHead{.id = push_.grant.id,
                                       .generation = push_.grant.generation,
                                       .secret = push_.grant.secret,
                                       .content = push_.content,
                                       .fingerprint_bytes = static_cast<uint32_t>(fingerprint_.size()),
                                       .features = transport_->features()});
    for (const char letter : fingerprint_) out_.push_back(static_cast<std::byte>(letter));
  }

  // Over, unless another address can be tried.
  void fail(const std::string& error) {
    if (over_) return;
    if (state_ == State::Offering && attempts_ < addresses_.size()) {
      try {
        return open_next();
      } catch (const std::exception& other) {
        return end(other.what());
      }
    }
    end(error);
  }

  // True: nothing more is to be read on this connection.
  bool answered() {
    const auto answer = wire::read<wire::Answer>(in_);
    in_bytes_ = 0;
    if (answer.magic != wire::kAnswer) {
      fail("the receiver says something else");
    } else if (answer.refusal != 0) {
      is_final(answer.refusal) ? end(words(answer.refusal)) : fail(words(answer.refusal));
    } else if (state_ == State::Offering) {
      state_ = State::Sending;
      return false;
    } else if (state_ == State::Waiting) {
      over_ = arrived_ = true;
      transport_.reset();
    } else {
      fail("the receiver answers what was not asked");
    }
    return true;
  }

  const KvView& kv_;
  const std::string& fingerprint_;
  const Push push_;
  const std::vector<std::string> addresses_;
  size_t attempts_ = 0;  // addresses that were tried
  std::unique_ptr<Transport> transport_;
  Clock::time_point moved_;
  State state_ = State::Offering;
  std::vector<std::byte> out_;  // heads and sums
  size_t out_sent_ = 0;
  std::byte in_[sizeof(wire::Answer)] = {};
  size_t in_bytes_ = 0;
  // Some layers of some of blocks_, complete.
  struct Unsent {
    size_t first;
    size_t count;
    LayerSpan layers;
  };
  std::vector<int32_t> blocks_;  // those of which anything was told
  std::deque<Unsent> unsent_;    // in the order of telling; what is being sent is in none
  bool finished_ = false;
  TransferNote note_;
  std::vector<int32_t> piece_blocks_;  // being sent; a copy, since blocks_ grows and moves
  Piece piece_;
  bool over_ = false;
  bool arrived_ = false;
  std::string error_;
};

KvSender::KvSender(const KvView& kv, std::string fingerprint, Ended ended, std::chrono::milliseconds silence_max)
    : kv_(kv),
      fingerprint_(std::move(fingerprint)),
      ended_(std::move(ended)),
      silence_max_(silence_max),
      thread_([this] { run(); }) {}

KvSender::~KvSender() {
  {
    std::lock_guard lock(mutex_);
    leave_ = true;
  }
  wake_.wake();
  thread_.join();
}

void KvSender::tell(uint64_t id, const std::function<void(News&)>& write) {
  {
    std::lock_guard lock(mutex_);
    write(news_[id]);
  }
  wake_.wake();
}

void KvSender::begin(Push push) {
  const uint64_t id = push.id;
  // What was said before was about an earlier push of this id, which has ended.
  tell(id, [&](News& news) {
    news = {};
    news.begin = std::make_unique<Push>(std::move(push));
  });
}

void KvSender::extend(uint64_t id, std::span<const int32_t> blocks) {
  tell(id, [&](News& news) {
    news.told.push_back({std::nullopt, {blocks.begin(), blocks.end()}, {0, kv_.layers}});
  });
}

void KvSender::extend(uint64_t id, uint32_t first, std::span<const int32_t> blocks, LayerSpan layers) {
  tell(id, [&](News& news) { news.told.push_back({first, {blocks.begin(), blocks.end()}, layers}); });
}

void KvSender::finish(uint64_t id, TransferNote note) {
  tell(id, [&](News& news) {
    news.finished = true;
    news.note = std::move(note);
  });
}

void KvSender::stop(uint64_t id) {
  tell(id, [](News& news) { news.stopped = true; });
}

void KvSender::take_news() {
  std::map<uint64_t, News> all;
  {
    std::lock_guard lock(mutex_);
    all.swap(news_);
  }
  for (auto& [id, news] : all) {
    if (news.begin != nullptr) {
      try {
        connections_[id] = std::make_unique<Connection>(kv_, fingerprint_, *news.begin);
      } catch (const std::exception& error) {
        connections_.erase(id);
        ended_(id, false, error.what());
        continue;
      }
    }
    const auto found = connections_.find(id);
    if (found == connections_.end()) continue;
    Connection& connection = *found->second;
    for (const Told& told : news.told) connection.extend(told);
    if (news.finished) connection.finish(std::move(news.note));
    if (news.stopped) connection.end("nobody wants it any more");
  }
}

void KvSender::run() {
  std::vector<pollfd> polled;
  for (;;) {
    take_news();
    for (auto at = connections_.begin(); at != connections_.end();) {
      Connection& connection = *at->second;
      if (!connection.over() && Clock::now() > connection.patience(silence_max_)) connection.lose_patience();
      if (!connection.over()) {
        ++at;
        continue;
      }
      const uint64_t id = at->first;
      const bool arrived = connection.arrived();
      const std::string error = connection.error();
      // Closed before it is told: nobody reads the blocks from here on.
      at = connections_.erase(at);
      ended_(id, arrived, error);
    }
    {
      std::lock_guard lock(mutex_);
      if (leave_) break;
      if (!news_.empty()) continue;
    }
    polled.assign(1, {wake_.fd(), POLLIN, 0});
    auto until = Clock::time_point::max();
    for (const auto& [id, connection] : connections_) {
      polled.push_back({connection->fd(), connection->events(), 0});
      until = std::min(until, connection->patience(silence_max_));
    }
    int timeout_ms = -1;
    if (until != Clock::time_point::max()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
      timeout_ms = static_cast<int>(std::clamp<int64_t>(left + 1, 0, 60'000));
    }
    poll(polled.data(), static_cast<nfds_t>(polled.size()), timeout_ms);
    wake_.drain();
    size_t i = 1;
    for (auto& [id, connection] : connections_) {
      const short events = polled[i++].revents;
      const int polled_fd = polled[i - 1].fd;
      try {
        if ((events & (POLLIN | POLLERR | POLLHUP)) != 0) connection->read();
        // Not on another connection to which it has gone over meanwhile.
        if (!connection->over() && connection->fd() == polled_fd && (events & POLLOUT) != 0) connection->write();
      } catch (const std::exception& error) {
        // Blocks on a device that cannot be read: the step loop learns of it with its next step.
        connection->end(error.what());
      }
    }
  }
  for (auto& [id, connection] : connections_) {
    connection->end("the engine stops");
    ended_(id, false, connection->error());
  }
  connections_.clear();
}

}  // namespace penstock
