// Passes over a whole vocabulary of logits, in vectors. Owns the arithmetic whose order must not depend on the machine:
// fixed lanes, no contraction, so that every instruction set gives the same bits. What the passes are for is
// sampler.cc.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <span>

namespace penstock {

// Logits per block. The maxima of a vocabulary's blocks are small enough to select from, and tell which blocks hold the
// likeliest tokens; 64 is two cache lines' worth of maxima for 2,048 tokens.
inline constexpr size_t kScanBlock = 64;
inline constexpr size_t scan_blocks(size_t logits) { return (logits + kScanBlock - 1) / kScanBlock; }

// e^x for x <= 0, within 2e-7 of it relative; 0 below -87, where floats end. Cephes' expf: reduction to |r| <= ln 2 /
// 2, a polynomial of degree 6, the power of two put into the exponent.
inline float exp_negative(float x) {
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

// Weight of a token before normalisation: 1 for the likeliest.
inline float token_weight(float logit, float largest, float inverse_temperature) {
  return exp_negative((logit - largest) * inverse_temperature);
}

struct LogitScan {
  float largest;  // -inf where no token is possible
  bool finite;    // no NaN, no +inf; `largest` means nothing otherwise
};

// maxima [scan_blocks(logits.size())] is written.
LogitScan scan_logits(std::span<const float> logits, std::span<float> maxima);

// The sum of the weights of all logits >= cut, block by block into sums [blocks] too. Blocks whose maximum is below the
// cut are skipped.
double sum_weights(std::span<const float> logits, std::span<const float> maxima, float largest,
                   float inverse_temperature, float cut, std::span<float> sums);

}  // namespace penstock
