// From logits to tokens on the device: what model/sampler.h does, without sorting the vocabulary. Owns the passes over whole rows;
// the rules they share are sampling_row.cuh, bias and penalties sampling_adjust.cu, the last step sampling_draw.cu.
//
// A row is cut into tiles of 256 tokens, one per warp and turn, and as many blocks work on it as fill the device. Each pass is a kernel,
// so that what all blocks found is known to the next:
//   scan    the mask; each tile's likeliest token and smallest logit                          all that greedy rows need
//   weigh   the mass of each tile; or, for top-k and top-p, counts and masses of 1024 bins      rows drawn at random
//   gather  from these the bins where top-k and top-p end: the mass of what lies above, by      rows with top-k or top-p
//           tile, and the tokens within, the candidates
//   draw    sorts the candidates, a few hundred, finds where both end exactly, and draws        one block per row
// Weights are whole numbers, so that their sums depend on no order; the draw walks the tokens in order of ids. Weights, random numbers
// and order are the processor's (ops/token_weights.h): from the same logits it draws the same token, with whatever filters.
//
// Counting digits or bins instead of sorting: as in radix top-k (Alabi et al., "Fast k-selection algorithms for graphics processing
// units", 2012); why sorting is to be avoided here: FlashInfer's sampling.cuh.
//
// Latency bound at few rows: 2 to 4 kernels that each wait for one read of their part. A row is read 1 to 3 times, from L2; 4 bytes
// per logit each time, and about 10 (scan) to 40 (weigh) operations. On an H100, 128,256 logits, 1 row and 32: greedy 3.1 and 6.7 us,
// temperature alone 9 and 20, top-p 23 and 50, top-k with top-p and min-p 16 and 33.
#include <algorithm>
#include <stdexcept>

#include "ops/cuda/sampling_row.cuh"

namespace penstock::cuda {

namespace {

using namespace sampling;

// Of the passes over rows: a few per multiprocessor of the largest chips. Half and twice as many are slower for 32 rows (measured on an
// H100), and make no difference for one.
constexpr int32_t kBlocksWanted = 512;

// Makes -inf of what the mask hides, in a lane's tokens of a tile and in the row.
__device__ inline void hide(float* logits, int32_t vocab_size, const uint32_t* mask, int32_t tile, int lane, float (&x)[kLaneTokens]) {
  PENSTOCK_UNROLL
  for (int vector = 0; vector < kVectors; ++vector) {
    const int32_t first = first_token(tile, vector, lane);
    if (first >= vocab_size) continue;
    const uint32_t allowed = mask[first / 32] >> (first % 32);
    PENSTOCK_UNROLL
    for (int i = 0; i < kVectorTokens; ++i) {
      if (first + i >= vocab_size || (allowed >> i & 1u) != 0) continue;
      x[kVectorTokens * vector + i] = never();
      logits[first + i] = never();
    }
  }
}

// logits [rows, vocab_size] -> best and least of every tile; empties the bins. Grid (.., rows)
__global__ void __launch_bounds__(kThreads) scan_kernel(SampleArgs args) {
  wait_for_previous();
  const auto row_index = static_cast<int64_t>(blockIdx.y);
  const auto thread = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x);
  const auto threads = static_cast<int32_t>(gridDim.x * kThreads);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const RowScratch scratch = row_scratch(args, row_index);
  float* logits = args.logits + row_index * args.vocab_size;
  const int32_t mask_row = args.rows[row_index].mask;
  const uint32_t* mask = mask_row < 0 ? nullptr : args.masks + mask_row * static_cast<int64_t>((args.vocab_size + 31) / 32);

