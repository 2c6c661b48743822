// The compiler's thread. See compiler.h.
#include "grammar/compiler.h"

#include <algorithm>
#include <utility>

namespace penstock {
namespace {

// An application has a handful of schemas. Each kept one costs its text and its first lexer states, under a megabyte.
constexpr size_t kCachedGrammarsMax = 64;

}  // namespace

GrammarCompiler::GrammarCompiler(int32_t vocab_size, std::function<void()> on_compiled)
    : vocab_size_(vocab_size), on_compiled_(std::move(on_compiled)), thread_([this] { work(); }) {}

GrammarCompiler::~GrammarCompiler() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  arrived_.notify_one();
  thread_.join();
}

void GrammarCompiler::set_vocabulary(std::vector<std::vector<uint8_t>> tokens, std::vector<uint32_t> end_ids) {
  if (tokens.size() > static_cast<size_t>(vocab_size_)) tokens.resize(static_cast<size_t>(vocab_size_));
  {
    std::lock_guard lock(mutex_);
    jobs_.emplace_back(Tokens{std::move(tokens), std::move(end_ids)});
  }
  arrived_.notify_one();
}

bool GrammarCompiler::order(GrammarOrder order) {
  {
    std::lock_guard lock(mutex_);
    if (orders_waiting_ >= kCompilationsMax) return false;
    ++orders_waiting_;
    jobs_.emplace_back(std::move(order));
  }
  arrived_.notify_one();
  return true;
}

void GrammarCompiler::cancel(uint64_t ticket) {
  std::lock_guard lock(mutex_);
  orders_waiting_ -= std::erase_if(jobs_, [&](const Job& job) {
    const auto* order = std::get_if<GrammarOrder>(&job);
    return order != nullptr && order->ticket == ticket;
  });
  std::erase_if(compiled_, [&](const CompiledGrammar& done) { return done.ticket == ticket; });
  if (compiling_ == ticket) compiling_.reset();
}

void GrammarCompiler::clear() {
  {
    std::lock_guard lock(mutex_);
    jobs_.clear();
    jobs_.emplace_back(Clear{});
    orders_waiting_ = 0;
    compiled_.clear();
    compiling_.reset();
  }
  arrived_.notify_one();
}

void GrammarCompiler::take(std::vector<CompiledGrammar>& out) {
  out.clear();
  std::lock_guard lock(mutex_);
  std::swap(out, compiled_);
}

void GrammarCompiler::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    arrived_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    auto* order = std::get_if<GrammarOrder>(&job);
    if (order == nullptr) {
      lock.unlock();
      cache_.clear();
      vocabulary_.reset();
      vocabulary_error_ = "grammars need a VOCABULARY first";
      if (auto* tokens = std::get_if<Tokens>(&job)) {
        try {
          vocabulary_ = std::make_shared<const GrammarVocabulary>(tokens->bytes, tokens->end_ids);
        } catch (const GrammarError& error) {
          vocabulary_error_ = error.what();
        }
      }
      lock.lock();
      continue;
    }
    --orders_waiting_;
    compiling_ = order->ticket;
    lock.unlock();
    CompiledGrammar done = compile(*order);
    lock.lock();
    const bool wanted = compiling_ == done.ticket;
    compiling_.reset();
    if (!wanted) continue;
    compiled_.push_back(std::move(done));
    lock.unlock();
    on_compiled_();
    lock.lock();
  }
}

CompiledGrammar GrammarCompiler::compile(GrammarOrder& order) {
  CompiledGrammar done;
  done.ticket = order.ticket;
  try {
    if (vocabulary_ == nullptr)
      throw GrammarError(vocabulary_error_.empty() ? "grammars need a VOCABULARY first" : vocabulary_error_);
    auto grammar = std::make_shared<SequenceGrammar>(matcher_for(order), vocab_size_);
    size_t at = 0;
    const auto state = grammar->replay(order.output, at);
    if (state == GrammarMatcher::State::failed) {
      done.not_allowed = at;
      return done;
    }
    done.complete = state == GrammarMatcher::State::complete;
    if (done.complete) return done;
    grammar->prepare();
    done.grammar = std::move(grammar);
  } catch (const GrammarError& error) {
    done.error = error.what();
  }
  return done;
}

const GrammarMatcher& GrammarCompiler::matcher_for(GrammarOrder& order) {
  const auto found = std::find_if(cache_.begin(), cache_.end(), [&](const Cached& cached) {
    return cached.kind == order.kind && cached.salt == order.salt && cached.text == order.text;
  });
  if (found != cache_.end()) {
    cache_.splice(cache_.begin(), cache_, found);
  } else {
    GrammarMatcher matcher(vocabulary_, order.kind, order.text);
    cache_.push_front({order.kind, order.salt, std::move(order.text), std::move(matcher)});
    if (cache_.size() > kCachedGrammarsMax) cache_.pop_back();
  }
  return cache_.front().matcher;
}

}  // namespace penstock
