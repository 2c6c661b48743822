#include "model/weights.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <unordered_set>

#include "model/family.h"
#include "model/file_error.h"
#include "model/hash.h"
#include "ops/half.h"
#include "ops/quantize_weights.h"

namespace penstock {

namespace {

constexpr int64_t kMatrixAlignBytes = 64;  // a cache line, and two vectors
// What one thread reads, converts and packs at a time: fits a second-level cache, and few of them are in memory.
constexpr int64_t kPieceBytes = 1 << 20;
constexpr int32_t kPieceRowsMax = 256;
// Progress is told after this much: often enough to be seen, rarely enough for long parallel regions.
constexpr int64_t kReportBytes = 64 << 20;

bool is_float(TensorType type) { return !is_quantized(type); }

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// PRECOND: is_float(type).
void to_floats(TensorType type, const std::byte* from, int64_t values, float* out) {
  if (type == TensorType::f32) {
    std::memcpy(out, from, static_cast<size_t>(values) * 4);
    return;
  }
  for (int64_t i = 0; i < values; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);
    out[i] = type == TensorType::bf16 ? std::bit_cast<float>(uint32_t{bits} << 16) : half_to_float(bits);
  }
}

class Loader {
 public:
  Loader(const ModelSource& source, const WeightLayout& layout, ThreadPool& pool, QuantizeTo quantize,
         const std::function<void(int64_t, int64_t)>& progress)
      : source_(source),
        config_(source.config),
        layout_(layout),
        pool_(pool),
        quantize_(quantize),
        progress_(progress) {}

  Weights load() {
    Weights& w = weights_;
    const Config& c = config_;
    w.identity = config_identity(c);
    check_layers();
    w.layers.resize(static_cast<size_t>(c.layers));
    place(w.embedding, TensorRole::embedding, 0, c.vocab_rows, c.dim);
    w.output_norm = vector(TensorRole::output_norm, 0, c.dim);
    if (!source_.tied_embedding) place(w.head, TensorRole::head, 0, c.vocab_rows, c.dim);
    // Order of memory = order of use in a step, so a decode step is one sweep.
    for (int32_t i = 0; i < c.layers; ++i) place_layer(w.layers[static_cast<size_t>(i)], i);
    refuse_unused();
    pack_all();
    if (source_.tied_embedding) w.head = w.embedding;
    // Rows beyond the tokenizer's ids exist in some files; nothing may ever sample them.
    w.head.rows = c.vocab_size;
    return std::move(weights_);
  }

 private:
  // A matrix waiting for its memory.
  struct Pending {
    Matrix* target;              // its type is that of the packed rows
    const SourceTensor* tensor;  // of a known type
    int64_t offset;              // in memory
  };
  // A range of rows of one matrix: the unit of parallel work. Whole steps of the layout, but for the last rows.
  struct Piece {
    const Pending* matrix;
    int32_t first;
    int32_t rows;
  };

  [[noreturn]] static void fail(const SourceTensor& tensor, const std::string& reason) {
    throw ModelFileError(tensor.file->path(), tensor.info_offset_bytes,
                         "tensor \"" + printable(tensor.name) + "\" " + reason);
  }

  // The file's own layers are counted first: a false number must not create a thousand empty ones.
  void check_layers() const {
    const std::string last = source_.name_of(TensorRole::attn_norm, config_.layers - 1);
    if (source_.find(last) == nullptr) {
      throw ModelFileError(
          source_.path, 0,
          "the model states " + std::to_string(config_.layers) + " layers but tensor \"" + last + "\" is missing");
    }
  }

  void place_layer(LayerWeights& layer, int32_t i) {
    const Config& c = config_;
    layer.attn_norm = vector(TensorRole::attn_norm, i, c.dim);
    place(layer.q, TensorRole::q, i, c.q_dim(), c.dim);
    place(layer.k, TensorRole::k, i, c.kv_dim(), c.dim);
    place(layer.v, TensorRole::v, i, c.kv_dim(), c.dim);
    if (c.qkv_bias) {
      layer.q_bias = vector(TensorRole::q_bias, i, c.q_dim());
      layer.k_bias = vector(TensorRole::k_bias, i, c.kv_dim());
      layer.v_bias = vector(TensorRole::v_bias, i, c.kv_dim());
    }
    if (c.qk_norm) {
      layer.q_norm = vector(TensorRole::q_norm, i, c.head_dim);
      layer.k_norm = vector(TensorRole::k_norm, i, c.head_dim);
    }
    place(layer.attn_output, TensorRole::attn_output, i, c.dim, c.q_dim());
    layer.ffn_norm = vector(TensorRole::ffn_norm, i, c.dim);
    place(layer.ffn_gate, TensorRole::ffn_gate, i, c.ffn_dim, c.dim);
    place(layer.ffn_up, TensorRole::ffn_up, i, c.ffn_dim, c.dim);
    place(layer.ffn_down, TensorRole::ffn_down, i, c.dim, c.ffn_dim);
  }

