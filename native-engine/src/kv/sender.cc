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
#include "kv/sender_stream.h"
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
// Between two looks whether the system is done with what was sent. poll() would not wait on a socket that was broken off.
constexpr auto kSettlePause = std::chrono::milliseconds(1);

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
//
// The first stream is the transfer: it offers and ends. The others join it once it is let in, and take pieces as they have room for
// them; one that is not let in is done without, and one that breaks ends the transfer.
class KvSender::Connection {
 public:
  // Throws as connect_to() where no address can be tried.
  Connection(const KvView& kv, const std::string& fingerprint, const Push& push, const SenderOptions& options)
      : kv_(kv), fingerprint_(fingerprint), options_(options), push_(push), addresses_(addresses_in(push.address)) {
    if (addresses_.empty()) throw std::invalid_argument("no address to send to");
    open_next();
  }

  // For poll(): adds one for each stream.
  void add_to(std::vector<pollfd>& polled) const {
    for (const auto& stream : streams_) polled.push_back({stream->fd(), stream->events(wants_write(*stream)), 0});
  }
  size_t streams() const { return streams_.size(); }
  // Nobody reads the blocks any more. Where the system does not say so in time, nobody waits for it for ever.
  bool over() const { return over_ && (streams_.empty() || Clock::now() > ended_ + options_.silence_max); }
  bool arrived() const { return arrived_; }
  const std::string& error() const { return error_; }

  // When something is to be done unless something moves until then: give up, or say that we are still there.
  Clock::time_point patience() const {
    if (over_) return Clock::now() + kSettlePause;
    auto until = Clock::time_point::max();
    for (const auto& stream : streams_) until = std::min(until, patience_of(*stream));
    return until;
  }
  void look_at_clock() {
    const auto now = Clock::now();
    for (const auto& stream : streams_) stream->settle();
    for (size_t i = 0; i < streams_.size() && !over_; ++i) {
      SenderStream& stream = *streams_[i];
      if (now <= patience_of(stream)) continue;
      if (!awaits_peer(stream)) {
        stream.say(wire::PieceHead{.magic = wire::kAlive});
        stream.touch();
      } else if (i > 0 && !stream.let_in) {
        stream.touch();  // were it closed, the receiver might still accept it, as one that has joined and broken off
      } else {
        lose(stream, "the receiver is silent");
      }
    }
    drop_closed();
  }

  void extend(const Told& told) {
    if (told.blocks.empty()) return;
    touch_idle();
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
    touch_idle();
    finished_ = true;
    note_ = std::move(note);
  }
  // Over, whoever else could be tried.
  void end(const std::string& error) {
    if (over_) return;
    over_ = true;
    error_ = error;
    ended_ = Clock::now();
    for (const auto& stream : streams_) stream->close(!arrived_);
    drop_closed();
  }

  // Of add_to().
  void react(std::span<const pollfd> polled) {
    const size_t attempt = attempts_;
    for (size_t i = 0; i < polled.size() && i < streams_.size() && attempts_ == attempt; ++i) {
      SenderStream& stream = *streams_[i];
      const short events = polled[i].revents;
      if (!over_ && (events & (POLLIN | POLLERR | POLLHUP)) != 0) read(stream);
      // Not on another connection to which it has gone over meanwhile.
      if (!over_ && attempts_ == attempt && !stream.closed() && (events & POLLOUT) != 0) write(stream);
    }
    drop_closed();
  }

 private:
  enum class State { Offering, Sending, Waiting };
  // Some layers of some of blocks_, complete.
  struct Unsent {
    size_t first;
    size_t count;
    LayerSpan layers;
  };