  for (int32_t tile = thread / kLanes; tile < tiles_of(args.vocab_size); tile += threads / kLanes) {
    float x[kLaneTokens];
    load_tile(logits, args.vocab_size, tile, lane, x);
    bool failed = false;  // before a mask hides it
    PENSTOCK_UNROLL
    for (int i = 0; i < kLaneTokens; ++i) failed = failed || has_failed(x[i]);
    if (mask != nullptr) hide(logits, args.vocab_size, mask, tile, lane, x);
    float largest = never(), least = FLT_MAX;
    int32_t token = first_token(tile, 0, lane);
    PENSTOCK_UNROLL
    for (int i = 0; i < kLaneTokens; ++i) {
      if (x[i] > largest) {
        largest = x[i];
        token = lane_token(tile, i, lane);
      }
      if (x[i] > never()) least = fminf(least, x[i]);
    }
    const Place best = warp_max(failed ? kFailed : place_of(largest, token));
    least = warp_min(least);
    if (lane != 0) continue;
    scratch.best[tile] = best;
    scratch.least[tile] = least;
  }
  if (args.work.filtered == 0) return;
  for (int32_t bin = thread; bin < kBins; bin += threads) {
    scratch.bin_masses[bin] = 0;
    scratch.bin_counts[bin] = 0;
  }
  if (thread == 0) *scratch.found = 0;
}

// masses of every tile; for rows with filters bin_masses and bin_counts. Grid (.., rows)
__global__ void __launch_bounds__(kThreads) weigh_kernel(SampleArgs args) {
  wait_for_previous();
  PENSTOCK_SHARED(Place, best, [kWarps]);
  PENSTOCK_SHARED(float, least, [kWarps]);
  PENSTOCK_SHARED(uint32_t, low, [kBins]);
  PENSTOCK_SHARED(uint32_t, high, [kBins]);
  PENSTOCK_SHARED(uint32_t, counts, [kBins]);
  const auto row_index = static_cast<int64_t>(blockIdx.y);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int lane = thread % kLanes;
  const int32_t vocab_size = args.vocab_size, tiles = tiles_of(vocab_size);
  const RowScratch scratch = row_scratch(args, row_index);
  const SampleRow row = args.rows[row_index];
  const float* logits = args.logits + row_index * vocab_size;
  const auto first_tile = static_cast<int32_t>(blockIdx.x) * kWarps + thread / kLanes;
  const auto step = static_cast<int32_t>(gridDim.x) * kWarps;
  float x[kLaneTokens];
  if (first_tile < tiles) load_tile(logits, vocab_size, first_tile, lane, x);  // on its way while the row's facts are looked at

  const RowFacts facts = row_facts<kThreads>(scratch, tiles, best, least);
  if (!is_random(facts, row)) return;
  const Rule rule(facts, row, vocab_size);
  if (!has_filter(row, vocab_size)) {
    for (int32_t tile = first_tile; tile < tiles; tile += step) {
      if (tile != first_tile) load_tile(logits, vocab_size, tile, lane, x);
      Mass mass = 0;
      PENSTOCK_UNROLL
      for (int i = 0; i < kLaneTokens; ++i) {
        const Mass each = rule.mass(x[i]);  // of all, so that they are computed side by side
        mass += rule.is_allowed(x[i]) ? each : 0;
      }
      mass = warp_mass(mass);
      if (lane == 0) scratch.masses[tile] = mass;
    }
    return;
  }

  const bool by_count = row.top_k > 0 && row.top_k < vocab_size;
  for (int32_t bin = thread; bin < kBins; bin += kThreads) low[bin] = high[bin] = counts[bin] = 0;
  __syncthreads();
  for (int32_t tile = first_tile; tile < tiles; tile += step) {
    if (tile != first_tile) load_tile(logits, vocab_size, tile, lane, x);
    int32_t bins[kLaneTokens];
    bool any = false;
    PENSTOCK_UNROLL
    for (int i = 0; i < kLaneTokens; ++i) {
      bins[i] = rule.bin(x[i]);
      any = any || bins[i] < kBins;
    }
    if (!__any_sync(kAllLanes, any)) continue;
    if (row.top_p < 1) {
      Mass each[kLaneTokens];
      PENSTOCK_UNROLL
      for (int i = 0; i < kLaneTokens; ++i) each[i] = rule.mass(x[i]);
      PENSTOCK_UNROLL
      for (int i = 0; i < kLaneTokens; ++i) {
        if (bins[i] < kBins) add_halves(&low[bins[i]], &high[bins[i]], each[i]);
      }
    }
    if (!by_count) continue;
    PENSTOCK_UNROLL
    for (int i = 0; i < kLaneTokens; ++i) {
      if (bins[i] < kBins) atomicAdd(&counts[bins[i]], 1u);
    }
  }
  __syncthreads();
  for (int32_t bin = thread; bin < kBins; bin += kThreads) {
    const Mass mass = Mass{high[bin]} << 32 | low[bin];
    if (mass != 0) atomicAdd(&scratch.bin_masses[bin], mass);
    if (counts[bin] != 0) atomicAdd(&scratch.bin_counts[bin], counts[bin]);
  }
}

// Where a row's filters end, as far as bins tell: all of the bins before `first` is kept, nothing of those behind `last`.
struct Border {
  int32_t first, last;
  int32_t take;  // of the tokens in between, by top_k; negative: all
  Mass wanted;   // mass of all that is kept, by top_p; 0: it has no end, or top_k's decides
};

// The bin in which the sum over bins, from the first one on, reaches `wanted`, and the sum before it. before, sums: of this
// thread's kPerThread bins and what is ahead of them; `found` [2] is shared. PRECOND: it is reached.
template <int kPerThread>
__device__ inline void find_bin(const Mass (&each)[kPerThread], Mass before, Mass wanted, Mass* found) {
  PENSTOCK_UNROLL
  for (int i = 0; i < kPerThread; ++i) {
    if (before < wanted && before + each[i] >= wanted) {
      found[0] = static_cast<Mass>(static_cast<int32_t>(threadIdx.x) * kPerThread + i);
      found[1] = before;
    }
    before += each[i];
  }
}

// In every thread of the block. sums [kWarps]
__device__ inline Border find_border(const RowScratch& scratch, const SampleRow& row, Mass* sums) {
  constexpr int kPerThread = kBins / kThreads;
  PENSTOCK_SHARED(Mass, found, [6]);  // bin and sum before it: by count, its mass, by mass
  const int32_t own = static_cast<int32_t>(threadIdx.x) * kPerThread;
  Mass counts[kPerThread], masses[kPerThread];
  Mass count = 0, mass = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kPerThread; ++i) {
    count += counts[i] = scratch.bin_counts[own + i];
    mass += masses[i] = scratch.bin_masses[own + i];
  }
  const Scanned by_count = row.top_k > 0 ? block_scan<kThreads>(count, sums) : Scanned{0, 0};
  const Scanned by_mass = row.top_p < 1 ? block_scan<kThreads>(mass, sums) : Scanned{0, 0};
  const auto top_k = static_cast<Mass>(row.top_k);
  // Where less has a weight it keeps all that has one; the counts are 0 where top_k is off.
  const bool by_top_k = by_count.total > top_k;
  if (by_top_k) {
    find_bin(counts, by_count.inclusive - count, top_k, found);
    __syncthreads();
  }
  const int32_t last = by_top_k ? static_cast<int32_t>(found[0]) : kBins - 1;
  if (!(row.top_p < 1)) {
    // Nothing is cut off where neither filter is.
    return by_top_k ? Border{last, last, static_cast<int32_t>(top_k - found[1]), 0} : Border{kBins, last, -1, 0};
  }
  // The mass that top-k leaves is known but for its last bin, so that top-p ends in this one at the earliest.
  Mass least = by_mass.total;
  if (by_top_k) {
    Mass before = by_mass.inclusive - mass;
    PENSTOCK_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      if (own + i == last) found[2] = before;
      before += masses[i];
    }
    __syncthreads();
    least = found[2];
  }
  const Mass wanted = share_of(row.top_p, least);
  find_bin(masses, by_mass.inclusive - mass, wanted, found + 4);
  __syncthreads();
  const auto first = static_cast<int32_t>(found[4]);
  if (!by_top_k) return {first, first, -1, wanted};
  // How many tokens are ahead of the first bin.
  Mass before = by_count.inclusive - count;
  PENSTOCK_UNROLL
  for (int i = 0; i < kPerThread; ++i) {
    if (own + i == first) found[3] = before;
    before += counts[i];
  }
  __syncthreads();
  return {first, last, static_cast<int32_t>(top_k - found[3]), 0};
}

