// The last step of sampling: one block per row takes what the passes of sampling.cu left of it, and draws. Owns the exact ends of
// top-k and top-p, and the walk over tokens in order of ids.
//
// Candidates are sorted by a bitonic network in shared memory (Batcher, 1968). A row with more of them than there is room for, which has
// thousands of nearly equal logits at the border, is selected from as a whole by four rounds over the bits of its logits: 0.8 ms on an
// H100 for 128,256 that are all alike.
//
// Latency bound: one block, a few hundred candidates; then one tile of 256 tokens.
#include <stdexcept>

#include "ops/cuda/sampling_row.cuh"

namespace penstock::cuda {

namespace {

using namespace sampling;

constexpr int kDrawThreads = 512;
constexpr int kDrawWarps = kDrawThreads / kLanes;
constexpr int kEach = kCandidates / kDrawThreads;  // candidates of a thread
// Of the selection over a whole row.
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kDigitRounds = 32 / kDigitBits;

// Largest first. places [count], 0 behind what is sorted; count is a power of two.
__device__ inline void sort_places(Place* places, int32_t count) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  bool by_warps = false;  // the step before kept within what a warp has to itself: 64 places
  for (int32_t size = 2; size <= count; size *= 2) {
    for (int32_t stride = size / 2; stride > 0; stride /= 2) {
      const bool within_warps = stride <= kLanes;
      if (within_warps && by_warps) {
        __syncwarp();
      } else {
        __syncthreads();
      }
      by_warps = within_warps;
      for (int32_t pair = thread; pair < count / 2; pair += kDrawThreads) {
        const int32_t low = 2 * pair - (pair & (stride - 1)), high = low + stride;
        const bool descending = (low & size) == 0;
        const Place a = places[low], b = places[high];
        if ((a < b) != descending) continue;
        places[low] = b;
        places[high] = a;
      }
    }
  }
  __syncthreads();
}

// What a row is drawn from: the tokens that the rule allows and that do not stand below `last`.
struct Kept {
  const float* logits;
  int32_t vocab_size;
  Rule rule;
  __device__ bool has(float logit, int32_t token, Place last) const {
    return rule.is_allowed(logit) && place_of(logit, token) >= last;
  }
};

// What gather_kernel knows of where the filters end.
struct Ends {
  int32_t candidates;
  int32_t take;
  Mass wanted;
};

// Places that are sorted together with so many candidates.
__device__ inline int32_t room_of(int32_t count) {
  int32_t room = 2;
  while (room < count) room *= 2;
  return room;
}

// The last place that the filters leave, by way of the candidates, which are places [kCandidates]; their masses, where they are left,
// are added to those of their tiles. sums [kDrawWarps]; found is one. PRECOND: masses [tiles] are of what lies above the candidates.
__device__ inline Place last_of_candidates(const Ends& ends, const SampleRow& row, const Rule& rule, Mass above, Mass* masses,
                                           Place* places, Mass* sums, Place* found) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t count = ends.candidates;
  sort_places(places, room_of(count));
  const int32_t left = ends.take < 0 || ends.take > count ? count : ends.take;
  Mass each[kEach];
  Mass mass = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kEach; ++i) {
    const int32_t at = thread * kEach + i;
    each[i] = at < left ? rule.mass(logit_of(places[at])) : 0;
    mass += each[i];
  }
  const Scanned scanned = block_scan<kDrawThreads>(mass, sums);
  if (row.top_p < 1) {
    const Mass wanted = ends.wanted > 0 ? ends.wanted : share_of(row.top_p, above + scanned.total);
    Mass before = above + scanned.inclusive - mass;
    PENSTOCK_UNROLL
    for (int i = 0; i < kEach; ++i) {
      if (before < wanted && before + each[i] >= wanted) *found = places[thread * kEach + i];
      before += each[i];
    }
  } else if (thread == 0) {
    *found = places[left - 1];
  }
  __syncthreads();
  const Place last = *found;
  PENSTOCK_UNROLL
  for (int i = 0; i < kEach; ++i) {
    const int32_t at = thread * kEach + i;
    if (at < left && each[i] != 0 && places[at] >= last) atomicAdd(&masses[token_of(places[at]) / kTileTokens], each[i]);
  }
  __syncthreads();
  return last;
}

