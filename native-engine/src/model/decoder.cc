#include "model/decoder.h"

#include <algorithm>
#include <cmath>

#include "model/kv_fingerprint.h"

namespace penstock {

namespace {

// What a row-wise pass (norm, quantise, activation) costs per value, in the multiply-adds that Parallel counts in.
constexpr int64_t kRowCostPerValue = 8;
// Tiles of a product that stay on one thread: kernels take several neighbouring tiles at once.
constexpr int64_t kTilesPerItem = 4;

int64_t tile_items(const Matrix& matrix) { return (matrix.tiles() + kTilesPerItem - 1) / kTilesPerItem; }

}  // namespace

Decoder::RowBuffer::RowBuffer(int32_t rows_max, int32_t cols_max)
    : f32(static_cast<size_t>(rows_max) * cols_max),
      q(static_cast<size_t>(rows_max) * cols_max),
      d(static_cast<size_t>(rows_max) * (cols_max / kQuantBlock)),
      s(static_cast<size_t>(rows_max) * (cols_max / kQuantBlock)) {}

Decoder::Decoder(Config config, Weights weights, const Kernels& kernels, const KvShape& kv_shape,
                 const DecoderLimits& limits, std::unique_ptr<ThreadPool> pool)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      kernels_(kernels),
      limits_(limits),
      pool_(std::move(pool)),
      parallel_(*pool_),
      cache_(kv_shape),
      attention_(config_, kernels_, pool_->threads(), limits.step_tokens),
      info_{.arch = config_.arch,
            .model_name = config_.model_name,
            .vocab_size = config_.vocab_size,
            .context_tokens = limits.context_tokens,
            .blocks_total = kv_shape.blocks_total,
            .kv_fingerprint = kv_fingerprint(config_, weights_.identity, kv_shape),
            .weight_bytes = weights_.step_bytes,
            .kv_bytes_per_token = kv_shape.bytes_per_token(),
            .embedding_dims = config_.dim,
            .work = step_work(config_, weights_)},
      normed_(std::max(limits.step_tokens, limits.step_sequences), config_.dim),
      inner_(limits.step_tokens, std::max(config_.q_dim(), config_.ffn_dim)) {
  const auto rows = static_cast<size_t>(limits.step_tokens);
  row_sequence_.resize(rows);
  read_ids_.reserve(rows);
  read_positions_.reserve(rows);
  read_sequences_.reserve(static_cast<size_t>(limits.step_sequences));
  cos_sin_.resize(rows * config_.rope_dims);
  x_.resize(rows * config_.dim);
  delta_.resize(rows * config_.dim);
  q_.resize(rows * config_.q_dim());
  k_.resize(rows * config_.kv_dim());
  v_.resize(rows * config_.kv_dim());
  gate_.resize(rows * config_.ffn_dim);
  up_.resize(rows * config_.ffn_dim);
}

void Decoder::forward(const StepBatch& batch, std::span<float> logits) {
  check_batch(batch, logits, {limits_, config_.vocab_size, config_.dim, info_.blocks_total});
  const Config& c = config_;
  StepBatch live = batch;  // whose rows are still computed
  auto rows = static_cast<int32_t>(batch.token_ids.size());
  embed(batch);
  attention_.plan(batch);

  for (int32_t layer = 0; layer < c.layers; ++layer) {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];

    // x += attn_output(attention(norm(x)))
    const bool quantize_attn = is_quantized(w.q.type) || is_quantized(w.k.type) || is_quantized(w.v.type);
    parallel_.for_ranges(rows, c.dim * kRowCostPerValue, [&](int64_t begin, int64_t end, int32_t) {
      for (int64_t row = begin; row < end; ++row) {
        norm_row(x_.data() + row * c.dim, w.attn_norm, quantize_attn, normed_, row);
      }
    });
    multiply({{w.q, q_.data()}, {w.k, k_.data()}, {w.v, v_.data()}}, normed_.view(rows, c.dim));
    finish_qkv(batch, layer);
    // Before the rest of the layer: what is sent has its time too.
    if (batch.watch != nullptr) batch.watch->layers_stored(layer + 1);
    if (layer + 1 == c.layers && rows_read(batch) < rows) {
      live = keep_rows_read(batch);
      rows = static_cast<int32_t>(live.token_ids.size());
      if (rows == 0) return;
      attention_.plan(live);
    }
    attention_.run(cache_, layer, q_.data(), inner_.f32.data(), parallel_);
    if (is_quantized(w.attn_output.type)) {
      parallel_.for_ranges(rows, c.q_dim() * kRowCostPerValue, [&](int64_t begin, int64_t end, int32_t) {
        for (int64_t row = begin; row < end; ++row) quantize_row(inner_, row, c.q_dim());
      });
    }
    multiply({{w.attn_output, delta_.data()}}, inner_.view(rows, c.q_dim()));

    // x += ffn_down(silu(ffn_gate(norm(x))) * ffn_up(norm(x)))
    const bool quantize_ffn = is_quantized(w.ffn_gate.type) || is_quantized(w.ffn_up.type);
    parallel_.for_ranges(rows, c.dim * kRowCostPerValue, [&](int64_t begin, int64_t end, int32_t) {
      for (int64_t row = begin; row < end; ++row) {
        kernels_.add(x_.data() + row * c.dim, delta_.data() + row * c.dim, c.dim);
        norm_row(x_.data() + row * c.dim, w.ffn_norm, quantize_ffn, normed_, row);
      }
    });
    multiply({{w.ffn_gate, gate_.data()}, {w.ffn_up, up_.data()}}, normed_.view(rows, c.dim));
    parallel_.for_ranges(rows, c.ffn_dim * kRowCostPerValue, [&](int64_t begin, int64_t end, int32_t) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t at = row * c.ffn_dim;
        kernels_.swiglu(gate_.data() + at, up_.data() + at, c.ffn_dim, inner_.f32.data() + at);
        if (is_quantized(w.ffn_down.type)) quantize_row(inner_, row, c.ffn_dim);
      }
    });
    multiply({{w.ffn_down, delta_.data()}}, inner_.view(rows, c.ffn_dim));
    parallel_.for_ranges(rows, c.dim, [&](int64_t begin, int64_t end, int32_t) {
      for (int64_t row = begin; row < end; ++row) {
        kernels_.add(x_.data() + row * c.dim, delta_.data() + row * c.dim, c.dim);
      }
    });
  }
  pool(live);
  project(live, logits);
}