// For rows with filters: masses of every tile, of what is kept for certain; candidates, found, take and wanted. Grid (.., rows)
__global__ void __launch_bounds__(kThreads) gather_kernel(SampleArgs args) {
  wait_for_previous();
  PENSTOCK_SHARED(Place, best, [kWarps]);
  PENSTOCK_SHARED(float, least, [kWarps]);
  PENSTOCK_SHARED(Mass, sums, [kWarps]);
  const auto row_index = static_cast<int64_t>(blockIdx.y);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int lane = thread % kLanes;
  const int32_t vocab_size = args.vocab_size, tiles = tiles_of(vocab_size);
  const RowScratch scratch = row_scratch(args, row_index);
  const SampleRow row = args.rows[row_index];
  if (!has_filter(row, vocab_size)) return;
  const float* logits = args.logits + row_index * vocab_size;
  const auto first_tile = static_cast<int32_t>(blockIdx.x) * kWarps + thread / kLanes;
  const auto step = static_cast<int32_t>(gridDim.x) * kWarps;
  float x[kLaneTokens];
  if (first_tile < tiles) load_tile(logits, vocab_size, first_tile, lane, x);

  const RowFacts facts = row_facts<kThreads>(scratch, tiles, best, least);
  if (!is_random(facts, row)) return;
  const Rule rule(facts, row, vocab_size);
  const Border border = find_border(scratch, row, sums);
  if (blockIdx.x == 0 && thread == 0) {
    *scratch.take = border.take;
    *scratch.wanted = border.wanted;
  }
  for (int32_t tile = first_tile; tile < tiles; tile += step) {
    if (tile != first_tile) load_tile(logits, vocab_size, tile, lane, x);
    uint32_t above = 0, candidates = 0;  // a bit for each of the lane's tokens
    PENSTOCK_UNROLL
    for (int i = 0; i < kLaneTokens; ++i) {
      const int32_t bin = rule.bin(x[i]);
      if (bin < border.first) above |= 1u << i;
      if (bin >= border.first && bin <= border.last) candidates |= 1u << i;
    }
    Mass mass = 0;
    if (__any_sync(kAllLanes, above != 0)) {
      PENSTOCK_UNROLL
      for (int i = 0; i < kLaneTokens; ++i) {
        const Mass each = rule.mass(x[i]);
        mass += (above >> i & 1u) != 0 ? each : 0;
      }
      mass = warp_mass(mass);
    }
    if (lane == 0) scratch.masses[tile] = mass;
    if (!__any_sync(kAllLanes, candidates != 0)) continue;
    const auto own = static_cast<uint32_t>(__popc(candidates));
    const auto inclusive = static_cast<uint32_t>(warp_scan(own, lane));
    uint32_t at = 0;
    if (lane == kLanes - 1) at = atomicAdd(scratch.found, inclusive);
    at = __shfl_sync(kAllLanes, at, kLanes - 1) + inclusive - own;
    PENSTOCK_UNROLL
    for (int i = 0; i < kLaneTokens; ++i) {
      if ((candidates >> i & 1u) == 0) continue;
      if (at < kCandidates) scratch.candidates[at] = place_of(x[i], lane_token(tile, i, lane));
      ++at;
    }
  }
}

}  // namespace