  bool is_first(const SenderStream& stream) const { return &stream == streams_.front().get(); }
  bool can_begin_piece() const { return state_ == State::Sending && !unsent_.empty(); }
  bool can_end() const {
    return state_ == State::Sending && finished_ && unsent_.empty() &&
           std::none_of(streams_.begin(), streams_.end(), [](const auto& stream) { return stream->let_in && stream->has_output(); });
  }
  bool wants_write(const SenderStream& stream) const {
    return stream.has_output() || (stream.let_in && can_begin_piece()) || (is_first(stream) && can_end());
  }
  // Who waits for blocks to be computed waits for nobody else.
  bool awaits_peer(const SenderStream& stream) const {
    return !stream.let_in || wants_write(stream) || (is_first(stream) && state_ == State::Waiting);
  }
  Clock::time_point patience_of(const SenderStream& stream) const {
    return stream.moved() + (awaits_peer(stream) ? options_.silence_max : options_.silence_max / kAlivesPerSilence);
  }
  void touch_idle() {
    for (const auto& stream : streams_)
      if (!wants_write(*stream)) stream->touch();
  }
  void drop_closed() {
    std::erase_if(streams_, [](const auto& stream) { return stream->closed(); });
  }

  void read(SenderStream& stream) {
    const size_t attempt = attempts_;
    while (!over_ && attempts_ == attempt && !stream.closed()) {
      std::optional<wire::Answer> answer;
      const Moved moved = stream.read(answer);
      if (moved.over) return lose(stream, moved.error == 0 ? "the receiver closed the connection" : std::strerror(moved.error));
      if (moved.bytes == 0) return;
      if (answer.has_value()) answered(stream, *answer);
    }
  }

  void write(SenderStream& stream) {
    for (size_t taken = 0; taken < kBytesPerTurn;) {
      const bool more = prepare(stream);
      const Moved moved = stream.write();
      if (moved.over) {
        const size_t attempt = attempts_;
        read(stream);  // what the receiver said before it went says more
        if (!over_ && attempt == attempts_ && !stream.closed()) lose(stream, std::strerror(moved.error));
        return;
      }
      if (!more || moved.bytes == 0) return;
      taken += moved.bytes;
    }
  }

  // Makes sure that there is something to write. False: there is nothing.
  bool prepare(SenderStream& stream) {
    if (stream.has_output()) return true;
    if (stream.let_in && can_begin_piece()) {
      Unsent& next = unsent_.front();
      const size_t count = std::min(next.count, kBlocksPerPiece);
      stream.begin_piece(static_cast<uint32_t>(next.first), std::span(blocks_).subspan(next.first, count), next.layers);
      next.first += count;
      next.count -= count;
      if (next.count == 0) unsent_.pop_front();
      return true;
    }
    if (!is_first(stream) || !can_end()) return false;
    stream.say(wire::PieceHead{.magic = wire::kEnd,
                               .count = static_cast<uint32_t>(blocks_.size()),
                               .note_bytes = static_cast<uint32_t>(note_.size())});
    if (!note_.empty()) {
      Checksum sum;
      sum.update(note_);
      stream.say_bytes(note_);
      stream.say(sum.value());
    }
    state_ = State::Waiting;
    return true;
  }

  // Connects to the next address that can be tried.
  void open_next() {
    streams_.clear();
    for (;;) {
      try {
        const int64_t bytes = static_cast<int64_t>(push_.blocks) * kv_.bytes_per_block();
        // From a device the way over a socket is the longest, whatever there is to send.
        const bool shares = push_.blocks == 0 || bytes >= kSharedBytesMin || kv_.access != nullptr;
        const std::string& address = addresses_[attempts_++];
        streams_.push_back(std::make_unique<SenderStream>(
            kv_, open_transport(address, {.shares = shares, .zero_copy = options_.zero_copy}, kv_.access)));
        break;
      } catch (const std::exception&) {
        if (attempts_ == addresses_.size()) throw;
      }
    }
    SenderStream& stream = *streams_.front();
    stream.say(wire::OfferHead{.id = push_.grant.id,
                               .generation = push_.grant.generation,
                               .secret = push_.grant.secret,
                               .content = push_.content,
                               .fingerprint_bytes = static_cast<uint32_t>(fingerprint_.size()),
                               .features = stream.features()});
    stream.say_bytes(std::as_bytes(std::span(fingerprint_)));
  }

