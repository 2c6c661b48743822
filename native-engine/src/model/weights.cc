#include "model/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace penstock {

namespace {

constexpr int64_t kMatrixAlignBytes = 64;     // a cache line, and two vectors
constexpr int64_t kHashPieceBytes = 1 << 20;  // hashed in parallel, combined in order

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Not cryptographic: it tells apart files that people have, not files made to collide.
uint64_t hash_piece(std::span<const std::byte> bytes) {
  uint64_t lanes[4] = {1, 2, 3, 4};
  size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32) {
    for (size_t lane = 0; lane < 4; ++lane) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + at + 8 * lane, 8);
      lanes[lane] = std::rotl((lanes[lane] ^ word) * 0x9E3779B97F4A7C15u, 29);
    }
  }
  uint64_t hash = bytes.size();
  for (; at < bytes.size(); ++at) hash = mix(hash ^ static_cast<uint64_t>(bytes[at]));
  for (uint64_t lane : lanes) hash = mix(hash ^ lane);
  return hash;
}

uint64_t hash_bytes(std::span<const std::byte> bytes, ThreadPool& pool) {
  const auto pieces = static_cast<int32_t>((bytes.size() + kHashPieceBytes - 1) / kHashPieceBytes);
  std::vector<uint64_t> hashes(static_cast<size_t>(pieces));
  pool.run(pieces, [&](int32_t piece) {
    const auto start = static_cast<size_t>(piece) * kHashPieceBytes;
    hashes[static_cast<size_t>(piece)] =
        hash_piece(bytes.subspan(start, std::min<size_t>(kHashPieceBytes, bytes.size() - start)));
  });
  uint64_t hash = 0;
  for (uint64_t piece : hashes) hash = mix(hash ^ piece) + 1;
  return hash;
}

class Loader {
 public:
  Loader(const GgufFile& file, const Config& config, const Kernels& kernels, ThreadPool& pool,
         const std::function<void(int64_t, int64_t)>& progress)
      : file_(file), config_(config), kernels_(kernels), pool_(pool), progress_(progress) {}

  Weights load() {
    Weights& w = weights_;
    const Config& c = config_;
    w.embedding = matrix("token_embd.weight", c.vocab_rows, c.dim);
    w.output_norm = vector("output_norm.weight", c.dim);
    const bool untied = file_.tensor("output.weight") != nullptr;
    if (untied) w.head = matrix("output.weight", c.vocab_rows, c.dim);
    // The file's own blocks are counted first: a false block_count must not create a thousand empty layers.
    w.layers.resize(static_cast<size_t>(count_layers()));
    for (int32_t i = 0; i < c.layers; ++i) {
      const std::string prefix = "blk." + std::to_string(i) + ".";
      LayerWeights& layer = w.layers[static_cast<size_t>(i)];
      layer.attn_norm = vector(prefix + "attn_norm.weight", c.dim);
      layer.q = matrix(prefix + "attn_q.weight", c.q_dim(), c.dim);
      layer.k = matrix(prefix + "attn_k.weight", c.kv_dim(), c.dim);
      layer.v = matrix(prefix + "attn_v.weight", c.kv_dim(), c.dim);
      if (c.qkv_bias) {
        layer.q_bias = vector(prefix + "attn_q.bias", c.q_dim());
        layer.k_bias = vector(prefix + "attn_k.bias", c.kv_dim());
        layer.v_bias = vector(prefix + "attn_v.bias", c.kv_dim());
      }
      if (c.qk_norm) {
        layer.q_norm = vector(prefix + "attn_q_norm.weight", c.head_dim);
        layer.k_norm = vector(prefix + "attn_k_norm.weight", c.head_dim);
      }
      layer.attn_output = matrix(prefix + "attn_output.weight", c.dim, c.q_dim());
      layer.ffn_norm = vector(prefix + "ffn_norm.weight", c.dim);
      layer.ffn_gate = matrix(prefix + "ffn_gate.weight", c.ffn_dim, c.dim);
      layer.ffn_up = matrix(prefix + "ffn_up.weight", c.ffn_dim, c.dim);
      layer.ffn_down = matrix(prefix + "ffn_down.weight", c.dim, c.ffn_dim);
    }
    pack_all();
    if (!untied) w.head = w.embedding;
    w.head.rows = c.vocab_size;
    return std::move(weights_);
  }

 private:
  // A matrix waiting for its memory: `packed_bytes` at `offset`.
  struct Pending {
    Matrix* target;
    const GgufTensor* tensor;
    int64_t offset;
  };

  [[noreturn]] void fail(const GgufTensor& tensor, const std::string& reason) const {
    throw ModelFileError(file_.path(), tensor.info_offset_bytes,
                         "tensor \"" + std::string(tensor.name) + "\" " + reason);
  }

  int32_t count_layers() const {
    const std::string last = "blk." + std::to_string(config_.layers - 1) + ".attn_norm.weight";
    if (file_.tensor(last) == nullptr) {
      throw ModelFileError(
          file_.path(), 0,
          "block_count is " + std::to_string(config_.layers) + " but tensor \"" + last + "\" is missing");
    }
    const std::string next = "blk." + std::to_string(config_.layers) + ".attn_norm.weight";
    if (const GgufTensor* extra = file_.tensor(next)) fail(*extra, "lies beyond block_count");
    return config_.layers;
  }