// The place at which the sum of measure(logit) over the kept tokens, likeliest first, reaches `wanted`. digits [kDigits], sums
// [kDrawWarps]; found [2]. PRECOND: it is reached; equal logits measure alike, and more than 0 where it is reached.
// Who comes here has many logits that are alike: a warp whose tokens have one digit adds once.
template <class Measure>
__device__ __forceinline__ Place last_of_row(const Kept& kept, Place from, Mass wanted, const Measure& measure, Mass* digits,
                                          Mass* sums, Place* found) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int lane = thread % kLanes;
  auto* low = reinterpret_cast<uint32_t*>(digits);
  uint32_t* high = low + kDigits;
  uint32_t prefix = 0;
  uint32_t decided = 0;  // mask of the digits in `prefix`
  Mass above = 0;
  for (int round = 0; round < kDigitRounds; ++round) {
    const int shift = 32 - kDigitBits * (round + 1);
    __syncthreads();
    for (int digit = thread; digit < kDigits; digit += kDrawThreads) low[digit] = high[digit] = 0;
    __syncthreads();
    for (int32_t first = thread - lane; first < kept.vocab_size; first += kDrawThreads) {
      const int32_t token = first + lane;
      const float logit = token < kept.vocab_size ? kept.logits[token] : never();
      const uint32_t key = key_of(logit);
      const bool counts = (key & decided) == prefix && kept.has(logit, token, from);
      const unsigned counting = __ballot_sync(kAllLanes, counts);
      if (counting == 0) continue;
      const auto digit = static_cast<int>((key >> shift) % kDigits);
      const int common = __shfl_sync(kAllLanes, digit, __ffs(static_cast<int>(counting)) - 1);
      const Mass amount = counts ? measure(logit) : 0;
      if (__all_sync(kAllLanes, !counts || digit == common)) {
        const Mass together = warp_mass(amount);
        if (lane == 0) add_halves(&low[common], &high[common], together);
      } else if (amount > 0) {
        add_halves(&low[digit], &high[digit], amount);
      }
    }
    __syncthreads();
    if (thread == 0) {
      const auto sum_of = [&](int digit) { return Mass{high[digit]} << 32 | low[digit]; };
      Mass sum = above;
      int digit = kDigits - 1;
      while (digit > 0 && sum + sum_of(digit) < wanted) sum += sum_of(digit--);
      found[0] = static_cast<Place>(digit);
      found[1] = sum;
    }
    __syncthreads();
    prefix |= static_cast<uint32_t>(found[0]) << shift;
    decided |= static_cast<uint32_t>(kDigits - 1) << shift;
    above = found[1];
  }
  // Of the equal ones, the lower ids first.
  const Mass each = measure(logit_of(prefix));
  const Mass ties = (wanted - above + each - 1) / each;
  Mass before = 0;
  for (int32_t first = 0; before < ties && first < kept.vocab_size; first += kDrawThreads) {
    const int32_t token = first + thread;
    const bool equal = token < kept.vocab_size && key_of(kept.logits[token]) == prefix;
    const Scanned scanned = block_scan<kDrawThreads>(equal ? 1 : 0, sums);
    if (equal && before + scanned.inclusive == ties) found[0] = place_of(kept.logits[token], token);
    before += scanned.total;
  }
  __syncthreads();
  return found[0];
}

// Over all kept tokens. sums [kDrawWarps]
template <class Measure>
__device__ inline Mass sum_of_row(const Kept& kept, Place from, const Measure& measure, Mass* sums) {
  Mass sum = 0;
  for (auto token = static_cast<int32_t>(threadIdx.x); token < kept.vocab_size; token += kDrawThreads) {
    const float logit = kept.logits[token];
    if (kept.has(logit, token, from)) sum += measure(logit);
  }
  return block_scan<kDrawThreads>(sum, sums).total;
}

// As last_of_candidates, without them: all of the row is looked at. masses [tiles] are written.
__device__ __forceinline__ Place last_of_all(const Kept& kept, const SampleRow& row, Mass* masses, Mass* digits, Mass* sums,
                                          Place* found) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto one = [](float) -> Mass { return 1; };
  const auto mass_of = [&](float logit) -> Mass { return kept.rule.mass(logit); };
  Place last = 0;
  const auto top_k = static_cast<Mass>(row.top_k);
  if (row.top_k > 0 && sum_of_row(kept, 0, one, sums) > top_k) last = last_of_row(kept, 0, top_k, one, digits, sums, found);
  if (row.top_p < 1) {
    const Mass total = sum_of_row(kept, last, mass_of, sums);
    last = last_of_row(kept, last, share_of(row.top_p, total), mass_of, digits, sums, found);
  }
  const int lane = thread % kLanes;
  for (int32_t tile = thread / kLanes; tile < tiles_of(kept.vocab_size); tile += kDrawWarps) {
    Mass mass = 0;
    for (int i = lane; i < kTileTokens; i += kLanes) {
      const int32_t token = tile * kTileTokens + i;
      if (token < kept.vocab_size && kept.has(kept.logits[token], token, last)) mass += mass_of(kept.logits[token]);
    }
    mass = warp_mass(mass);
    if (lane == 0) masses[tile] = mass;
  }
  __syncthreads();
  return last;
}

