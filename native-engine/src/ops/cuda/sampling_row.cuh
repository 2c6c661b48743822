// What the kernels of sampling share: the order of tokens, the scratch of a row, how a warp reads its tile, and the rules by which a
// row's tokens weigh. Owns no kernel; those are sampling_adjust.cu, sampling.cu and sampling_draw.cu.
#pragma once

#include <cfloat>

#include "ops/cuda/elements.cuh"
#include "ops/cuda/ops.h"
#include "ops/token_weights.h"

namespace penstock::cuda::sampling {

using Mass = unsigned long long;
// Where a token stands among all: its key, then its id. Larger places are likelier, of equal logits the lower id; no two are equal.
using Place = unsigned long long;

inline constexpr int kThreads = 256;  // of the passes over whole rows
inline constexpr int kWarps = kThreads / kLanes;
inline constexpr int kVectorTokens = 4;
inline constexpr int kVectors = 2;  // that a lane has of a tile
inline constexpr int kRoundTokens = kLanes * kVectorTokens;
inline constexpr int kTileTokens = kVectors * kRoundTokens;  // read by a warp at once
inline constexpr int kLaneTokens = kVectors * kVectorTokens;
inline constexpr int kBins = 1024;                           // of the distances from the largest logit
inline constexpr int kCandidates = 2048;                     // of a row that can be sorted
inline constexpr Place kFailed = ~Place{0};

// Larger keys for larger logits, whatever their signs. -0 counts as 0.
__device__ inline uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ inline float logit_of(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key);
}
__device__ inline Place place_of(float logit, int32_t token) {
  return Place{key_of(logit)} << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(token));
}
__device__ inline int32_t token_of(Place place) { return static_cast<int32_t>(0xFFFFFFFFu - static_cast<uint32_t>(place)); }
__device__ inline float logit_of(Place place) { return logit_of(static_cast<uint32_t>(place >> 32)); }

__device__ inline float never() { return __uint_as_float(0xFF800000u); }
// NaN and +inf: the computation of the logits failed.
__device__ inline bool has_failed(float logit) { return !(logit <= FLT_MAX); }

inline __host__ __device__ int32_t tiles_of(int32_t vocab_size) { return (vocab_size + kTileTokens - 1) / kTileTokens; }
inline __host__ __device__ bool has_filter(const SampleRow& row, int32_t vocab_size) {
  return (row.top_k > 0 && row.top_k < vocab_size) || row.top_p < 1;
}

// Of one row, each of it written by a kernel before the next reads it.
struct RowScratch {
  Place* best;        // [tiles] the place of a tile's likeliest token; kFailed where a logit is not finite
  Mass* masses;       // [tiles] of what is kept for certain
  Mass* bin_masses;   // [kBins] for top_p
  Place* candidates;  // [kCandidates] in any order
  Mass* wanted;       // by top_p, where top_k leaves it all that has a weight
  float* least;       // [tiles] smallest logit above -inf; +inf where there is none
  uint32_t* bin_counts;  // [kBins] for top_k
  uint32_t* found;       // candidates, more than kCandidates where not all could be put there
  int32_t* take;         // how many of the candidates top_k leaves; negative: all
};
inline __host__ __device__ int64_t scratch_words(int32_t vocab_size) {
  const int64_t tiles = tiles_of(vocab_size);
  return 2 * tiles + kBins + kCandidates + 1 + (tiles + 1) / 2 + kBins / 2 + 1;
}
__device__ inline RowScratch row_scratch(const SampleArgs& args, int64_t row) {
  const int64_t tiles = tiles_of(args.vocab_size);
  Mass* words = args.scratch + row * scratch_words(args.vocab_size);
  RowScratch scratch{};
  scratch.best = words;
  scratch.masses = scratch.best + tiles;
  scratch.bin_masses = scratch.masses + tiles;
  scratch.candidates = scratch.bin_masses + kBins;
  scratch.wanted = scratch.candidates + kCandidates;
  scratch.least = reinterpret_cast<float*>(scratch.wanted + 1);
  scratch.bin_counts = reinterpret_cast<uint32_t*>(scratch.wanted + 1 + (tiles + 1) / 2);
  scratch.found = scratch.bin_counts + kBins;
  scratch.take = reinterpret_cast<int32_t*>(scratch.found + 1);
  return scratch;
}

