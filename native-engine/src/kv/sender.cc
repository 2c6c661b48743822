// Connections that carry K and V away. See sender.h.
#include "kv/sender.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>

#include "kv/checksum.h"
#include "kv/endpoint.h"
#include "kv/transfer_wire.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

// A piece is what is acknowledged by one checksum: large enough that heads cost nothing, small enough that a fault is
// noticed soon.
constexpr size_t kBlocksPerPiece = 16;
constexpr size_t kBytesPerTurn = 4 * 1024 * 1024;
// While the next blocks are being computed the receiver hears of us so often before it gives us up.
constexpr int kAlivesPerSilence = 4;

#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

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
  }
  return "the receiver refused for a reason unknown here";
}

}  // namespace

//   Offering ──ANSWER 0──▶ Sending ──everything sent, finish()──▶ Waiting ──ANSWER 0──▶ Over (arrived)
//       any refusal, fault, silence, stop() ─────────────────────────────────────────▶ Over
class KvSender::Connection {
 public:
  Connection(const KvView& kv, const std::string& fingerprint, const Push& push)
      : kv_(kv), socket_(connect_to(push.address)), moved_(Clock::now()) {
    wire::append(out_, wire::OfferHead{.id = push.grant.id,
                                       .generation = push.grant.generation,
                                       .secret = push.grant.secret,
                                       .content = push.content,
                                       .fingerprint_bytes = static_cast<uint32_t>(fingerprint.size())});
    for (const char letter : fingerprint) out_.push_back(static_cast<std::byte>(letter));
  }

  int fd() const { return socket_.get(); }
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

  void extend(std::span<const int32_t> blocks) {
    if (!wants_write()) moved_ = Clock::now();
    blocks_.insert(blocks_.end(), blocks.begin(), blocks.end());
  }
  void finish() {
    if (!wants_write()) moved_ = Clock::now();
    finished_ = true;
  }
  void fail(const std::string& error) {
    if (over_) return;
    over_ = true;
    error_ = error;
    socket_.reset();
  }

  void read() {
    while (!over_) {
      const ssize_t count = recv(socket_.get(), in_ + in_bytes_, sizeof in_ - in_bytes_, 0);
      if (count == 0) return fail("the receiver closed the connection");
      if (count < 0) return would_block() ? void() : fail(std::strerror(errno));
      moved_ = Clock::now();
      in_bytes_ += static_cast<size_t>(count);
      if (in_bytes_ == sizeof in_) answered();
    }
  }

  void write() {
    size_t taken = 0;
    while (!over_ && taken < kBytesPerTurn) {
      const ssize_t count = write_some();
      if (count == 0) return;
      if (count < 0) {
        if (would_block()) return;
        const std::string error = std::strerror(errno);
        read();  // what the receiver said before it went says more
        return fail(error);
      }
      moved_ = Clock::now();
      taken += static_cast<size_t>(count);
    }
  }

 private:
  enum class State { Offering, Sending, Waiting };

  bool in_payload() const { return piece_end_ > next_; }
  bool can_begin_piece() const { return state_ == State::Sending && next_ < blocks_.size(); }
  bool can_end() const { return state_ == State::Sending && finished_ && next_ == blocks_.size(); }

  // Bytes sent; 0: nothing to send now; below 0: errno.
  ssize_t write_some() {
    if (out_sent_ < out_.size()) {
      const ssize_t count = send(socket_.get(), out_.data() + out_sent_, out_.size() - out_sent_, kSendFlags);
      if (count > 0) out_sent_ += static_cast<size_t>(count);
      return count;
    }
    out_.clear();
    out_sent_ = 0;
    if (in_payload()) return write_payload();
    if (can_begin_piece()) {
      piece_end_ = std::min(blocks_.size(), next_ + kBlocksPerPiece);
      layer_ = 0;
      offset_ = 0;
      sum_ = Checksum();
      wire::append(out_, wire::PieceHead{.first = static_cast<uint32_t>(next_),
                                         .count = static_cast<uint32_t>(piece_end_ - next_)});
      return write_some();
    }
    if (can_end()) {
      wire::append(out_, wire::PieceHead{.magic = wire::kEnd, .count = static_cast<uint32_t>(blocks_.size())});
      state_ = State::Waiting;
      return write_some();
    }
    return 0;
  }

  // The rest of the block of a layer, and those of the layers behind it, in one call.
  ssize_t write_payload() {
    iovec parts[kPartsMax];
    int count = 0;
    int32_t layer = layer_;
    size_t offset = offset_;
    for (; layer < kv_.layers && count < kPartsMax; ++layer, offset = 0) {
      const std::span<std::byte> bytes = kv_.at(layer, blocks_[next_]).subspan(offset);
      parts[count++] = {bytes.data(), bytes.size()};
    }
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);
    const ssize_t sent = sendmsg(socket_.get(), &message, kSendFlags);
    if (sent <= 0) return sent;
    for (size_t left = static_cast<size_t>(sent); left > 0;) {
      const std::span<std::byte> bytes = kv_.at(layer_, blocks_[next_]).subspan(offset_);
      const size_t here = std::min(left, bytes.size());
      sum_.update(bytes.first(here));
      offset_ += here;
      left -= here;
      if (here < bytes.size()) break;
      offset_ = 0;
      if (++layer_ == kv_.layers) {
        layer_ = 0;
        if (++next_ == piece_end_) wire::append(out_, sum_.value());
      }
    }
    return sent;
  }

  void answered() {
    const auto answer = wire::read<wire::Answer>(in_);
    in_bytes_ = 0;
    if (answer.magic != wire::kAnswer) return fail("the receiver says something else");
    if (answer.refusal != 0) return fail(words(answer.refusal));
    if (state_ == State::Offering) {
      state_ = State::Sending;
    } else if (state_ == State::Waiting) {
      over_ = arrived_ = true;
      socket_.reset();
    } else {
      fail("the receiver answers what was not asked");
    }
  }

  static constexpr int kPartsMax = 64;

  const KvView& kv_;
  Descriptor socket_;
  Clock::time_point moved_;
  State state_ = State::Offering;
  std::vector<std::byte> out_;  // heads and sums
  size_t out_sent_ = 0;
  std::byte in_[sizeof(wire::Answer)] = {};
  size_t in_bytes_ = 0;
  std::vector<int32_t> blocks_;  // complete ones
  bool finished_ = false;
  size_t next_ = 0;  // of blocks_: the one being sent, or to be sent next
  size_t piece_end_ = 0;
  int32_t layer_ = 0;
  size_t offset_ = 0;
  Checksum sum_;
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
  tell(id, [&](News& news) { news.blocks.insert(news.blocks.end(), blocks.begin(), blocks.end()); });
}

void KvSender::finish(uint64_t id) {
  tell(id, [](News& news) { news.finished = true; });
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
    connection.extend(news.blocks);
    if (news.finished) connection.finish();
    if (news.stopped) connection.fail("nobody wants it any more");
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
      polled.push_back({connection->fd(), static_cast<short>(POLLIN | (connection->wants_write() ? POLLOUT : 0)), 0});
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
      if ((events & (POLLIN | POLLERR | POLLHUP)) != 0) connection->read();
      if (!connection->over() && (events & POLLOUT) != 0) connection->write();
    }
  }
  for (auto& [id, connection] : connections_) {
    connection->fail("the engine stops");
    ended_(id, false, connection->error());
  }
  connections_.clear();
}

}  // namespace penstock