  // More streams to where the first one is.
  void open_others() {
    const std::string& address = addresses_[attempts_ - 1];
    if (is_local(address) || kv_.access != nullptr || (is_loopback(address) && !options_.several_on_loopback)) return;
    const int32_t wanted = streams_for(static_cast<int64_t>(push_.blocks) * kv_.bytes_per_block(), options_);
    while (streams_.size() < static_cast<size_t>(wanted)) {
      try {
        streams_.push_back(
            std::make_unique<SenderStream>(kv_, open_transport(address, {.zero_copy = options_.zero_copy}, kv_.access)));
      } catch (const std::exception&) {
        return;  // it goes with fewer
      }
      streams_.back()->say(wire::OfferHead{.magic = wire::kJoin,
                                           .id = push_.grant.id,
                                           .generation = push_.grant.generation,
                                           .secret = push_.grant.secret,
                                           .content = push_.content});
    }
  }

  void lose(SenderStream& stream, const std::string& error) {
    if (is_first(stream)) return fail(error);
    // Behind the end: whether everything is there the first one says, and this may be heard sooner than its answer.
    if (stream.let_in && state_ != State::Waiting) return end(error);
    stream.close(true);
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

  void answered(SenderStream& stream, const wire::Answer& answer) {
    if (answer.magic != wire::kAnswer) return lose(stream, "the receiver says something else");
    if (answer.refusal != 0) {
      const char* why = words(answer.refusal);
      return (is_first(stream) ? is_final(answer.refusal) : stream.let_in) ? end(why) : lose(stream, why);
    }
    if (!stream.let_in) {
      stream.let_in = true;
      if (!is_first(stream)) return;
      state_ = State::Sending;
      open_others();
    } else if (is_first(stream) && state_ == State::Waiting) {
      arrived_ = true;
      end("");
    } else {
      lose(stream, "the receiver answers what was not asked");
    }
  }

  const KvView& kv_;
  const std::string& fingerprint_;
  const SenderOptions& options_;
  const Push push_;
  const std::vector<std::string> addresses_;
  size_t attempts_ = 0;  // addresses that were tried
  std::vector<std::unique_ptr<SenderStream>> streams_;
  State state_ = State::Offering;
  std::vector<int32_t> blocks_;  // those of which anything was told
  std::deque<Unsent> unsent_;    // in the order of telling; what is being sent is in none
  bool finished_ = false;
  TransferNote note_;
  bool over_ = false;
  bool arrived_ = false;
  std::string error_;
  Clock::time_point ended_;
};

int32_t streams_for(int64_t bytes, const SenderOptions& options) {
  const int64_t worth = bytes / options.stream_bytes_min;
  return static_cast<int32_t>(std::clamp<int64_t>(worth, 1, std::clamp(options.streams_max, 1, wire::kStreamsMax)));
}

KvSender::KvSender(const KvView& kv, std::string fingerprint, Ended ended, SenderOptions options)
    : kv_(kv),
      fingerprint_(std::move(fingerprint)),
      ended_(std::move(ended)),
      options_(options),
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
        connections_[id] = std::make_unique<Connection>(kv_, fingerprint_, *news.begin, options_);
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
    bool leaves = false, more = false;
    {
      std::lock_guard lock(mutex_);
      leaves = leave_;
      more = !news_.empty();
    }
    for (auto at = connections_.begin(); at != connections_.end();) {
      Connection& connection = *at->second;
      if (leaves) connection.end("the engine stops");
      connection.look_at_clock();
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
    if (leaves && connections_.empty()) return;
    if (more && !leaves) continue;
    polled.assign(1, {wake_.fd(), POLLIN, 0});
    auto until = Clock::time_point::max();
    for (const auto& [id, connection] : connections_) {
      connection->add_to(polled);
      until = std::min(until, connection->patience());
    }
    int timeout_ms = -1;
    if (until != Clock::time_point::max()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
      timeout_ms = static_cast<int>(std::clamp<int64_t>(left + 1, 0, 60'000));
    }
    poll(polled.data(), static_cast<nfds_t>(polled.size()), timeout_ms);
    wake_.drain();
    size_t next = 1;
    for (auto& [id, connection] : connections_) {
      const size_t count = connection->streams();
      const auto seen = std::span<const pollfd>(polled).subspan(next, count);
      next += count;
      try {
        connection->react(seen);
      } catch (const std::exception& error) {
        // Blocks on a device that cannot be read: the step loop learns of it with its next step.
        connection->end(error.what());
      }
    }
  }
}

}  // namespace penstock