SampleWork sample_work(std::span<const SampleRow> rows, int32_t vocab_size) {
  SampleWork work{};
  for (const SampleRow& row : rows) {
    work.bias_max = std::max(work.bias_max, row.bias_count);
    work.history_max = std::max(work.history_max, row.prompt_tokens + row.output_tokens);
    if (row.temperature == 0) continue;
    work.random = 1;
    if (has_filter(row, vocab_size)) work.filtered = 1;
  }
  return work;
}

int64_t sample_scratch_words(int32_t vocab_size) { return scratch_words(vocab_size); }

void sample(cudaStream_t stream, const SampleArgs& args) {
  if (args.row_count == 0) return;
  adjust_logits(stream, args);
  const int32_t wanted = std::max(1, (kBlocksWanted + args.row_count - 1) / args.row_count);
  const int32_t useful = (tiles_of(args.vocab_size) + kWarps - 1) / kWarps;
  const dim3 grid(static_cast<unsigned>(std::min(wanted, useful)), static_cast<unsigned>(args.row_count));
  const LaunchShape shape{grid, dim3(kThreads), 0, stream};
  launch_early(args.row_count, scan_kernel, shape, args);
  if (args.work.random != 0) launch_early(args.row_count, weigh_kernel, shape, args);
  if (args.work.filtered != 0) launch_early(args.row_count, gather_kernel, shape, args);
  draw_tokens(stream, args);
}

}  // namespace penstock::cuda
