// Models for tests: stories260K as GGUF, and small random ones of any weight format.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gguf_writer.h"
#include "ops/half.h"
#include "ops/tensor_type.h"
#include "test_files.h"

namespace penstock::testing {

struct ModelShape {
  uint32_t dim, ffn_dim, layers, heads, kv_heads, head_dim, vocab, context;
};

inline void write_metadata(GgufWriter& out, const ModelShape& s) {
  out.string("general.architecture", "llama").string("general.name", "test model");
  out.u32("llama.context_length", s.context).u32("llama.embedding_length", s.dim).u32("llama.block_count", s.layers);
  out.u32("llama.feed_forward_length", s.ffn_dim).u32("llama.attention.head_count", s.heads);
  out.u32("llama.attention.head_count_kv", s.kv_heads).u32("llama.attention.key_length", s.head_dim);
  out.u32("llama.attention.value_length", s.head_dim);
  out.u32("llama.rope.dimension_count", s.head_dim).f32("llama.rope.freq_base", 10000.0f);
  out.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

// A llama2.c v0 file -> GGUF, F32.
inline std::vector<uint8_t> gguf_from_llama2c(const std::vector<uint8_t>& file) {
  int32_t header[7];
  std::memcpy(header, file.data(), sizeof header);
  const auto [dim, ffn, layers, heads, kv_heads, vocab, seq] = header;
  const bool untied = vocab < 0;
  const ModelShape shape{uint32_t(dim),      uint32_t(ffn),         uint32_t(layers),          uint32_t(heads),
                         uint32_t(kv_heads), uint32_t(dim / heads), uint32_t(std::abs(vocab)), uint32_t(seq)};
  GgufWriter out;
  write_metadata(out, shape);

  std::vector<float> values((file.size() - sizeof header) / 4);
  std::memcpy(values.data(), file.data() + sizeof header, values.size() * 4);
  std::span<const float> rest(values);
  const auto take = [&](size_t count) {
    const auto taken = rest.subspan(0, count);
    rest = rest.subspan(count);
    return taken;
  };
  const uint64_t d = shape.dim, f = shape.ffn_dim, kv = d * shape.kv_heads / shape.heads, v = shape.vocab;
  const auto per_layer = [&](const std::string& name, std::vector<uint64_t> extent) {
    const size_t count = extent.size() == 1 ? extent[0] : extent[0] * extent[1];
    for (uint32_t i = 0; i < shape.layers; ++i)
      out.tensor_f32("blk." + std::to_string(i) + "." + name, extent, take(count));
  };
  out.tensor_f32("token_embd.weight", {d, v}, take(v * d));
  per_layer("attn_norm.weight", {d});
  per_layer("attn_q.weight", {d, d});
  per_layer("attn_k.weight", {d, kv});
  per_layer("attn_v.weight", {d, kv});
  per_layer("attn_output.weight", {d, d});
  per_layer("ffn_norm.weight", {d});
  per_layer("ffn_gate.weight", {d, f});
  per_layer("ffn_down.weight", {f, d});
  per_layer("ffn_up.weight", {d, f});
  out.tensor_f32("output_norm.weight", {d}, take(d));
  if (untied) {
    take(size_t(seq) * shape.head_dim);
    out.tensor_f32("output.weight", {d, v}, take(v * d));
  }
  return out.build();
}

inline std::vector<uint8_t> stories_gguf() { return gguf_from_llama2c(read_file(fixture("stories260K.bin"))); }

inline void put_half(std::vector<uint8_t>& out, float value) {
  const uint16_t half = float_to_half(value);
  out.push_back(static_cast<uint8_t>(half & 255));
  out.push_back(static_cast<uint8_t>(half >> 8));
}

// Rows of random weights in a format's bytes; quantised ones use every value of their range.
inline std::vector<uint8_t> random_weights(TensorType type, size_t values, float scale, std::mt19937& random) {
  std::vector<uint8_t> out;
  std::normal_distribution<float> normal(0.0f, scale);
  std::uniform_int_distribution<int> byte(0, 255);
  if (type == TensorType::f32 || type == TensorType::f16) {
    for (size_t i = 0; i < values; ++i) {
      const float value = normal(random);
      if (type == TensorType::f16) {
        put_half(out, value);
      } else {
        out.resize(out.size() + 4);
        std::memcpy(out.data() + out.size() - 4, &value, 4);
      }
    }
    return out;
  }
  for (size_t block = 0; block < values / kQuantBlock; ++block) {
    const float step = type == TensorType::q8_0 ? scale / 64.0f : scale / 4.0f;
    put_half(out, step * (0.5f + static_cast<float>(byte(random)) / 255.0f));
    if (type == TensorType::q4_1) put_half(out, -8.0f * step);
    const int bytes = type == TensorType::q8_0 ? 32 : 16;
    for (int i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(byte(random)));
  }
  return out;
}

// Matrices in `type`, embedding and head in `embedding_type`.
inline std::vector<uint8_t> random_model(const ModelShape& s, TensorType type, TensorType embedding_type, bool tied,
                                         uint32_t seed) {
  std::mt19937 random(seed);
  GgufWriter out;
  write_metadata(out, s);
  const auto matrix = [&](const std::string& name, TensorType t, uint64_t cols, uint64_t rows) {
    out.tensor(name, static_cast<uint32_t>(t), {cols, rows},
               random_weights(t, cols * rows, 1.0f / std::sqrt(float(cols)), random));
  };
  const auto norm = [&](const std::string& name) {
    std::vector<float> values(s.dim);
    std::normal_distribution<float> normal(1.0f, 0.1f);
    for (float& value : values) value = normal(random);
    out.tensor_f32(name, {s.dim}, values);
  };
  matrix("token_embd.weight", embedding_type, s.dim, s.vocab);
  norm("output_norm.weight");
  if (!tied) matrix("output.weight", embedding_type, s.dim, s.vocab);
  for (uint32_t i = 0; i < s.layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    norm(prefix + "attn_norm.weight");
    matrix(prefix + "attn_q.weight", type, s.dim, s.heads * s.head_dim);
    matrix(prefix + "attn_k.weight", type, s.dim, s.kv_heads * s.head_dim);
    matrix(prefix + "attn_v.weight", type, s.dim, s.kv_heads * s.head_dim);
    matrix(prefix + "attn_output.weight", type, s.heads * s.head_dim, s.dim);
    norm(prefix + "ffn_norm.weight");
    matrix(prefix + "ffn_gate.weight", type, s.dim, s.ffn_dim);
    matrix(prefix + "ffn_up.weight", type, s.dim, s.ffn_dim);
    matrix(prefix + "ffn_down.weight", type, s.ffn_dim, s.dim);
  }
  return out.build();
}

}  // namespace penstock::testing