// The first of a lane's four neighbouring tokens.
__device__ inline int32_t first_token(int32_t tile, int vector, int lane) {
  return tile * kTileTokens + vector * kRoundTokens + lane * kVectorTokens;
}
// The i-th of a lane's tokens.
__device__ inline int32_t lane_token(int32_t tile, int i, int lane) {
  return first_token(tile, i / kVectorTokens, lane) + i % kVectorTokens;
}

// A lane's tokens of a tile; -inf behind the vocabulary.
__device__ inline void load_tile(const float* logits, int32_t vocab_size, int32_t tile, int lane, float (&x)[kLaneTokens]) {
  const bool aligned = reinterpret_cast<uintptr_t>(logits) % sizeof(float4) == 0;
  PENSTOCK_UNROLL
  for (int vector = 0; vector < kVectors; ++vector) {
    const int32_t first = first_token(tile, vector, lane);
    if (aligned && first + kVectorTokens <= vocab_size) {
      const float4 four = *reinterpret_cast<const float4*>(logits + first);
      x[kVectorTokens * vector] = four.x;
      x[kVectorTokens * vector + 1] = four.y;
      x[kVectorTokens * vector + 2] = four.z;
      x[kVectorTokens * vector + 3] = four.w;
    } else {
      PENSTOCK_UNROLL
      for (int i = 0; i < kVectorTokens; ++i)
        x[kVectorTokens * vector + i] = first + i < vocab_size ? logits[first + i] : never();
    }
  }
}

__device__ inline Place warp_max(Place place) {
  const auto high = static_cast<uint32_t>(place >> 32);
  const uint32_t largest = __reduce_max_sync(kAllLanes, high);
  return Place{largest} << 32 | __reduce_max_sync(kAllLanes, high == largest ? static_cast<uint32_t>(place) : 0u);
}
__device__ inline float warp_min(float value) {
  return logit_of(static_cast<uint32_t>(__reduce_min_sync(kAllLanes, key_of(value))));
}
__device__ inline Mass warp_mass(Mass value) {
  PENSTOCK_UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}
// Of this lane and those below it.
__device__ inline Mass warp_scan(Mass value, int lane) {
  PENSTOCK_UNROLL
  for (int step = 1; step < kLanes; step *= 2) {
    const Mass lower = __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(step));
    if (lane >= step) value += lower;
  }
  return value;
}

struct Scanned {
  Mass inclusive;  // of this thread and those below it
  Mass total;
};
// Adds to a number in two halves: shared memory adds 32 bits at once, and 64 only by trying again and again. Exact, since exactly one
// addition sees each carry.
__device__ inline void add_halves(uint32_t* low, uint32_t* high, Mass value) {
  const auto part = static_cast<uint32_t>(value);
  const uint32_t before = atomicAdd(low, part);
  const uint32_t more = static_cast<uint32_t>(value >> 32) + (before + part < before ? 1u : 0u);
  if (more != 0) atomicAdd(high, more);
}

// Over a block of kBlockThreads threads. sums [kBlockThreads / kLanes] is free again when all have passed the next barrier.
template <int kBlockThreads>
__device__ inline Scanned block_scan(Mass value, Mass* sums) {
  constexpr int kBlockWarps = kBlockThreads / kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  Mass inclusive = warp_scan(value, lane);
  __syncthreads();
  if (lane == kLanes - 1) sums[warp] = inclusive;
  __syncthreads();
  const Mass of_warps = warp_scan(lane < kBlockWarps ? sums[lane] : 0, lane);
  const Mass before = __shfl_sync(kAllLanes, of_warps, warp > 0 ? warp - 1 : 0);
  if (warp > 0) inclusive += before;
  return {inclusive, __shfl_sync(kAllLanes, of_warps, kBlockWarps - 1)};
}

