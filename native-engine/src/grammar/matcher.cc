// The C interface of grammar/src/lib.rs, called. See matcher.h.
#include "grammar/matcher.h"

#include <algorithm>
#include <utility>

#ifdef PENSTOCK_WITH_GRAMMARS
extern "C" {
PenstockVocabulary* penstock_vocabulary_new(const uint8_t* bytes, const uint32_t* lengths, size_t count,
                                            const uint32_t* end_ids, size_t end_count, char* error, size_t error_bytes);
void penstock_vocabulary_free(PenstockVocabulary* vocabulary);
PenstockMatcher* penstock_matcher_new(const PenstockVocabulary* vocabulary, uint8_t kind, const uint8_t* text,
                                      size_t text_bytes, char* error, size_t error_bytes);
PenstockMatcher* penstock_matcher_clone(const PenstockMatcher* matcher);
void penstock_matcher_free(PenstockMatcher* matcher);
int32_t penstock_matcher_mask(PenstockMatcher* matcher, uint32_t* mask, size_t words);
int32_t penstock_matcher_consume(PenstockMatcher* matcher, uint32_t token);
void penstock_matcher_error(const PenstockMatcher* matcher, char* error, size_t error_bytes);
}
#endif

namespace penstock {

#ifdef PENSTOCK_WITH_GRAMMARS

namespace {
// Enough to name a place in a schema, short enough for a refusal.
constexpr size_t kErrorBytesMax = 512;
}  // namespace

bool grammars_available() { return true; }

GrammarVocabulary::GrammarVocabulary(std::span<const std::vector<uint8_t>> tokens, std::span<const uint32_t> end_ids) {
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> lengths, ends;
  lengths.reserve(tokens.size());
  for (const std::vector<uint8_t>& token : tokens) {
    bytes.insert(bytes.end(), token.begin(), token.end());
    lengths.push_back(static_cast<uint32_t>(token.size()));
  }
  for (const uint32_t id : end_ids) {
    if (id < tokens.size()) ends.push_back(id);
  }
  if (ends.empty()) throw GrammarError("a vocabulary for grammars needs a token that ends a generation");
  char error[kErrorBytesMax] = {};
  vocabulary_ = penstock_vocabulary_new(bytes.data(), lengths.data(), lengths.size(), ends.data(), ends.size(), error,
                                        sizeof error);
  if (vocabulary_ == nullptr) throw GrammarError(error);
  end_ids_.assign(ends.begin(), ends.end());
}

GrammarVocabulary::~GrammarVocabulary() { penstock_vocabulary_free(vocabulary_); }

GrammarMatcher::GrammarMatcher(std::shared_ptr<const GrammarVocabulary> vocabulary, GrammarKind kind,
                               std::string_view text)
    : vocabulary_(std::move(vocabulary)) {
  if (text.size() > kGrammarBytesMax)
    throw GrammarError("a grammar may have at most " + std::to_string(kGrammarBytesMax) + " bytes");
  char error[kErrorBytesMax] = {};
  matcher_ = penstock_matcher_new(vocabulary_->get(), static_cast<uint8_t>(kind),
                                  reinterpret_cast<const uint8_t*>(text.data()), text.size(), error, sizeof error);
  if (matcher_ == nullptr) throw GrammarError(error);
}

GrammarMatcher::GrammarMatcher(const GrammarMatcher& other)
    : vocabulary_(other.vocabulary_), matcher_(penstock_matcher_clone(other.matcher_)) {
  if (matcher_ == nullptr) throw GrammarError("the grammar could not be copied");
}

GrammarMatcher::~GrammarMatcher() { penstock_matcher_free(matcher_); }

GrammarMatcher::State GrammarMatcher::mask(std::span<uint32_t> mask) {
  return static_cast<State>(penstock_matcher_mask(matcher_, mask.data(), mask.size()));
}

GrammarMatcher::State GrammarMatcher::consume(int32_t token) {
  return static_cast<State>(penstock_matcher_consume(matcher_, static_cast<uint32_t>(token)));
}

std::string GrammarMatcher::error() const {
  char error[kErrorBytesMax] = {};
  penstock_matcher_error(matcher_, error, sizeof error);
  return error;
}

#else

namespace {
[[noreturn]] void refuse() { throw GrammarError("this engine was built without grammars"); }
}  // namespace

bool grammars_available() { return false; }
GrammarVocabulary::GrammarVocabulary(std::span<const std::vector<uint8_t>>, std::span<const uint32_t>) { refuse(); }
GrammarVocabulary::~GrammarVocabulary() = default;
GrammarMatcher::GrammarMatcher(std::shared_ptr<const GrammarVocabulary>, GrammarKind, std::string_view) { refuse(); }
GrammarMatcher::GrammarMatcher(const GrammarMatcher&) { refuse(); }
GrammarMatcher::~GrammarMatcher() = default;
GrammarMatcher::State GrammarMatcher::mask(std::span<uint32_t>) { refuse(); }
GrammarMatcher::State GrammarMatcher::consume(int32_t) { refuse(); }
std::string GrammarMatcher::error() const { refuse(); }

#endif

bool GrammarVocabulary::is_end(int32_t token) const {
  return std::find(end_ids_.begin(), end_ids_.end(), token) != end_ids_.end();
}

GrammarMatcher::GrammarMatcher(GrammarMatcher&& other) noexcept
    : vocabulary_(std::move(other.vocabulary_)), matcher_(std::exchange(other.matcher_, nullptr)) {}

}  // namespace penstock
