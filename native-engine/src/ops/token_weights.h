// What a token is drawn by, on the processor and on a device: its weight, and the random number. Owns their arithmetic. Both compute
// the same bits, so that where a token is drawn does not matter; -fmad=false and -ffp-contract=off are part of that.
//
// Weights are whole numbers that a vocabulary of them sums to less than 2^53: sums are exact, in doubles and in integers, in any
// order. So what top-p keeps and what a random number means depends on the logits alone.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

namespace penstock {

// e^x for x <= 0, within 2e-7 of it relative; 0 below -87, where floats end. Cephes' expf: reduction to |r| <= ln 2 /
// 2, a polynomial of degree 6, the power of two put into the exponent.
constexpr float exp_negative(float x) {
  constexpr float kMin = -87.0f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float clamped = x > kMin ? x : kMin;
  const float n = (clamped * 1.44269504f + kRound) - kRound;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const float power = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x > kMin ? p * power : 0.0f;
}

// Of the likeliest token: 2^36 or a little more or less for today's vocabularies. What is less likely by more than this is not drawn.
constexpr float weight_scale(int32_t vocab_size) {
  float scale = 0x1p53f;
  for (; vocab_size > 0; vocab_size /= 2) scale *= 0.5f;
  return scale;
}

struct TokenWeights {
  float largest;  // logit
  float inverse_temperature;
  float scale;  // the weight of `largest`, a power of two

  // Finite, so that 0 times it is 0: a tiny temperature leads to the likeliest token and never to a NaN.
  static constexpr float inverse(float temperature) {
    constexpr float kMost = std::numeric_limits<float>::max();
    const float inverse = 1.0f / temperature;
    return inverse < kMost ? inverse : kMost;
  }

  // logit <= largest; 0 for -inf.
  constexpr float operator()(float logit) const {
    constexpr float kWhole = 8388608.0f;  // 2^23: from here on every float is a whole number
    const float weight = exp_negative((logit - largest) * inverse_temperature) * scale;
    return weight < kWhole ? (weight + kWhole) - kWhole : weight;
  }
};

// Philox4x32-10 (Salmon et al., 2011): 128 random bits for a counter and a key, the same on every machine.
constexpr std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t even = uint64_t{0xD2511F53u} * counter[0], odd = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(odd >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(odd),
               static_cast<uint32_t>(even >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(even)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

// In [0, 1), 53 bits. Counter based: no state to carry, so a sequence replayed from its tokens draws the same numbers.
constexpr double uniform_number(uint64_t seed, uint64_t index) {
  const std::array<uint32_t, 4> bits = philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
                                              {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>((uint64_t{bits[0]} << 32 | bits[1]) >> 11) * 0x1p-53;
}

}  // namespace penstock
