#include "model/config.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "model/hash.h"

namespace penstock {

namespace {

// Vectors of 8 run through a head's dimensions without a remainder.
constexpr int32_t kHeadDimMultiple = 8;

}  // namespace

void check_config(const Config& c, const ConfigFail& fail) {
  if (c.heads % c.kv_heads != 0) {
    fail(ConfigField::kv_heads, std::to_string(c.heads) + " attention heads are not a multiple of " +
                                    std::to_string(c.kv_heads) + " key and value heads");
  }
  if (c.head_dim % kHeadDimMultiple != 0 || c.head_dim < kHeadDimMultiple || c.head_dim > kHeadDimMax) {
    fail(ConfigField::head_dim, "heads of " + std::to_string(c.head_dim) + " dimensions; a multiple of 8 up to " +
                                    std::to_string(kHeadDimMax) + " is supported");
  }
  if (int64_t{c.heads} * c.head_dim > kDimMax) {
    fail(ConfigField::heads, "attention heads are wider together than any supported model");
  }
  if (c.rope_dims > c.head_dim || c.rope_dims % 2 != 0 || c.rope_dims < 2) {
    fail(ConfigField::rope_dims,
         std::to_string(c.rope_dims) + " rotating dimensions; they must be even and at most the head's");
  }
  const auto usable = [](double value) { return std::isfinite(value) && value > 0 && value < 1e12; };
  if (!std::all_of(c.rope_frequencies.begin(), c.rope_frequencies.end(), usable) || !usable(c.rope_magnitude)) {
    fail(ConfigField::rope, "the rotary parameters give frequencies that are not positive numbers");
  }
  if (!usable(c.norm_eps)) fail(ConfigField::norm_eps, "the norms' epsilon is not a positive number");
}

uint64_t config_identity(const Config& c) {
  uint64_t hash = 0;
  const auto add = [&](uint64_t word) { hash = mix_hash(hash ^ word) + 1; };
  for (int32_t value : {c.layers, c.dim, c.ffn_dim, c.heads, c.kv_heads, c.head_dim, c.rope_dims, c.window_tokens}) {
    add(static_cast<uint64_t>(value));
  }
  add(static_cast<uint64_t>(c.rope_pairs) << 2 | static_cast<uint64_t>(c.qkv_bias) << 1 |
      static_cast<uint64_t>(c.qk_norm));
  add(std::bit_cast<uint32_t>(c.norm_eps));
  add(std::bit_cast<uint32_t>(c.rope_magnitude));
  for (double frequency : c.rope_frequencies) add(std::bit_cast<uint64_t>(frequency));
  return hash;
}

}  // namespace penstock