// x [rows, dim], row_sequence [rows] and cos_sin [rows, rope_dims] of the batch.
void Decoder::embed(const StepBatch& batch) {
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const StepSequence& s = batch.sequences[i];
    std::fill_n(row_sequence_.begin() + s.first_row, s.rows, static_cast<int32_t>(i));
  }
  const int64_t cost = (config_.dim + config_.rope_dims) * kRowCostPerValue;
  parallel_.for_ranges(static_cast<int64_t>(batch.token_ids.size()), cost, [&](int64_t begin, int64_t end, int32_t) {
    for (int64_t row = begin; row < end; ++row) {
      kernels_.matrix_row(weights_.embedding, batch.token_ids[static_cast<size_t>(row)], x_.data() + row * config_.dim);
      float* turn = cos_sin_.data() + row * config_.rope_dims;
      for (double frequency : config_.rope_frequencies) {
        const double angle = batch.positions[static_cast<size_t>(row)] * frequency;
        *turn++ = static_cast<float>(std::cos(angle)) * config_.rope_magnitude;
        *turn++ = static_cast<float>(std::sin(angle)) * config_.rope_magnitude;
      }
    }
  });
}

// The last layer's k and v of every row belong in the cache, but behind them only the rows that are read matter. Moves
// those of x and q to the front; the batch returned describes them.
StepBatch Decoder::keep_rows_read(const StepBatch& batch) {
  read_ids_.clear();
  read_positions_.clear();
  read_sequences_.clear();
  for (const StepSequence& s : batch.sequences) {
    const int32_t kept = rows_read(s);
    if (kept == 0) continue;
    StepSequence read = s;
    read.first_row = static_cast<int32_t>(read_ids_.size());
    read.rows = kept;
    read_sequences_.push_back(read);
    for (int32_t row = s.first_row + s.rows - kept; row < s.first_row + s.rows; ++row) {
      const auto to = static_cast<int64_t>(read_ids_.size());
      if (to != row) {
        std::copy_n(x_.begin() + int64_t{row} * config_.dim, config_.dim, x_.begin() + to * config_.dim);
        std::copy_n(q_.begin() + int64_t{row} * config_.q_dim(), config_.q_dim(), q_.begin() + to * config_.q_dim());
      }
      read_ids_.push_back(batch.token_ids[static_cast<size_t>(row)]);
      read_positions_.push_back(batch.positions[static_cast<size_t>(row)]);
    }
  }
  return {read_ids_, read_positions_, read_sequences_};
}

