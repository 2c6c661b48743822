// Claiming and computing masks. See mask_pool.h.
#include "grammar/mask_pool.h"

#include <algorithm>
#include <utility>

namespace penstock {

SequenceGrammar::SequenceGrammar(GrammarMatcher matcher, int32_t vocab_size)
    : matcher_(std::move(matcher)), mask_((static_cast<size_t>(vocab_size) + 31) / 32) {}

GrammarMatcher::State SequenceGrammar::replay(std::span<const int32_t> tokens, size_t& at) {
  auto state = GrammarMatcher::State::open;
  for (at = 0; at < tokens.size(); ++at) {
    // Nothing may follow a complete text.
    state = state == GrammarMatcher::State::open ? matcher_.consume(tokens[at]) : GrammarMatcher::State::failed;
    if (state == GrammarMatcher::State::failed) break;
  }
  return state;
}

void SequenceGrammar::prepare() {
  turn_ = kWorking;
  compute();
}

std::span<const uint32_t> SequenceGrammar::mask() {
  if (turn_.load() == kNone) turn_ = kQueued;
  if (claim()) compute();
  while (turn_.load() == kWorking) turn_.wait(kWorking);
  return possible_ ? std::span<const uint32_t>(mask_) : std::span<const uint32_t>();
}

GrammarMatcher::State SequenceGrammar::consume(int32_t token) {
  turn_ = kNone;
  return matcher_.consume(token);
}

bool SequenceGrammar::claim() {
  int32_t queued = kQueued;
  return turn_.compare_exchange_strong(queued, kWorking);
}

void SequenceGrammar::compute() {
  const GrammarMatcher::State state = matcher_.mask(mask_);
  possible_ = state != GrammarMatcher::State::failed &&
              std::any_of(mask_.begin(), mask_.end(), [](uint32_t word) { return word != 0; });
  turn_ = kReady;
  turn_.notify_all();
}

MaskPool::MaskPool(int32_t threads, int32_t sequences_max) {
  queue_.reserve(2 * static_cast<size_t>(sequences_max));
  for (int32_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

MaskPool::~MaskPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  arrived_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void MaskPool::begin(std::span<const std::shared_ptr<SequenceGrammar>> grammars) {
  if (grammars.empty()) return;
  {
    std::lock_guard lock(mutex_);
    // Those that the step thread computed itself are still listed; without this they would pile up behind a busy pool.
    std::erase_if(queue_, [](const auto& grammar) { return grammar->turn_.load() != SequenceGrammar::kQueued; });
    for (const std::shared_ptr<SequenceGrammar>& grammar : grammars) {
      grammar->turn_ = SequenceGrammar::kQueued;
      queue_.push_back(grammar);
    }
  }
  if (grammars.size() == 1)
    arrived_.notify_one();
  else
    arrived_.notify_all();
}

void MaskPool::work() {
  for (;;) {
    std::shared_ptr<SequenceGrammar> grammar;
    {
      std::unique_lock lock(mutex_);
      arrived_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      grammar = std::move(queue_.front());
      queue_.erase(queue_.begin());
    }
    if (grammar->claim()) grammar->compute();
  }
}

}  // namespace penstock
