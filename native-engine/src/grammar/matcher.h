// Grammars as token masks. Owns the C++ side of the compiler and matcher in grammar/ (Rust, llguidance); threads and
// caches are compiler.h and mask_pool.h. In a build without it, everything here throws GrammarError.
//
// The library allocates as it goes: a sequence with a grammar is outside the promise that steps allocate nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

struct PenstockVocabulary;
struct PenstockMatcher;

namespace penstock {

enum class GrammarKind : uint8_t { JsonSchema = 1, Regex = 2, Lark = 3 };  // the numbers of the wire

// Bytes of a grammar's text. Compiling takes time with its length, and hand-written schemas have a few thousand.
inline constexpr size_t kGrammarBytesMax = 256 * 1024;

// A grammar that cannot be used; the message is for the caller.
class GrammarError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Whether this build can compile grammars.
bool grammars_available();

// What the tokens are. Immutable: any number of threads and matchers may share it.
class GrammarVocabulary {
 public:
  // tokens [count] bytes by id, empty: never allowed by any grammar; end_ids are those that end a generation, and may
  // be sampled where the grammar accepts. Takes about 6 us per token. Throws GrammarError.
  GrammarVocabulary(std::span<const std::vector<uint8_t>> tokens, std::span<const uint32_t> end_ids);
  ~GrammarVocabulary();
  GrammarVocabulary(const GrammarVocabulary&) = delete;
  GrammarVocabulary& operator=(const GrammarVocabulary&) = delete;

  bool is_end(int32_t token) const;
  const PenstockVocabulary* get() const { return vocabulary_; }

 private:
  PenstockVocabulary* vocabulary_ = nullptr;
  std::vector<int32_t> end_ids_;
};

// Where one text stands in its grammar. Used by one thread at a time.
//
//   open ──consume()──▶ open | complete (nothing may follow) | failed (the library gave up, or the token was not
//   allowed)
class GrammarMatcher {
 public:
  enum class State : int32_t { open = 0, complete = 1, failed = 2 };

  // Compiles `text`, at the start of it. Bounded work, but up to seconds of it. Throws GrammarError with what is wrong.
  GrammarMatcher(std::shared_ptr<const GrammarVocabulary> vocabulary, GrammarKind kind, std::string_view text);
  // A copy at the same point that shares no mutable state.
  GrammarMatcher(const GrammarMatcher& other);
  GrammarMatcher(GrammarMatcher&& other) noexcept;
  GrammarMatcher& operator=(const GrammarMatcher&) = delete;
  ~GrammarMatcher();

  // Writes which tokens may come next: token i is bit i % 32 of mask[i / 32]; words beyond the vocabulary become 0.
  State mask(std::span<uint32_t> mask);
  // Failed where the token may not come next, for a reason or another; PRECOND: the state is open.
  State consume(int32_t token);
  std::string error() const;  // why it failed
  bool is_end(int32_t token) const { return vocabulary_->is_end(token); }

 private:
  std::shared_ptr<const GrammarVocabulary> vocabulary_;
  PenstockMatcher* matcher_ = nullptr;
};

}  // namespace penstock
