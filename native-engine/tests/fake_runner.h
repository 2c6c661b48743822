// A stand-in for a model with a paged cache but no arithmetic. Owns a cache that remembers which token was written
// where, and after which others: a slot stands for K and V, which depend on everything before them. On every step it
// checks that each slot a sequence reads holds exactly what that sequence would have computed itself, so a block shared
// wrongly, lost or overwritten is noticed at once, and that the caller keeps the contract of model/runner.h. Slots of different
// layers differ, and are written a layer at a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/runner.h"

namespace penstock {

inline uint64_t mix(uint64_t hash, int32_t token) {
  hash ^= static_cast<uint64_t>(token) + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2);
  return hash * 0xff51afd7ed558ccdu;
}

// What the fake model says after these tokens: the oracle for a sequence that runs alone.
inline int32_t fake_next_token(std::span<const int32_t> tokens, int32_t vocab_size) {
  uint64_t hash = 1;
  for (const int32_t token : tokens) hash = mix(hash, token);
  return static_cast<int32_t>((hash >> 20) % static_cast<uint64_t>(vocab_size));
}

inline constexpr int32_t kFakeEmbeddingDims = 3;

// What the fake model adds for a token whose prefix, itself included, has this hash. Whole numbers, so that sums are
// exact in any order.
inline float fake_state(uint64_t hash, size_t dim) { return static_cast<float>((hash >> (16 * dim)) & 0xff); }

// The oracle for embeddings: of a sequence that runs alone.
inline std::vector<float> fake_embedding(std::span<const int32_t> tokens, Pooling pooling) {
  std::vector<float> values(kFakeEmbeddingDims, 0.0f);
  uint64_t hash = 1;
  for (const int32_t token : tokens) {
    hash = mix(hash, token);
    for (size_t dim = 0; dim < values.size(); ++dim)
      values[dim] = fake_state(hash, dim) + (pooling == Pooling::mean ? values[dim] : 0.0f);
  }
  if (pooling == Pooling::mean)
    for (float& value : values) value /= static_cast<float>(tokens.size());
  return values;
}

inline constexpr int32_t kFakeLayers = 3;

class FakeRunner : public Runner {
 public:
  FakeRunner(int32_t blocks_total, int32_t context_tokens, int32_t vocab_size, int32_t step_tokens_max)
      : step_tokens_max_(step_tokens_max),
        cache_(static_cast<size_t>(kFakeLayers * blocks_total) * kBlockTokens, Slot{-1, 0}) {
    info_.arch = "fake";
    info_.model_name = "Fake";
    info_.vocab_size = vocab_size;
    info_.context_tokens = context_tokens;
    info_.blocks_total = blocks_total;
    info_.kv_fingerprint = "fake/1";
    info_.weight_bytes = 1000;
    info_.kv_bytes_per_token = 4;
    info_.embedding_dims = kFakeEmbeddingDims;
  }

  const RunnerInfo& info() const override { return info_; }

  KvView kv() override {
    return {reinterpret_cast<std::byte*>(cache_.data()), kFakeLayers, info_.blocks_total,
            static_cast<int64_t>(kBlockTokens * sizeof(Slot))};
  }

  void forward(const StepBatch& batch, std::span<float> logits) override {
    wait_while_held(0);
    require(!batch.sequences.empty(), "an empty step");
    require(batch.token_ids.size() == batch.positions.size(), "as many positions as tokens");
    require(batch.token_ids.size() <= static_cast<size_t>(step_tokens_max_), "a step within its budget");
    int32_t rows = 0;
    size_t wanting = 0;
    check_blocks(batch);
    hashes_.clear();
    for (const StepSequence& sequence : batch.sequences) {
      require(sequence.first_row == rows && sequence.rows >= 1, "rows one after another");
      uint64_t hash = check_context(sequence);
      for (int32_t i = 0; i < sequence.rows; ++i) {
        const auto row = static_cast<size_t>(rows + i);
        const int32_t position = sequence.kv_tokens - sequence.rows + i;
        require(batch.positions[row] == position, "positions that follow the context");
        require(batch.token_ids[row] >= 0 && batch.token_ids[row] < info_.vocab_size, "tokens of the vocabulary");
        hash = mix(hash, batch.token_ids[row]);
        hashes_.push_back(hash);
        slot(sequence, position) = {batch.token_ids[row], hash};
        pool(sequence, hash, i + 1 == sequence.rows);
      }
      rows += sequence.rows;
      if (sequence.wants_logits) write_logits(sequence, hash, logits, wanting++);
    }
    require(static_cast<size_t>(rows) == batch.token_ids.size(), "no rows without a sequence");
    require(logits.size() == wanting * static_cast<size_t>(info_.vocab_size), "logits for those who want them");
    for (int32_t stored = 1; stored <= kFakeLayers; ++stored) {
      if (stored > 1) store(batch, stored - 1);
      if (batch.watch != nullptr) batch.watch->layers_stored(stored);
      wait_while_held(stored);
    }
    std::lock_guard lock(mutex_);
    ++steps_;
    changed_.notify_all();
  }

