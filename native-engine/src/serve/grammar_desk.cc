// Bookkeeping of held requests. See grammar_desk.h.
#include "serve/grammar_desk.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace penstock {
namespace {

// A mask takes 10 us to 1 ms where a step takes many, so few threads keep up; the rest stay with the model.
constexpr uint32_t kMaskThreadsMax = 4;
constexpr uint32_t kCoresPerMaskThread = 4;

// What the grammar has seen before the first token that is drawn.
std::vector<int32_t> text_tokens(const Request& request) {
  if (!request.hands_over) return request.output;
  return {request.prompt.begin() + request.draw_prompt_tokens, request.prompt.end()};
}

int32_t mask_threads() {
  return static_cast<int32_t>(
      std::clamp(std::thread::hardware_concurrency() / kCoresPerMaskThread, 1u, kMaskThreadsMax));
}

}  // namespace

GrammarDesk::GrammarDesk(int32_t vocab_size, int32_t sequences_max, std::function<void()> on_compiled)
    : compiler_(vocab_size, std::move(on_compiled)), masks_(mask_threads(), sequences_max) {}

void GrammarDesk::set_vocabulary(frame::Vocabulary& vocabulary) {
  std::vector<std::vector<uint8_t>> tokens;
  tokens.reserve(vocabulary.tokens.size());
  // Control tokens never stand for text: without bytes no grammar allows them.
  for (frame::VocabularyToken& token : vocabulary.tokens)
    tokens.push_back(token.control ? std::vector<uint8_t>() : std::move(token.bytes));
  compiler_.set_vocabulary(std::move(tokens), std::move(vocabulary.end_ids));
}

bool GrammarDesk::hold(Request request, const frame::Grammar& grammar) {
  const uint64_t ticket = next_ticket_++;
  const auto kind = static_cast<GrammarKind>(grammar.kind);
  if (!compiler_.order({ticket, kind, grammar.text, request.salt, text_tokens(request)})) return false;
  id_of_.emplace(ticket, request.id);
  const uint64_t id = request.id;
  held_.emplace(id, Held{ticket, std::move(request)});
  return true;
}

std::optional<Request> GrammarDesk::cancel(uint64_t id) {
  const auto found = held_.find(id);
  if (found == held_.end()) return std::nullopt;
  compiler_.cancel(found->second.ticket);
  id_of_.erase(found->second.ticket);
  Request request = std::move(found->second.request);
  held_.erase(found);
  return request;
}

bool GrammarDesk::add_credit(uint64_t id, uint64_t tokens) {
  const auto found = held_.find(id);
  if (found == held_.end()) return false;
  uint64_t& credit = found->second.request.credit_tokens;
  credit = tokens > UINT64_MAX - credit ? UINT64_MAX : credit + tokens;
  return true;
}

void GrammarDesk::expire(int64_t now_ms, std::vector<Request>& out) {
  out.clear();
  for (auto at = held_.begin(); at != held_.end();) {
    const auto& [id, held] = *at++;
    if (held.request.deadline_ms.has_value() && *held.request.deadline_ms <= now_ms) out.push_back(*cancel(id));
  }
}

std::optional<int64_t> GrammarDesk::next_deadline_ms() const {
  std::optional<int64_t> next;
  for (const auto& [id, held] : held_) {
    const auto& deadline_ms = held.request.deadline_ms;
    if (deadline_ms.has_value()) next = std::min(next.value_or(*deadline_ms), *deadline_ms);
  }
  return next;
}

void GrammarDesk::clear(std::vector<Request>* out) {
  if (out != nullptr) {
    out->clear();
    for (auto& [id, held] : held_) out->push_back(std::move(held.request));
  }
  compiler_.clear();
  held_.clear();
  id_of_.clear();
}

void GrammarDesk::take(std::vector<Answer>& out) {
  out.clear();
  compiler_.take(compiled_);
  for (CompiledGrammar& compiled : compiled_) {
    const auto ticket = id_of_.find(compiled.ticket);
    if (ticket == id_of_.end()) continue;  // cancelled while it was on its way
    const auto found = held_.find(ticket->second);
    Answer answer{.request = std::move(found->second.request), .complete = compiled.complete, .error = {}};
    answer.request.grammar = std::move(compiled.grammar);
    held_.erase(found);
    id_of_.erase(ticket);
    // The library's own words quote text, and a refusal goes into logs.
    if (const auto at = compiled.not_allowed)
      answer.error = "output[" + std::to_string(*at) + "] is token " + std::to_string(text_tokens(answer.request)[*at]) +
                     ", which the grammar does not allow there";
    else if (!compiled.error.empty())
      answer.error = "grammar: " + compiled.error;
    out.push_back(std::move(answer));
  }
}

}  // namespace penstock