// What lies between the products and attention: biases, norms of the heads, rotation, the softmax's scale on q, and the
// cache, which takes k and v.
void Decoder::finish_qkv(const StepBatch& batch, int32_t layer) {
  const Config& c = config_;
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  const int64_t cost = (c.q_dim() + 2 * c.kv_dim()) * kRowCostPerValue;
  parallel_.for_ranges(static_cast<int64_t>(batch.token_ids.size()), cost, [&](int64_t begin, int64_t end, int32_t) {
    for (int64_t row = begin; row < end; ++row) {
      const float* turn = cos_sin_.data() + row * c.rope_dims;
      float* q = q_.data() + row * c.q_dim();
      float* k = k_.data() + row * c.kv_dim();
      float* v = v_.data() + row * c.kv_dim();
      if (c.qkv_bias) {
        kernels_.add(q, w.q_bias.data(), c.q_dim());
        kernels_.add(k, w.k_bias.data(), c.kv_dim());
        kernels_.add(v, w.v_bias.data(), c.kv_dim());
      }
      if (c.qk_norm) {
        norm_heads(q, w.q_norm, c.heads);
        norm_heads(k, w.k_norm, c.kv_heads);
      }
      kernels_.rope(c.rope_pairs, q, turn, c.heads, c.head_dim, c.rope_dims);
      kernels_.rope(c.rope_pairs, k, turn, c.kv_heads, c.head_dim, c.rope_dims);
      for (int32_t i = 0; i < c.q_dim(); ++i) q[i] *= scale;

      const int32_t position = batch.positions[static_cast<size_t>(row)];
      const StepSequence& sequence = batch.sequences[static_cast<size_t>(row_sequence_[static_cast<size_t>(row)])];
      const int32_t block = sequence.block_table[static_cast<size_t>(position / kBlockTokens)];
      for (int32_t head = 0; head < c.kv_heads; ++head) {
        std::byte* tile = cache_.tile(layer, block, head);
        kernels_.store_kv(cache_.shape().type, c.head_dim, position % kBlockTokens, k + head * c.head_dim,
                          v + head * c.head_dim, tile, tile + cache_.v_offset_bytes());
      }
    }
  });
}

// x [heads, head_dim] in place, every head by itself.
void Decoder::norm_heads(float* x, const std::vector<float>& weight, int32_t heads) const {
  for (int32_t head = 0; head < heads; ++head, x += config_.head_dim) {
    kernels_.rms_norm(x, weight.data(), config_.head_dim, config_.norm_eps, x);
  }
}

void Decoder::norm_row(const float* x, const std::vector<float>& weight, bool quantize, RowBuffer& out,
                       int64_t row) const {
  kernels_.rms_norm(x, weight.data(), config_.dim, config_.norm_eps, out.f32.data() + row * config_.dim);
  if (quantize) quantize_row(out, row, config_.dim);
}

void Decoder::quantize_row(RowBuffer& rows, int64_t row, int32_t cols) const {
  const int64_t blocks = cols / kQuantBlock;
  kernels_.quantize(rows.f32.data() + row * cols, cols, rows.q.data() + row * cols, rows.d.data() + row * blocks,
                    rows.s.data() + row * blocks);
}

// Several products of the same rows in one parallel region: their tiles are numbered through.
template <size_t N>
void Decoder::multiply(const Product (&products)[N], const Activations& x) {
  int64_t items = 0;
  for (const Product& product : products) items += tile_items(product.matrix);
  const int64_t macs = kTilesPerItem * kTileRows * x.cols * x.rows;
  parallel_.for_ranges(items, macs, [&](int64_t begin, int64_t end, int32_t) {
    int64_t first = 0;  // number of this product's first item
    for (const Product& product : products) {
      const int64_t count = tile_items(product.matrix);
      const int64_t tiles = product.matrix.tiles();
      const int64_t from = std::clamp(begin - first, int64_t{0}, count) * kTilesPerItem;
      const int64_t to = std::min(std::clamp(end - first, int64_t{0}, count) * kTilesPerItem, tiles);
      if (from < to) {
        kernels_.matmul(product.matrix, x, static_cast<int32_t>(from), static_cast<int32_t>(to), product.out,
                        product.matrix.rows);
      }
      first += count;
    }
  });
}

// Rows are added one by one in order of position, so that the sum does not depend on how the prompt was cut.
void Decoder::pool(const StepBatch& batch) {
  for (const StepSequence& s : batch.sequences) {
    if (s.pooling == Pooling::none) continue;
    const int32_t first = s.pooling == Pooling::mean ? 0 : s.rows - 1;
    for (int32_t i = first; i < s.rows; ++i) {
      norm_row(x_.data() + (int64_t{s.first_row} + i) * config_.dim, weights_.output_norm, false, normed_, 0);
      if (s.pooling == Pooling::last) std::fill(s.pooled.begin(), s.pooled.end(), 0.0f);
      kernels_.add(s.pooled.data(), normed_.f32.data(), config_.dim);
    }
  }
}

// Logits of the last row of every sequence that wants them: the head is the largest matrix, so other rows skip it.
void Decoder::project(const StepBatch& batch, std::span<float> logits) {
  int32_t wanted = 0;
  for (const StepSequence& s : batch.sequences) {
    if (!s.wants_logits) continue;
    const float* x = x_.data() + (int64_t{s.first_row} + s.rows - 1) * config_.dim;
    norm_row(x, weights_.output_norm, is_quantized(weights_.head.type), normed_, wanted);
    ++wanted;
  }
  if (wanted > 0) multiply({{weights_.head, logits.data()}}, normed_.view(wanted, config_.dim));
}

}  // namespace penstock
