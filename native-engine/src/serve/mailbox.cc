// Inbox and outbox between the two threads. See mailbox.h.
#include "serve/mailbox.h"

#include <algorithm>
#include <utility>

namespace penstock {
namespace {

size_t sampling_bytes(const frame::Sampling& sampling) {
  return sampling.bias.size() * sizeof(frame::Bias) + (sampling.grammar.has_value() ? sampling.grammar->text.size() : 0);
}

size_t event_bytes(const Event& event) {
  if (const auto* vocabulary = std::get_if<frame::Vocabulary>(&event)) {
    size_t bytes = sizeof(Event) + vocabulary->tokens.size() * sizeof(frame::VocabularyToken);
    for (const frame::VocabularyToken& token : vocabulary->tokens) bytes += token.bytes.size();
    return bytes;
  }
  if (const auto* reserve = std::get_if<frame::Reserve>(&event))
    return sizeof(Event) + reserve->tokens.size() * sizeof(uint32_t);
  if (const auto* push = std::get_if<frame::Push>(&event))
    return sizeof(Event) + push->tokens.size() * sizeof(uint32_t) + push->address.size() +
           (push->draw.has_value() ? sampling_bytes(*push->draw) + push->draw->seeds.size() * sizeof(uint64_t) : 0);
  const auto* submit = std::get_if<frame::Submit>(&event);
  if (submit == nullptr) return sizeof(Event);
  const size_t ids = submit->prompt.size() + submit->output.size() + submit->stop_ids.size();
  return sizeof(Event) + ids * sizeof(uint32_t) + sampling_bytes(*submit);
}

}  // namespace

void Inbox::post(Event event) {
  {
    std::lock_guard lock(mutex_);
    bytes_ += event_bytes(event);
    events_.push_back(std::move(event));
  }
  arrived_.notify_one();
}

bool Inbox::full() const {
  std::lock_guard lock(mutex_);
  return bytes_ >= kInboxBytesMax;
}

void Inbox::take(std::vector<Event>& events, std::optional<std::chrono::steady_clock::time_point> until) {
  events.clear();
  bool was_full = false;
  {
    std::unique_lock lock(mutex_);
    const auto something = [&] { return !events_.empty(); };
    if (until.has_value())
      arrived_.wait_until(lock, *until, something);
    else
      arrived_.wait(lock, something);
    std::swap(events, events_);
    was_full = bytes_ >= kInboxBytesMax;
    bytes_ = 0;
  }
  if (was_full) on_room_();
}

void Outbox::open(std::optional<ConnectionNumber> connection) {
  std::lock_guard lock(mutex_);
  bytes_.clear();
  unsent_bytes_ = 0;
  overflowed_ = false;
  connection_ = connection;
}

void Outbox::append(ConnectionNumber connection, const Frame& frame) {
  {
    std::lock_guard lock(mutex_);
    if (connection_ != connection || overflowed_) return;
    append_frame(bytes_, frame);
    overflowed_ = bytes_.size() + unsent_bytes_ > kOutboxBytesMax;
  }
  on_bytes_();
}

size_t Outbox::take(std::vector<uint8_t>& bytes) {
  std::lock_guard lock(mutex_);
  const size_t count = bytes_.size();
  bytes.insert(bytes.end(), bytes_.begin(), bytes_.end());
  bytes_.clear();
  unsent_bytes_ += count;
  return count;
}

void Outbox::sent(size_t count) {
  std::lock_guard lock(mutex_);
  unsent_bytes_ -= std::min(count, unsent_bytes_);
}

size_t Outbox::waiting_bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_.size() + unsent_bytes_;
}

bool Outbox::overflowed() const {
  std::lock_guard lock(mutex_);
  return overflowed_;
}

void Outbox::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  on_bytes_();
}

bool Outbox::closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

}  // namespace penstock