// What the tiles' maxima tell of a row.
struct RowFacts {
  Place best;
  float least;  // of what is above -inf
};
// In every thread of the block. best, least [kBlockThreads / kLanes]
template <int kBlockThreads>
__device__ inline RowFacts row_facts(const RowScratch& scratch, int32_t tiles, Place* best, float* least) {
  constexpr int kBlockWarps = kBlockThreads / kLanes;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int warp = thread / kLanes, lane = thread % kLanes;
  Place place = 0;
  float smallest = FLT_MAX;
  for (int32_t tile = thread; tile < tiles; tile += kBlockThreads) {
    place = max(place, scratch.best[tile]);
    smallest = fminf(smallest, scratch.least[tile]);
  }
  place = warp_max(place);
  smallest = warp_min(smallest);
  if (lane == 0) {
    best[warp] = place;
    least[warp] = smallest;
  }
  __syncthreads();
  return {warp_max(lane < kBlockWarps ? best[lane] : 0), warp_min(lane < kBlockWarps ? least[lane] : FLT_MAX)};
}

// Whether a token is drawn at random from a row with these facts; else it has none, or its likeliest is taken.
__device__ inline bool is_random(const RowFacts& facts, const SampleRow& row) {
  return facts.best != kFailed && logit_of(facts.best) != never() && row.temperature != 0;
}

// How the tokens of a row weigh, and the bins into which top-k and top-p sort them first: by distance from the largest logit in the
// logarithm of weights, as wide as it takes to spread what has a weight over all bins. The larger logit never has the higher bin.
struct Rule {
  TokenWeights weight;
  float cut;           // no token below
  float distance_max;  // behind it every weight is 0
  float bins_per_distance;

  __device__ Rule(const RowFacts& facts, const SampleRow& row, int32_t vocab_size)
      : weight{logit_of(facts.best), TokenWeights::inverse(row.temperature), weight_scale(vocab_size)} {
    // As the processor has it: the largest float that is not above the product.
    const double exact = static_cast<double>(weight.largest) + row.log_weight_min * static_cast<double>(row.temperature);
    const double bounded = exact > -static_cast<double>(FLT_MAX) ? exact : -static_cast<double>(FLT_MAX);
    cut = static_cast<float>(bounded);
    if (static_cast<double>(cut) > bounded) cut = logit_of(key_of(cut) - (cut == 0.0f ? 2u : 1u));  // behind 0 is -0
    // A weight of less than 1 / e is rounded to 0.
    distance_max = 0.6931472f * static_cast<float>(static_cast<int32_t>(__float_as_uint(weight.scale) >> 23) - 127) + 1.0f;
    const float spread = fminf(distance_max, fminf(distance(facts.least), distance(cut)));
    bins_per_distance = spread > 0 ? fminf(__fdividef(static_cast<float>(kBins), spread), FLT_MAX) : 0.0f;
  }
  __device__ float distance(float logit) const { return (weight.largest - logit) * weight.inverse_temperature; }
  __device__ bool is_allowed(float logit) const { return logit >= cut; }
  __device__ Mass mass(float logit) const { return static_cast<Mass>(weight(logit)); }
  // kBins where a token is not allowed or weighs nothing.
  __device__ int32_t bin(float logit) const {
    const float away = distance(logit);
    if (!is_allowed(logit) || away > distance_max) return kBins;
    return static_cast<int32_t>(fminf(away * bins_per_distance, static_cast<float>(kBins - 1)));
  }
};

// The smallest whole number that is not below a share of the mass; at least 1.
__device__ inline Mass share_of(float top_p, Mass total) {
  const auto wanted = static_cast<Mass>(ceil(static_cast<double>(top_p) * static_cast<double>(total)));
  return wanted > 0 ? wanted : 1;
}

}  // namespace penstock::cuda::sampling

namespace penstock::cuda {

// Each a launcher of kernels that sample() enqueues one behind the other.
void adjust_logits(cudaStream_t stream, const SampleArgs& args);   // sampling_adjust.cu
void draw_tokens(cudaStream_t stream, const SampleArgs& args);     // sampling_draw.cu

}  // namespace penstock::cuda
