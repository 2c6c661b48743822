#include "synthetic_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <random>
#include <stdexcept>
#include <vector>

#include "ops/half.h"

namespace penstock::bench {
namespace {

constexpr SyntheticShape kShapes[] = {
    {"8b", 32, 4096, 14336, 32, 8, 128, 128256},
    {"1b", 16, 2048, 8192, 32, 8, 64, 128256},
    {"tiny", 2, 256, 512, 4, 2, 64, 512},
};

constexpr int64_t kAlignment = 32;
// Blocks of noise; they repeat, which no memory notices, and are written in as long as a disk takes.
constexpr int64_t kNoiseBlocks = 1 << 15;
constexpr int32_t kContextTokens = 131072;

// Root mean squares of what the bits stand for, so that a row of such weights keeps the scale of what it multiplies.
constexpr float kInt8Rms = 74.0f;
constexpr float kNibbleRms = 4.6f;
constexpr float kSubScaleMean = 32.0f;

struct Tensor {
  std::string name;
  TensorType type;
  int64_t cols;
  int64_t rows;  // 0: a vector
  int64_t bytes() const { return row_bytes(type, cols) * std::max<int64_t>(rows, 1); }
};

class Bytes {
 public:
  template <typename T>
  Bytes& raw(T value) {
    const auto* bytes = reinterpret_cast<const char*>(&value);
    data_.insert(data_.end(), bytes, bytes + sizeof value);
    return *this;
  }
  Bytes& text(const std::string& value) {
    raw<uint64_t>(value.size());
    data_.insert(data_.end(), value.begin(), value.end());
    return *this;
  }
  Bytes& number(const std::string& key, int32_t value) { return text(key).raw<uint32_t>(4).raw(value); }
  Bytes& real(const std::string& key, float value) { return text(key).raw<uint32_t>(6).raw(value); }
  Bytes& string(const std::string& key, const std::string& value) { return text(key).raw<uint32_t>(8).text(value); }
  void pad() { data_.resize((data_.size() + kAlignment - 1) / kAlignment * kAlignment); }
  const std::vector<char>& data() const { return data_; }