  const GgufTensor& find(const std::string& name, int64_t inner, int64_t outer) const {
    const GgufTensor* tensor = file_.tensor(name);
    if (tensor == nullptr) throw ModelFileError(file_.path(), 0, "tensor \"" + name + "\" is missing");
    if (tensor->extent[0] != inner || tensor->extent[1] != outer || tensor->extent[2] != 1 || tensor->extent[3] != 1) {
      fail(*tensor, "has the shape [" + std::to_string(tensor->extent[0]) + ", " + std::to_string(tensor->extent[1]) +
                        ", " + std::to_string(tensor->extent[2]) + ", " + std::to_string(tensor->extent[3]) +
                        "]; the metadata calls for [" + std::to_string(inner) + ", " + std::to_string(outer) + "]");
    }
    return *tensor;
  }

  std::vector<float> vector(const std::string& name, int32_t n) const {
    const GgufTensor& tensor = find(name, n, 1);
    if (tensor.type != TensorType::f32) fail(tensor, "is not F32");
    std::vector<float> values(static_cast<size_t>(n));
    std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
    return values;
  }

  Matrix matrix(const std::string& name, int32_t rows, int32_t cols) {
    const GgufTensor& tensor = find(name, cols, rows);
    return {tensor.type, rows, cols, tensor.data.data()};
  }

  std::vector<Pending> collect() {
    std::vector<Pending> pending;
    const auto add = [&](Matrix& matrix, const std::string& name) {
      if (matrix.data != nullptr) pending.push_back({&matrix, file_.tensor(name), 0});
    };
    add(weights_.embedding, "token_embd.weight");
    if (weights_.head.data != nullptr) add(weights_.head, "output.weight");
    for (size_t i = 0; i < weights_.layers.size(); ++i) {
      LayerWeights& layer = weights_.layers[i];
      const std::string prefix = "blk." + std::to_string(i) + ".";
      add(layer.q, prefix + "attn_q.weight");
      add(layer.k, prefix + "attn_k.weight");
      add(layer.v, prefix + "attn_v.weight");
      add(layer.attn_output, prefix + "attn_output.weight");
      add(layer.ffn_gate, prefix + "ffn_gate.weight");
      add(layer.ffn_up, prefix + "ffn_up.weight");
      add(layer.ffn_down, prefix + "ffn_down.weight");
    }
    return pending;
  }

  // Order of memory = order of use in a step, so a decode step is one sweep.
  void pack_all() {
    std::vector<Pending> pending = collect();
    int64_t total = 0;
    int64_t file_total = 0;
    for (Pending& item : pending) {
      item.offset = total;
      const int64_t size = kernels_.packed_bytes(item.target->type, item.target->rows, item.target->cols);
      total += (size + kMatrixAlignBytes - 1) / kMatrixAlignBytes * kMatrixAlignBytes;
      file_total += static_cast<int64_t>(item.tensor->data.size());
    }
    weights_.step_bytes = file_total;
    // An untied embedding is read one row per token, the head in full.
    if (weights_.head.data != nullptr) {
      weights_.step_bytes -= row_bytes(weights_.embedding.type, config_.dim) * config_.vocab_rows;
    }
    for (const GgufTensor& tensor : file_.tensors()) {
      weights_.bytes += static_cast<int64_t>(tensor.data.size());
      weights_.identity = mix(weights_.identity ^ static_cast<uint64_t>(tensor.type)) ^ hash_bytes(tensor.data, pool_);
    }
    weights_.memory = PageMemory(total);
    int64_t done = 0;
    if (progress_) progress_(0, file_total);
    for (const Pending& item : pending) {
      pack_one(item);
      done += static_cast<int64_t>(item.tensor->data.size());
      if (progress_) progress_(done, file_total);
    }
  }

  // Tiles are independent, so ranges of them are packed in parallel.
  void pack_one(const Pending& item) {
    Matrix& m = *item.target;
    std::byte* packed = weights_.memory.data() + item.offset;
    const int64_t file_stride = row_bytes(m.type, m.cols);
    constexpr int32_t kRowsPerChunk = 256;
    static_assert(kRowsPerChunk % kTileRows == 0);
    pool_.run((m.rows + kRowsPerChunk - 1) / kRowsPerChunk, [&](int32_t chunk) {
      const int32_t first = chunk * kRowsPerChunk;
      const int32_t rows = std::min(kRowsPerChunk, m.rows - first);
      kernels_.pack(m.type, rows, m.cols, item.tensor->data.data() + first * file_stride,
                    packed + kernels_.packed_bytes(m.type, first, m.cols));
    });
    m.data = packed;
  }

  const GgufFile& file_;
  const Config& config_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  const std::function<void(int64_t, int64_t)>& progress_;
  Weights weights_{};
};

}  // namespace

Weights load_weights(const GgufFile& file, const Config& config, const Kernels& kernels, ThreadPool& pool,
                     const std::function<void(int64_t, int64_t)>& progress) {
  return Loader(file, config, kernels, pool, progress).load();
}

}  // namespace penstock