  const SourceTensor& take(TensorRole role, int32_t layer, const std::vector<int64_t>& shape) {
    const std::string name = source_.name_of(role, layer);
    const SourceTensor* tensor = source_.find(name);
    if (tensor == nullptr) throw ModelFileError(source_.path, 0, "tensor \"" + name + "\" is missing");
    // Some writers keep outer dimensions of 1.
    const auto& has = tensor->shape;
    const size_t extra = has.size() > shape.size() ? has.size() - shape.size() : 0;
    if (!std::all_of(has.begin(), has.begin() + static_cast<int64_t>(extra),
                     [](int64_t extent) { return extent == 1; }) ||
        !std::equal(has.begin() + static_cast<int64_t>(extra), has.end(), shape.begin(), shape.end())) {
      fail(*tensor, "has the shape " + shape_text(tensor->shape) + "; the metadata calls for " + shape_text(shape));
    }
    if (!tensor->type) fail(*tensor, "has the type " + tensor->type_name + ", which no weight of this engine has");
    used_.insert(tensor);
    return *tensor;
  }

  std::vector<float> vector(TensorRole role, int32_t layer, int32_t n) {
    const SourceTensor& tensor = take(role, layer, {n});
    if (!is_float(*tensor.type)) fail(tensor, "is not F32, F16 or BF16");
    std::vector<std::byte> raw(tensor.size_bytes);
    tensor.file->read(tensor.offset_bytes, raw);
    std::vector<float> values(static_cast<size_t>(n));
    to_floats(*tensor.type, raw.data(), n, values.data());
    add_identity(*tensor.type, hash_bytes(raw));
    weights_.bytes += n * static_cast<int64_t>(sizeof(float));
    return values;
  }

  void place(Matrix& target, TensorRole role, int32_t layer, int32_t rows, int32_t cols) {
    const SourceTensor& tensor = take(role, layer, {rows, cols});
    const TensorTypeFacts facts = tensor_type_facts(*tensor.type);
    if (cols % facts.block_values != 0) {
      fail(tensor, "has rows of " + std::to_string(cols) + " values, not a multiple of " +
                       std::to_string(facts.block_values) + " as " + facts.name + " needs");
    }
    target = {stored_type(role, *tensor.type, cols, quantize_), rows, cols, nullptr};
    pending_.push_back({&target, &tensor, 0});
  }

  // A tensor that nothing here uses would mean numbers other than the model's.
  void refuse_unused() const {
    for (const SourceTensor& tensor : source_.tensors()) {
      if (used_.contains(&tensor) || source_.is_ignorable(tensor.name)) continue;
      fail(tensor, "is no part of a " + config_.arch + " model of " + std::to_string(config_.layers) + " layers (" +
                       std::string(feature_of_tensor(tensor.name)) + "): this engine would compute other numbers");
    }
  }

  void add_identity(TensorType type, uint64_t hash) {
    weights_.identity = mix_hash(weights_.identity ^ static_cast<uint64_t>(type)) ^ hash;
  }