 private:
  std::vector<char> data_;
};

void put_half(char* at, float value) {
  const uint16_t bits = float_to_half(value);
  std::memcpy(at, &bits, sizeof bits);
}

// Whole blocks of `type` for rows of `cols` values.
std::vector<char> noise(TensorType type, int64_t cols) {
  const TensorTypeFacts facts = tensor_type_facts(type);
  const auto block_bytes = static_cast<size_t>(facts.block_bytes);
  std::vector<char> blocks(static_cast<size_t>(kNoiseBlocks) * block_bytes);
  std::mt19937 random(1);
  for (char& byte : blocks) byte = static_cast<char>(random());
  const float unit = 1.0f / std::sqrt(static_cast<float>(cols));
  std::uniform_real_distribution<float> uniform(-1.7f, 1.7f);
  for (size_t at = 0; at < blocks.size(); at += block_bytes) {
    char* block = &blocks[at];
    switch (type) {
      case TensorType::f32: {
        const float value = uniform(random) * unit;
        std::memcpy(block, &value, sizeof value);
        break;
      }
      case TensorType::f16:
        put_half(block, uniform(random) * unit);
        break;
      case TensorType::q8_0:
        put_half(block, unit / kInt8Rms);
        break;
      case TensorType::q4_0:
        put_half(block, unit / kNibbleRms);
        break;
      case TensorType::q4_k:
        put_half(block, unit / kNibbleRms / kSubScaleMean);
        put_half(block + 2, 7.5f * unit / kNibbleRms / kSubScaleMean);
        break;
      default:
        throw std::invalid_argument("no synthetic weights of this type");
    }
  }
  return blocks;
}

std::vector<Tensor> tensors_of(const SyntheticShape& shape, TensorType type) {
  const int64_t dim = shape.dim;
  const int64_t q_dim = int64_t{shape.heads} * shape.head_dim;
  const int64_t kv_dim = int64_t{shape.kv_heads} * shape.head_dim;
  std::vector<Tensor> tensors{{"token_embd.weight", type, dim, shape.vocab_size}};
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    const auto matrix = [&](const char* name, int64_t cols, int64_t rows) {
      tensors.push_back({prefix + name + ".weight", type, cols, rows});
    };
    tensors.push_back({prefix + "attn_norm.weight", TensorType::f32, dim, 0});
    matrix("attn_q", dim, q_dim);
    matrix("attn_k", dim, kv_dim);
    matrix("attn_v", dim, kv_dim);
    matrix("attn_output", q_dim, dim);
    tensors.push_back({prefix + "ffn_norm.weight", TensorType::f32, dim, 0});
    matrix("ffn_gate", dim, shape.ffn_dim);
    matrix("ffn_up", dim, shape.ffn_dim);
    matrix("ffn_down", shape.ffn_dim, dim);
  }
  tensors.push_back({"output_norm.weight", TensorType::f32, dim, 0});
  tensors.push_back({"output.weight", type, dim, shape.vocab_size});
  return tensors;
}

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// All ahead of the tensors' data, and how long that is.
struct Head {
  std::vector<char> bytes;
  int64_t data_bytes;
};

Head head_of(const SyntheticShape& shape, const std::vector<Tensor>& tensors) {
  Bytes head;
  head.raw<uint32_t>(0x46554747).raw<uint32_t>(3).raw<uint64_t>(tensors.size()).raw<uint64_t>(13);
  head.string("general.architecture", "llama").string("general.name", std::string("synthetic-") + shape.name);
  head.number("llama.block_count", shape.layers).number("llama.embedding_length", shape.dim);
  head.number("llama.feed_forward_length", shape.ffn_dim).number("llama.attention.head_count", shape.heads);
  head.number("llama.attention.head_count_kv", shape.kv_heads).number("llama.context_length", kContextTokens);
  head.number("llama.attention.key_length", shape.head_dim).number("llama.attention.value_length", shape.head_dim);
  head.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  // For llama.cpp, which computes the same file in comparisons: that there is no tokenizer, and what it would have said.
  head.string("tokenizer.ggml.model", "none").number("llama.vocab_size", shape.vocab_size);
  int64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    head.text(tensor.name).raw<uint32_t>(tensor.rows == 0 ? 1 : 2).raw<uint64_t>(static_cast<uint64_t>(tensor.cols));
    if (tensor.rows != 0) head.raw<uint64_t>(static_cast<uint64_t>(tensor.rows));
    head.raw(static_cast<uint32_t>(tensor.type)).raw<uint64_t>(static_cast<uint64_t>(offset));
    offset += aligned(tensor.bytes());
  }
  head.pad();
  return {head.data(), offset};
}

}  // namespace

const SyntheticShape& synthetic_shape(std::string_view name) {
  for (const SyntheticShape& shape : kShapes) {
    if (shape.name == name) return shape;
  }
  throw std::invalid_argument("no such shape: " + std::string(name));
}

int64_t write_synthetic_model(const std::string& path, const SyntheticShape& shape, TensorType type) {
  const std::vector<Tensor> tensors = tensors_of(shape, type);
  const Head head = head_of(shape, tensors);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(head.bytes.data(), static_cast<std::streamsize>(head.bytes.size()));
  std::vector<char> blocks;
  int64_t blocks_cols = 0;
  for (const Tensor& tensor : tensors) {
    std::vector<char> ones;
    if (tensor.rows == 0) {
      const std::vector<float> values(static_cast<size_t>(tensor.cols), 1.0f);
      ones.resize(values.size() * sizeof(float));
      std::memcpy(ones.data(), values.data(), ones.size());
    } else if (blocks_cols != tensor.cols) {
      blocks = noise(type, tensor.cols);
      blocks_cols = tensor.cols;
    }
    const std::vector<char>& source = tensor.rows == 0 ? ones : blocks;
    for (int64_t left = tensor.bytes(); left > 0;) {
      const int64_t piece = std::min(left, static_cast<int64_t>(source.size()));
      out.write(source.data(), piece);
      left -= piece;
    }
    const char zeros[kAlignment] = {};
    out.write(zeros, aligned(tensor.bytes()) - tensor.bytes());
  }
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
  return static_cast<int64_t>(head.bytes.size()) + head.data_bytes;
}

bool is_synthetic_model(const std::string& path, const SyntheticShape& shape, TensorType type) {
  const Head head = head_of(shape, tensors_of(shape, type));
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in || static_cast<int64_t>(in.tellg()) != static_cast<int64_t>(head.bytes.size()) + head.data_bytes) return false;
  std::vector<char> found(head.bytes.size());
  in.seekg(0);
  in.read(found.data(), static_cast<std::streamsize>(found.size()));
  return in && found == head.bytes;
}

}  // namespace penstock::bench