  // What another engine that computed `tokens` has in the block at `index` of them.
  void write_block(int32_t block, std::span<const int32_t> tokens, int32_t index) {
    each_slot(block, tokens, index, [](Slot& there, const Slot& right) { there = right; });
  }
  bool holds(int32_t block, std::span<const int32_t> tokens, int32_t index) {
    bool same = true;
    each_slot(block, tokens, index, [&](const Slot& there, const Slot& right) {
      same = same && there.token == right.token && there.hash == right.hash;
    });
    return same;
  }
  // What a writer leaves behind that is not done yet.
  void spoil_block(int32_t block) {
    for (int32_t layer = 0; layer < kFakeLayers; ++layer)
      for (int32_t i = 0; i < kBlockTokens; ++i) at(layer, block, i) = {-1, 0};
  }

  // For tests with threads: the step after the next `steps` begins, but does not end until go(). It has stored, and told, `layers`.
  void hold(uint64_t steps = 0, int32_t layers = 0) {
    std::lock_guard lock(mutex_);
    hold_at_step_ = steps_ + steps;
    hold_at_layers_ = layers;
  }
  void go() {
    std::lock_guard lock(mutex_);
    hold_at_step_.reset();
    changed_.notify_all();
  }
  // Returns when a step is inside forward() and held there.
  void wait_until_held() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return is_held(); }))
      throw std::runtime_error("no step came to be held");
  }
  // Before anybody asks for info(): its blocks mean something else.
  void set_fingerprint(const std::string& name) { info_.kv_fingerprint = name; }
  // From now on the logits of every sequence that begins with this token are not numbers.
  void spoil_prompts_with(int32_t token) { spoilt_prompt_ = token; }
  // The next step throws, or the one that is held.
  void fail_next() {
    std::lock_guard lock(mutex_);
    fails_ = true;
  }

 private:
  static void require(bool kept, const char* what) {
    if (!kept) throw std::logic_error(std::string("the runner was promised ") + what);
  }
  struct Slot {
    int32_t token;
    uint64_t hash;  // of this token and all before it
  };
  Slot& at(int32_t layer, int32_t block, int32_t offset) {
    return cache_[static_cast<size_t>((layer * info_.blocks_total + block) * kBlockTokens + offset)];
  }
  Slot& slot(const StepSequence& sequence, int32_t position, int32_t layer = 0) {
    return at(layer, sequence.block_table[static_cast<size_t>(position / kBlockTokens)], position % kBlockTokens);
  }
  // Of the token with this hash.
  static uint64_t in_layer(uint64_t hash, int32_t layer) { return hash + static_cast<uint64_t>(layer); }
  void store(const StepBatch& batch, int32_t layer) {
    for (const StepSequence& sequence : batch.sequences) {
      for (int32_t i = 0; i < sequence.rows; ++i) {
        const auto row = static_cast<size_t>(sequence.first_row + i);
        slot(sequence, sequence.kv_tokens - sequence.rows + i, layer) = {batch.token_ids[row], in_layer(hashes_[row], layer)};
      }
    }
  }
  template <typename Visit>
  void each_slot(int32_t block, std::span<const int32_t> tokens, int32_t index, Visit visit) {
    uint64_t hash = 1;
    // The last block may have fewer.
    const auto end = std::min((index + 1) * kBlockTokens, static_cast<int32_t>(tokens.size()));
    for (int32_t position = 0; position < end; ++position) {
      const int32_t token = tokens[static_cast<size_t>(position)];
      hash = mix(hash, token);
      if (position < index * kBlockTokens) continue;
      for (int32_t layer = 0; layer < kFakeLayers; ++layer)
        visit(at(layer, block, position % kBlockTokens), Slot{token, in_layer(hash, layer)});
    }
  }
  // Blocks may be read by several sequences of a step; one that is written to belongs to its writer alone.
  void check_blocks(const StepBatch& batch) const {
    std::vector<int32_t> uses(static_cast<size_t>(info_.blocks_total), 0);
    for (const StepSequence& sequence : batch.sequences) {
      const auto blocks = static_cast<size_t>((sequence.kv_tokens + kBlockTokens - 1) / kBlockTokens);
      require(sequence.block_table.size() == blocks, "a block table of the context's length");
      std::vector<int32_t> table(sequence.block_table.begin(), sequence.block_table.end());
      std::sort(table.begin(), table.end());
      require(std::adjacent_find(table.begin(), table.end()) == table.end(), "no block twice in one sequence");
      for (const int32_t block : table) {
        require(block >= 0 && static_cast<size_t>(block) < uses.size(), "block ids within the pool");
        ++uses[static_cast<size_t>(block)];
      }
    }
    for (const StepSequence& sequence : batch.sequences) {
      const auto first = static_cast<size_t>((sequence.kv_tokens - sequence.rows) / kBlockTokens);
      for (const int32_t block : sequence.block_table.subspan(first))
        require(uses[static_cast<size_t>(block)] == 1, "that nobody else uses a block in the step that writes to it");
    }
  }
  // The hash of the tokens before this step's rows, once every slot is seen to hold what they would leave there.
  uint64_t check_context(const StepSequence& sequence) {
    uint64_t hash = 1;
    for (int32_t position = 0; position < sequence.kv_tokens - sequence.rows; ++position) {
      hash = mix(hash, slot(sequence, position).token);
      for (int32_t layer = 0; layer < kFakeLayers; ++layer)
        require(slot(sequence, position, layer).hash == in_layer(hash, layer),
                "blocks that hold what the sequence's own tokens leave there");
    }
    return hash;
  }
  void pool(const StepSequence& sequence, uint64_t hash, bool last) {
    if (sequence.pooling == Pooling::none) return;
    require(sequence.pooled.size() == kFakeEmbeddingDims, "room for what is pooled");
    if (sequence.pooling == Pooling::last && !last) return;
    for (size_t dim = 0; dim < sequence.pooled.size(); ++dim) {
      if (sequence.pooling == Pooling::last) sequence.pooled[dim] = 0.0f;
      sequence.pooled[dim] += spoilt_prompt_.has_value() && slot(sequence, 0).token == *spoilt_prompt_
                                  ? std::numeric_limits<float>::quiet_NaN()
                                  : fake_state(hash, dim);
    }
  }
  void write_logits(const StepSequence& sequence, uint64_t hash, std::span<float> logits, size_t index) {
    const auto vocab = static_cast<size_t>(info_.vocab_size);
    const std::span<float> row = logits.subspan(index * vocab, vocab);
    if (spoilt_prompt_.has_value() && slot(sequence, 0).token == *spoilt_prompt_) {
      for (float& logit : row) logit = std::numeric_limits<float>::quiet_NaN();
      return;
    }
    for (float& logit : row) logit = 0.0f;
    row[(hash >> 20) % vocab] = 10.0f;
  }
  // In a step that has stored so many layers.
  void wait_while_held(int32_t layers) {
    std::unique_lock lock(mutex_);
    layers_stored_ = layers;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !is_held(); });
    layers_stored_.reset();
    if (fails_) {
      fails_ = false;
      throw std::runtime_error("the fake model was told to fail");
    }
  }

  bool is_held() const {
    return layers_stored_.has_value() && hold_at_step_.has_value() && steps_ >= *hold_at_step_ && *layers_stored_ >= hold_at_layers_;
  }

  RunnerInfo info_{};
  int32_t step_tokens_max_;
  std::vector<Slot> cache_;       // [layers][blocks_total][kBlockTokens] what was written there
  std::vector<uint64_t> hashes_;  // [rows] of the step
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<uint64_t> hold_at_step_;
  int32_t hold_at_layers_ = 0;
  std::optional<int32_t> layers_stored_;  // by a step that may be held where it is
  std::optional<int32_t> spoilt_prompt_;
  bool fails_ = false;
  uint64_t steps_ = 0;
};

}  // namespace penstock