  void pack_all() {
    int64_t total = 0;
    int64_t file_total = 0;
    for (Pending& item : pending_) {
      const Matrix& m = *item.target;
      item.offset = total;
      const int64_t size = layout_.packed_bytes(m.type, m.rows, m.cols);
      total += (size + kMatrixAlignBytes - 1) / kMatrixAlignBytes * kMatrixAlignBytes;
      file_total += static_cast<int64_t>(item.tensor->size_bytes);
      const int64_t bytes = row_bytes(m.type, m.cols) * m.rows;
      weights_.bytes += bytes;
      // An untied embedding is read one row per token, the head in full.
      if (source_.tied_embedding || item.target != &weights_.embedding) weights_.step_bytes += bytes;
    }
    weights_.memory = PageMemory(total);
    source_.release_files();
    if (progress_) progress_(0, file_total);

    std::vector<Piece> pieces;
    for (const Pending& item : pending_) append_pieces(item, pieces);
    std::vector<uint64_t> hashes(pieces.size());
    int64_t done = 0;
    for (size_t begin = 0; begin < pieces.size();) {
      size_t end = begin;
      int64_t bytes = 0;
      while (end < pieces.size() && bytes < kReportBytes) bytes += piece_bytes(pieces[end++]);
      pool_.run(static_cast<int32_t>(end - begin), [&](int32_t i) {
        const size_t at = begin + static_cast<size_t>(i);
        try {
          hashes[at] = pack_piece(pieces[at]);
        } catch (...) {
          const std::lock_guard lock(failure_mutex_);
          if (!failure_) failure_ = std::current_exception();
        }
      });
      if (failure_) std::rethrow_exception(failure_);
      done += bytes;
      begin = end;
      if (progress_) progress_(done, file_total);
    }
    for (size_t i = 0; i < pieces.size(); ++i) {
      add_identity(*pieces[i].matrix->tensor->type, hashes[i]);
      add_identity(pieces[i].matrix->target->type, 0);
    }
  }

  static int64_t file_row_bytes(const Pending& item) { return row_bytes(*item.tensor->type, item.target->cols); }
  static int64_t piece_bytes(const Piece& piece) { return piece.rows * file_row_bytes(*piece.matrix); }

  void append_pieces(Pending const& item, std::vector<Piece>& pieces) {
    Matrix& m = *item.target;
    m.data = weights_.memory.data() + item.offset;
    const auto fitting = static_cast<int32_t>(std::min<int64_t>(kPieceBytes / file_row_bytes(item), kPieceRowsMax));
    const int32_t step = std::max(fitting / layout_.row_step * layout_.row_step, layout_.row_step);
    for (int32_t first = 0; first < m.rows; first += step) {
      pieces.push_back({&item, first, std::min(step, m.rows - first)});
    }
  }

  // Reads, quantises where asked, packs. Returns the hash of the file's bytes.
  uint64_t pack_piece(const Piece& piece) const {
    const Pending& item = *piece.matrix;
    const Matrix& m = *item.target;
    const TensorType file_type = *item.tensor->type;
    const auto bytes = static_cast<size_t>(piece_bytes(piece));
    const auto raw = std::make_unique_for_overwrite<std::byte[]>(bytes);
    item.tensor->file->read(item.tensor->offset_bytes + static_cast<uint64_t>(piece.first * file_row_bytes(item)),
                            {raw.get(), bytes});
    std::byte* packed = weights_.memory.data() + item.offset + layout_.rows_offset(m.type, piece.first, m.cols);
    if (m.type == file_type) {
      layout_.pack(m.type, piece.rows, m.cols, raw.get(), packed);
    } else {
      const int64_t stride = row_bytes(m.type, m.cols);
      const auto blocks = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(piece.rows * stride));
      const auto row = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(m.cols));
      for (int32_t i = 0; i < piece.rows; ++i) {
        to_floats(file_type, raw.get() + i * file_row_bytes(item), m.cols, row.get());
        quantize_weight_row(m.type, row.get(), m.cols, blocks.get() + i * stride);
      }
      layout_.pack(m.type, piece.rows, m.cols, blocks.get(), packed);
    }
    return hash_bytes({raw.get(), bytes});
  }

  const ModelSource& source_;
  const Config& config_;
  const WeightLayout& layout_;
  ThreadPool& pool_;
  QuantizeTo quantize_;
  const std::function<void(int64_t, int64_t)>& progress_;
  std::vector<Pending> pending_;
  std::unordered_set<const SourceTensor*> used_;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  Weights weights_{};
};

}  // namespace

TensorType stored_type(TensorRole role, TensorType type, int32_t cols, QuantizeTo quantize) {
  if (!quantize || !is_float(type) || cols % kQuantBlock != 0) return type;
  const bool chooses_tokens = role == TensorRole::embedding || role == TensorRole::head;
  return chooses_tokens ? TensorType::q8_0 : *quantize;
}

WeightLayout layout_of(const Kernels& kernels) {
  return {kernels.packed_bytes, kernels.packed_bytes, kernels.pack, kTileRows};
}

Weights load_weights(const ModelSource& source, const WeightLayout& layout, ThreadPool& pool, QuantizeTo quantize,
                     const std::function<void(int64_t, int64_t)>& progress) {
  return Loader(source, layout, pool, quantize, progress).load();
}

}  // namespace penstock
