// The loops. See logit_scan.h.
#include "model/logit_scan.h"

#include <algorithm>

// One binary for every x86-64, the loader picks: where the C library can, and where no sanitizer runs before it does.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__clang__)
#define PENSTOCK_VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define PENSTOCK_VECTOR_CLONES
#endif

namespace penstock {
namespace {

constexpr size_t kLanes = 16;
static_assert(kScanBlock % kLanes == 0, "a block is whole rounds of lanes");
constexpr float kLowest = -std::numeric_limits<float>::infinity();

// x [kScanBlock]. Independent lanes: a single running maximum would wait for itself at every element.
PENSTOCK_VECTOR_CLONES
void scan_whole_blocks(const float* x, size_t blocks, float* maxima, int32_t* refused) {
  for (size_t block = 0; block < blocks; ++block, x += kScanBlock) {
    float lanes[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] = x[lane];
    for (size_t i = kLanes; i < kScanBlock; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    }
    // Apart from the maximum, which a NaN may hide from.
    int32_t bad[kLanes] = {};
    for (size_t i = 0; i < kScanBlock; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane)
        bad[lane] |= x[i + lane] <= std::numeric_limits<float>::max() ? 0 : 1;
    }
    for (size_t width = kLanes / 2; width > 0; width /= 2) {
      for (size_t lane = 0; lane < width; ++lane) {
        lanes[lane] = lanes[lane + width] > lanes[lane] ? lanes[lane + width] : lanes[lane];
        bad[lane] |= bad[lane + width];
      }
    }
    maxima[block] = lanes[0];
    *refused |= bad[0];
  }
}

// x [kScanBlock] → the sum of its weights.
PENSTOCK_VECTOR_CLONES
double block_weights(const float* x, TokenWeights weight, float cut) {
  double lanes[kLanes] = {};
  for (size_t i = 0; i < kScanBlock; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float one = weight(x[i + lane]);
      lanes[lane] += double{x[i + lane] >= cut ? one : 0.0f};
    }
  }
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

}  // namespace

LogitScan scan_logits(std::span<const float> logits, std::span<float> maxima) {
  const size_t whole = logits.size() / kScanBlock;
  int32_t refused = 0;
  scan_whole_blocks(logits.data(), whole, maxima.data(), &refused);
  if (whole < maxima.size()) {
    float largest = kLowest;
    for (const float logit : logits.subspan(whole * kScanBlock)) {
      refused |= logit <= std::numeric_limits<float>::max() ? 0 : 1;
      largest = std::max(largest, logit);
    }
    maxima[whole] = largest;
  }
  return {*std::max_element(maxima.begin(), maxima.end()), refused == 0};
}

double sum_weights(std::span<const float> logits, std::span<const float> maxima, const TokenWeights& weight, float cut,
                   std::span<double> sums) {
  double total = 0;
  const size_t whole = logits.size() / kScanBlock;
  for (size_t block = 0; block < maxima.size(); ++block) {
    double sum = 0;
    if (maxima[block] >= cut) {
      const float* x = logits.data() + block * kScanBlock;
      if (block < whole) {
        sum = block_weights(x, weight, cut);
      } else {
        float padded[kScanBlock];
        std::fill_n(padded, kScanBlock, kLowest);
        std::copy(x, logits.data() + logits.size(), padded);
        sum = block_weights(padded, weight, cut);
      }
    }
    sums[block] = sum;
    total += sum;
  }
  return total;
}

}  // namespace penstock