// The first kept token whose cumulative mass, in order of ids, exceeds u of the whole. masses [tiles], sums [kDrawWarps]; found [2].
// In the thread that returns it; -1 in all others.
__device__ inline int32_t draw_token(const Kept& kept, Place last, double u, const Mass* masses, Mass* sums, Place* found) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t tiles = tiles_of(kept.vocab_size);
  const int32_t share = (tiles + kDrawThreads - 1) / kDrawThreads;  // neighbouring tiles of a thread
  const int32_t begin = min(tiles, thread * share), end = min(tiles, begin + share);
  Mass mass = 0;
  for (int32_t tile = begin; tile < end; ++tile) mass += masses[tile];
  const Scanned scanned = block_scan<kDrawThreads>(mass, sums);
  // Below the total, whatever the product is rounded to.
  const auto asked = static_cast<Mass>(u * static_cast<double>(scanned.total));
  const Mass target = asked < scanned.total ? asked : scanned.total - 1;
  Mass before = scanned.inclusive - mass;
  if (before <= target && target < scanned.inclusive) {
    int32_t tile = begin;
    while (before + masses[tile] <= target) before += masses[tile++];
    found[0] = static_cast<Place>(tile);
    found[1] = target - before;
  }
  __syncthreads();
  if (thread >= kLanes) return -1;
  const int32_t first = static_cast<int32_t>(found[0]) * kTileTokens + thread * kLaneTokens;
  const Mass rest = found[1];
  Mass each[kLaneTokens];
  mass = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kLaneTokens; ++i) {
    const int32_t token = first + i;
    const float logit = token < kept.vocab_size ? kept.logits[token] : never();
    each[i] = kept.has(logit, token, last) ? kept.rule.mass(logit) : 0;
    mass += each[i];
  }
  Mass sum = warp_scan(mass, thread);
  if (sum <= rest || sum - mass > rest) return -1;
  sum -= mass;
  int32_t token = -1;
  PENSTOCK_UNROLL
  for (int i = 0; i < kLaneTokens; ++i) {
    if (sum <= rest && sum + each[i] > rest) token = first + i;
    sum += each[i];
  }
  return token;
}

// tokens [rows]. Grid (rows); masses of the tiles in dynamic shared memory.
__global__ void __launch_bounds__(kDrawThreads, 1) draw_kernel(SampleArgs args) {
  wait_for_previous();
  PENSTOCK_SHARED(Place, best, [kDrawWarps]);
  PENSTOCK_SHARED(float, least, [kDrawWarps]);
  PENSTOCK_SHARED(Place, places, [kCandidates]);
  PENSTOCK_SHARED(Mass, sums, [kDrawWarps]);
  PENSTOCK_SHARED(Place, found, [2]);
  Mass* masses = dynamic_shared<Mass>();
  const auto row_index = static_cast<int64_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t tiles = tiles_of(args.vocab_size);
  const RowScratch scratch = row_scratch(args, row_index);
  const SampleRow row = args.rows[row_index];
  const bool filtered = has_filter(row, args.vocab_size);
  // All that the row may need is on its way before the first is waited for.
  Mass above = 0;
  Ends ends{};
  if (row.temperature != 0) {
    for (int32_t tile = thread; tile < tiles; tile += kDrawThreads) above += masses[tile] = scratch.masses[tile];
    if (filtered) ends = {static_cast<int32_t>(*scratch.found), *scratch.take, *scratch.wanted};
  }
  const RowFacts facts = row_facts<kDrawThreads>(scratch, tiles, best, least);
  if (!is_random(facts, row)) {
    if (thread != 0) return;
    auto token = token_of(facts.best);
    if (facts.best == kFailed) {
      token = static_cast<int32_t>(SampleFailure::not_finite);
    } else if (logit_of(facts.best) == never()) {
      token = static_cast<int32_t>(SampleFailure::all_excluded);
    }
    args.tokens[row_index] = token;
    return;
  }

  const Kept kept{args.logits + row_index * args.vocab_size, args.vocab_size, Rule(facts, row, args.vocab_size)};
  Place last = 0;
  if (ends.candidates > kCandidates) {
    last = last_of_all(kept, row, masses, places, sums, found);
  } else if (ends.candidates > 0) {
    for (int32_t i = thread; i < room_of(ends.candidates); i += kDrawThreads)
      places[i] = i < ends.candidates ? scratch.candidates[i] : 0;
    above = block_scan<kDrawThreads>(above, sums).total;
    last = last_of_candidates(ends, row, kept.rule, above, masses, places, sums, found);
  }
  const int32_t token = draw_token(kept, last, uniform_number(row.seed, row.index), masses, sums, found);
  if (token >= 0) args.tokens[row_index] = token;
}

}  // namespace

void draw_tokens(cudaStream_t stream, const SampleArgs& args) {
  // With what is static, 48 KB.
  static_assert(kSampleVocabMax == 28 * 1024 / sizeof(Mass) * kTileTokens);
  const size_t shared_bytes = static_cast<size_t>(tiles_of(args.vocab_size)) * sizeof(Mass);
  if (args.vocab_size > kSampleVocabMax) throw std::logic_error("sample: the vocabulary is beyond what one block adds up");
  const LaunchShape shape{dim3(static_cast<unsigned>(args.row_count)), dim3(kDrawThreads), shared_bytes, stream};
  launch_early(args.row_count, draw_kernel, shape, args);
}

}  // namespace penstock::cuda
