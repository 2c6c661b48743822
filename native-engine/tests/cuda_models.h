// Runners on the device and on the processor for the same file, models of every weight format, and how far apart they may be.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "model/cuda/load.h"
#include "model/load.h"
#include "model_fixtures.h"
#include "run_sequences.h"

namespace penstock::testing {

// Small enough for the emulator, with contexts of several segments and heads that share keys.
inline constexpr ModelShape kSmallShape{
    .dim = 64, .ffn_dim = 96, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 32, .vocab = 70, .context = 900};

inline LoadOptions device_options(const std::string& path) {
  LoadOptions options;
  options.path = path;
  options.threads = 1;
  options.blocks_total = 64;
  options.step_tokens_max = 64;
  options.step_sequences_max = 4;
  options.device = {.kind = DeviceKind::cuda};
  options.cuda = load_cuda_model;
  return options;
}

inline std::unique_ptr<Runner> on_processor(LoadOptions options) {
  options.device = {};
  if (options.kv_type == KvType::bf16) options.kv_type = KvType::f16;
  return load_model(options);
}

inline std::vector<int32_t> some_ids(size_t count, uint32_t seed, uint32_t vocab = kSmallShape.vocab) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocab);
  return ids;
}

// Logits behind the tokens: chunks of at most `chunk`, the last `singly` one by one.
inline std::vector<float> logits_behind(Runner& runner, const std::vector<int32_t>& tokens, int32_t chunk,
                                        int32_t singly = 0) {
  TestBlocks pool(runner.info().blocks_total, static_cast<uint32_t>(chunk));
  std::vector<TestSequence> one(1);
  one[0].tokens.assign(tokens.begin(), tokens.end() - singly);
  catch_up(runner, pool, one, 0, chunk);
  one[0].tokens = tokens;
  catch_up(runner, pool, one, 0, 1);
  return one[0].logits;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !a.empty() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Normalised mean squared error.
inline double error_of(std::span<const float> values, std::span<const float> exact) {
  double error = 0, magnitude = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(double{values[i]} - double{exact[i]}, 2);
    magnitude += std::pow(double{exact[i]}, 2);
  }
  return error / magnitude;
}

// Random blocks of any format whose scales keep values near +-`scale`.
inline std::vector<uint8_t> random_blocks(TensorType type, size_t values, float scale, std::mt19937& random) {
  const TensorTypeFacts facts = tensor_type_facts(type);
  if (!is_quantized(type)) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<uint8_t> out;
    for (size_t i = 0; i < values; ++i) {
      const float value = normal(random);
      if (type == TensorType::f16) {
        put_half(out, value);
        continue;
      }
      uint8_t bytes[4];
      std::memcpy(bytes, &value, sizeof bytes);
      out.insert(out.end(), bytes + (type == TensorType::bf16 ? 2 : 0), bytes + 4);
    }
    return out;
  }
  std::vector<uint8_t> out(values / static_cast<size_t>(facts.block_values) * static_cast<size_t>(facts.block_bytes));
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random());
  const bool k_format = facts.block_values == kSuperBlock;
  // The largest integer that a scale is multiplied with.
  const float largest = type == TensorType::q8_0 ? 127 : type == TensorType::q6_k ? 32 * 127 : k_format ? 31 * 63 : 16;
  for (size_t at = 0; at < out.size(); at += static_cast<size_t>(facts.block_bytes)) {
    const auto put = [&](size_t offset, float value) {
      std::vector<uint8_t> half;
      put_half(half, value);
      std::copy(half.begin(), half.end(), out.begin() + static_cast<int64_t>(at + offset));
    };
    put(type == TensorType::q6_k ? 208 : 0, 2 * scale / largest);
    if (type == TensorType::q4_1 || type == TensorType::q5_1) put(2, -scale);
    if (type == TensorType::q4_k || type == TensorType::q5_k) put(2, scale / 63);
  }
  return out;
}

// One layer in `type`, which may need rows of 256; embedding and head in `embedding`.
inline std::vector<uint8_t> format_model(TensorType type, TensorType embedding, bool tied, uint32_t seed) {
  constexpr ModelShape s{
      .dim = 256, .ffn_dim = 256, .layers = 1, .heads = 4, .kv_heads = 2, .head_dim = 64, .vocab = 70, .context = 64};
  std::mt19937 random(seed);
  GgufWriter out;
  write_metadata(out, s);
  const auto matrix = [&](const std::string& name, TensorType t, uint64_t cols, uint64_t rows) {
    out.tensor(name, static_cast<uint32_t>(t), {cols, rows}, random_blocks(t, cols * rows, 1.0f / 16, random));
  };
  const auto norm = [&](const std::string& name) { out.tensor_f32(name, {s.dim}, std::vector<float>(s.dim, 1.0f)); };
  matrix("token_embd.weight", embedding, s.dim, s.vocab);
  norm("output_norm.weight");
  if (!tied) matrix("output.weight", embedding, s.dim, s.vocab);
  const uint64_t q = uint64_t{s.heads} * s.head_dim, kv = uint64_t{s.kv_heads} * s.head_dim;
  norm("blk.0.attn_norm.weight");
  matrix("blk.0.attn_q.weight", type, s.dim, q);
  matrix("blk.0.attn_k.weight", type, s.dim, kv);
  matrix("blk.0.attn_v.weight", type, s.dim, kv);
  matrix("blk.0.attn_output.weight", type, q, s.dim);
  norm("blk.0.ffn_norm.weight");
  matrix("blk.0.ffn_gate.weight", type, s.dim, s.ffn_dim);
  matrix("blk.0.ffn_up.weight", type, s.dim, s.ffn_dim);
  matrix("blk.0.ffn_down.weight", type, s.ffn_dim, s.dim);
  return out.build();
}

}  // namespace penstock::testing
