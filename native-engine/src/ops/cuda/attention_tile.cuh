// The arithmetic of attention: sixteen queries of one KV head against the context, a step of positions at a time, on
// the tensor cores. Owns the order of every sum, and with it the bits of a row. Where K and V come from is
// attention_kernel.cuh.
//
// One definition for decode and prefill. A row's bits are the same in both, in any company, because
// - an element of a product is a sum over its own row and column, in the order of the instruction, k ascending;
// - scores are summed over head_dim, weights over the positions of a step, steps over a segment; a state starts afresh
//   at each border of kSegmentTokens positions, and segments are merged front to back by merge_state;
// - a step in which a row sees nothing changes no bit of its state: its weights are 0 and its factor is 2^0;
// - kSplit warps that share sixteen queries divide columns among them, never a sum: a maximum has no order.
// Sums of weights are a product with ones: of the same rounded weights that V is multiplied with.
//
// Learned from FlashAttention-2 (Dao 2023), FlashInfer's prefill.cuh and ggml's fattn-mma-f16: rows of queries x group
// to fill sixteen, scores that stay in registers as the next product's operand, a swizzle instead of padding.
#pragma once

#include "ops/cuda/attention_softmax.cuh"
#include "ops/cuda/elements.cuh"
#include "ops/cuda/kv_tile.cuh"

namespace penstock::cuda {

inline constexpr int kTileQueries = 16;  // the M of the instruction
// Positions between two looks at the maximum. Part of the arithmetic: it follows from the padded head_dim alone. Of a
// wide head K and V of two longer steps would not fit the shared memory of every chip.
inline constexpr int step_tokens(int dim) { return dim <= 128 ? 64 : 32; }

// How far behind itself a position sees, as what first_visible() of ops/ops.h comes to.
__device__ inline uint32_t reach_of(int32_t window_tokens) {
  return window_tokens > 0 ? static_cast<uint32_t>(window_tokens) - 1 : 0x7FFFFFFFu;
}

// Where 16-byte chunks of rows of kChunks lie in shared memory, in bytes: the eight rows that one phase of ldmatrix
// reads at one chunk lie in eight different groups of banks. A chunk is an exclusive or away from its row, so that a
// thread keeps one offset and not one for each chunk; which is why arrays begin at kSwizzleAlignment.
inline constexpr int kSwizzleAlignment = 128;
template <int kChunks>
struct Swizzle {
  static_assert(kChunks % 4 == 0, "rows of 64 bytes or more");
  static constexpr int kGroup = kChunks % 8 == 0 ? 8 : 4;

  __device__ static int row(int row) { return row * kChunks * 16 + (kGroup == 8 ? row & 7 : row >> 1 & 3) * 16; }
  // PRECOND: at is row(), or chunk() of a smaller number whose bits are none of `number`'s. Further rows in multiples of
  // eight are added behind it: one exclusive or then serves them all.
  __device__ static int chunk(int at, int number) {
    return (at ^ (number % kGroup * 16)) + number / kGroup * (kGroup * 16);
  }
};

// kDim: head_dim, padded with zeros. kTiles: tiles of sixteen queries in a thread block, each of kSplit warps.
template <KvType kType, int kDim_, int kTiles_, int kSplit_>
struct AttentionShape {
  using Element = KvOperand<kType>;
  static constexpr KvType kKv = kType;
  static constexpr int kDim = kDim_;
  static constexpr int kTiles = kTiles_;
  static constexpr int kSplit = kSplit_;
  static constexpr int kWarps = kTiles * kSplit;
  static constexpr int kThreads = kWarps * kLanes;
  static constexpr int kQueries = kTiles * kTileQueries;
  static constexpr int kStepTokens = step_tokens(kDim);
  static constexpr int kStepBlocks = kStepTokens / kBlockTokens;
  static constexpr int kStepsPerSegment = kSegmentTokens / kStepTokens;
  static constexpr int kStepDepth = kStepTokens / 16;          // products deep that weights x V are
  static constexpr int kStepColumns = kStepTokens / 8;
  static constexpr int kChunks = kDim / 8;                     // 16-byte chunks of a row of operands
  static constexpr int kScoreColumns = kStepColumns / kSplit;  // of eight positions, per warp
  static constexpr int kValueColumns = kChunks / kSplit;       // of eight dimensions, per warp
  // Where the sums leave room for them, queries are read from shared memory once.
  static constexpr bool kKeepQueries = kDim <= (kSplit == 1 ? 32 : 64);
  // One ldmatrix fetches two columns over sixteen rows of the sum, or where there is an odd one, one column over
  // thirty-two.
  static constexpr int kScoresAtOnce = kScoreColumns % 2 == 0 ? 2 : 1;
  static constexpr int kValuesAtOnce = kValueColumns % 2 == 0 ? 2 : 1;
  // Columns in flight, so that a product does not wait for the one before it.
  static constexpr int kValuesInFlight = kValueColumns % 4 == 0 ? 4 : kValueColumns;
  static_assert(kDim % 32 == 0 && kStepColumns % kSplit == 0 && kChunks % kSplit == 0, "a shape that is known");
  static_assert(kSegmentTokens % kStepTokens == 0 && kStepTokens % kBlockTokens == 0,
                "segments are whole steps of whole blocks");

  // Shared memory: queries, then what attention_kernel.cuh puts there, then what warps of a tile tell each other.
  static constexpr int kQueryBytes = kQueries * kDim * 2;
  static constexpr int kOperandBytes = kStepTokens * kDim * 2;  // K or V of a step
  static constexpr int kRawBytes = static_cast<int>(kStepBlocks * tile_bytes<kType>(kDim));  // as stored
  static constexpr bool kConverts = kType == KvType::q8_0;
  static constexpr int kStageBytes = kConverts ? 2 * kRawBytes : 2 * kOperandBytes;
  static constexpr int kStagesAt = kQueryBytes;
  // Where converted: one K and one V.
  static constexpr int kOperandsAt =
      (kStagesAt + 2 * kStageBytes + kSwizzleAlignment - 1) / kSwizzleAlignment * kSwizzleAlignment;
  static constexpr int kWeightsAt = kOperandsAt + (kConverts ? 2 * kOperandBytes : 0);
  static constexpr int kWeightBytes = (kSplit > 1 ? 2 : 0) * kQueries * kStepTokens;
  static constexpr int kLargestAt = kWeightsAt + kWeightBytes;
  static constexpr int kSharedBytes = kLargestAt + (kSplit > 1 ? kQueries * kSplit * 4 : 0);
  static_assert(kQueryBytes % kSwizzleAlignment == 0 && kOperandBytes % kSwizzleAlignment == 0 &&
                    kWeightsAt % kSwizzleAlignment == 0,
                "swizzled arrays are aligned");
};

// A thread's share of a tile: of the two queries lane / 4 and lane / 4 + 8, as the fragments of products are.
template <class Shape>
class AttentionTile {
 public:
  using Element = typename Shape::Element;

  // `shared`: of the block. tile, part: which of its tiles, and which of the tile's warps.
  __device__ AttentionTile(std::byte* shared, int tile, int part, int lane)
      : shared_(shared), tile_(tile), part_(part), lane_(lane) {
    using Rows = Swizzle<Shape::kChunks>;
    queries_at_ = tile * (kTileQueries * Shape::kDim * 2) + Rows::chunk(Rows::row(lane % 16), lane / 16);
    const int token = part * (Shape::kScoreColumns * 8) + lane % 8;
    keys_at_ = Shape::kScoresAtOnce == 2 ? Rows::chunk(Rows::row(token + lane / 16 * 8), lane / 8 % 2)
                                         : Rows::chunk(Rows::row(token), lane / 8);
    values_at_ = Shape::kOperandBytes +
                 (Shape::kValuesAtOnce == 2 ? Rows::chunk(Rows::row(lane % 16), lane / 16) : Rows::row(lane));
    clear();
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) total_[i] = {minus_infinity(), 0.0f};
    PENSTOCK_UNROLL
    for (int j = 0; j < Shape::kValueColumns; ++j) {
      PENSTOCK_UNROLL
      for (int e = 0; e < 4; ++e) total_values_[j][e] = 0.0f;
    }
  }

  // PRECOND: the queries lie in shared memory.
  __device__ void keep_queries() {
    if constexpr (Shape::kKeepQueries) {
      PENSTOCK_UNROLL
      for (int k = 0; k < Shape::kDim / 16; ++k) load_queries(kept_[k], k);
    }
  }

  // Of the lane's query i; -1: it is none, and sees nothing.
  __device__ void set_position(int i, int32_t position) { position_[i] = position; }

  // What the sixteen queries see of a step whose first token is at `position`. The same for all warps of a tile.
  struct View {
    bool any;  // some of them see a token
    bool all;  // all of them see all tokens
  };
  __device__ View view(int32_t position, uint32_t reach) const {
    bool any = false;
    bool all = true;
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int32_t behind = position_[i] - position;
      const auto farthest = static_cast<int32_t>(min(reach, 0x7FFFFFFFu - Shape::kStepTokens));
      any = any || (behind >= 0 && behind - (Shape::kStepTokens - 1) <= farthest);
      all = all && behind >= Shape::kStepTokens - 1 && behind <= farthest;
    }
    return {__any_sync(kAllLanes, any) != 0, __all_sync(kAllLanes, all) != 0};
  }

  // One step. operands_at: where in shared memory K [kStepTokens][kDim] lies, V behind it, both swizzled. `position`
  // of the first token. A query sees the tokens up to `reach` behind it; masked: some query does not see all of them.
  __device__ void step(int operands_at, int32_t position, uint32_t reach, bool masked) {
    float scores[Shape::kScoreColumns][4];
    multiply_keys(operands_at, scores);
    if (masked) mask(scores, position, reach);
    float base[2];
    raise_maximum(scores, base);
    if constexpr (Shape::kSplit > 1) {
      uint32_t weights[Shape::kStepDepth][4];
      uint32_t packed[Shape::kScoreColumns][2];
      PENSTOCK_UNROLL
      for (int n = 0; n < Shape::kScoreColumns; ++n) weigh(scores[n], base, packed[n]);
      share_weights(packed, weights);
      PENSTOCK_UNROLL
      for (int k = 0; k < Shape::kStepDepth; k += kValuesDepth) multiply_values(operands_at, k, &weights[k]);
    } else {
      // Weights are made when a product needs them: exponentials run beside the tensor cores.
      PENSTOCK_UNROLL
      for (int k = 0; k < Shape::kStepDepth; k += kValuesDepth) {
        uint32_t weights[kValuesDepth][4];
        PENSTOCK_UNROLL
        for (int n = 0; n < 2 * kValuesDepth; ++n) {
          // The C fragment of two columns is the A fragment of sixteen positions.
          uint32_t packed[2];
          weigh(scores[2 * k + n], base, packed);
          weights[n / 2][n % 2 * 2] = packed[0];
          weights[n / 2][n % 2 * 2 + 1] = packed[1];
        }
        multiply_values(operands_at, k, weights);
      }
    }
  }

  // The segment so far becomes part of the total, and a new one starts.
  __device__ void merge_segment() {
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) {
      const MergeFactors factors = merge_state(total_[i], segment_state(i));
      PENSTOCK_UNROLL
      for (int j = 0; j < Shape::kValueColumns; ++j) {
        PENSTOCK_UNROLL
        for (int e = 2 * i; e < 2 * i + 2; ++e) {
          total_values_[j][e] = merge_value(total_values_[j][e], segment_value(j, e), factors);
        }
      }
    }
    clear();
  }

  // The segment's state of the lane's query i to a partial.
  __device__ void store_segment(int i, float* partial, int32_t head_dim) const {
    if (part_ == 0 && lane_ % 4 == 0) {
      const SoftmaxState state = segment_state(i);
      *reinterpret_cast<float2*>(partial) = make_float2(state.largest, state.sum);
    }
    PENSTOCK_UNROLL
    for (int j = 0; j < Shape::kValueColumns; ++j) {
      const int32_t dim = dim_of(j);
      if (dim >= head_dim) continue;
      *reinterpret_cast<float2*>(partial + kStateHeader + dim) =
          make_float2(segment_value(j, 2 * i), segment_value(j, 2 * i + 1));
    }
  }

  // What all merged segments come to, of the lane's query i.
  __device__ void store_total(int i, float* out, int32_t head_dim) const {
    const float inverse_sum = 1.0f / total_[i].sum;
    PENSTOCK_UNROLL
    for (int j = 0; j < Shape::kValueColumns; ++j) {
      const int32_t dim = dim_of(j);
      if (dim >= head_dim) continue;
      *reinterpret_cast<float2*>(out + dim) = make_float2(finish_value(total_values_[j][2 * i], inverse_sum),
                                                          finish_value(total_values_[j][2 * i + 1], inverse_sum));
    }
  }

  __device__ void clear() {
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) running_[i] = minus_infinity();
    PENSTOCK_UNROLL
    for (int e = 0; e < 4; ++e) sums_[e] = 0.0f;
    PENSTOCK_UNROLL
    for (int j = 0; j < Shape::kValueColumns; ++j) {
      PENSTOCK_UNROLL
      for (int e = 0; e < 4; ++e) values_[j][e] = 0.0f;
    }
  }

 private:
  // First of the two dimensions of a value column that the lane holds.
  __device__ int32_t dim_of(int column) const { return (part_ * Shape::kValueColumns + column) * 8 + lane_ % 4 * 2; }

  __device__ SoftmaxState segment_state(int i) const { return {running_[i], sums_[2 * i]}; }
  // -0 becomes 0, as it does in any later step that adds nothing.
  __device__ float segment_value(int column, int e) const { return values_[column][e] + 0.0f; }

  __device__ void load_queries(uint32_t (&a)[4], int k) const {
    ldmatrix_x4(a, shared_ + Swizzle<Shape::kChunks>::chunk(queries_at_, 2 * k));
  }

  // scores [16, 8 * kScoreColumns] = queries x keys, over head_dim in order.
  __device__ void multiply_keys(int operands_at, float (&scores)[Shape::kScoreColumns][4]) const {
    PENSTOCK_UNROLL
    for (int n = 0; n < Shape::kScoreColumns; ++n) {
      PENSTOCK_UNROLL
      for (int e = 0; e < 4; ++e) scores[n][e] = 0.0f;
    }
    constexpr int kDepth = 2 / Shape::kScoresAtOnce;  // products deep that one load reaches
    PENSTOCK_UNROLL
    for (int k = 0; k < Shape::kDim / 16; k += kDepth) {
      uint32_t b[Shape::kScoreColumns / Shape::kScoresAtOnce][4];
      PENSTOCK_UNROLL
      for (int n = 0; n < Shape::kScoreColumns; n += Shape::kScoresAtOnce) {
        const int at = Swizzle<Shape::kChunks>::chunk(operands_at + keys_at_, 2 * k) + n * (8 * Shape::kChunks * 16);
        ldmatrix_x4(b[n / Shape::kScoresAtOnce], shared_ + at);
      }
      PENSTOCK_UNROLL
      for (int depth = 0; depth < kDepth; ++depth) {
        uint32_t a[4];
        if constexpr (Shape::kKeepQueries) {
          PENSTOCK_UNROLL
          for (int r = 0; r < 4; ++r) a[r] = kept_[k + depth][r];
        } else {
          load_queries(a, k + depth);
        }
        PENSTOCK_UNROLL
        for (int n = 0; n < Shape::kScoreColumns; ++n) {
          const int first = 2 * (n % Shape::kScoresAtOnce + depth);
          const uint32_t(&fetched)[4] = b[n / Shape::kScoresAtOnce];
          const uint32_t pair[2] = {fetched[first], fetched[first + 1]};
          mma_m16n8k16(scores[n], a, pair, Element{});
        }
      }
    }
  }

  __device__ void mask(float (&scores)[Shape::kScoreColumns][4], int32_t position, uint32_t reach) const {
    const int32_t lane_first = position + part_ * (Shape::kScoreColumns * 8) + lane_ % 4 * 2;
    PENSTOCK_UNROLL
    for (int n = 0; n < Shape::kScoreColumns; ++n) {
      PENSTOCK_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int32_t behind = position_[e >> 1] - lane_first - (n * 8 + (e & 1));
        if (static_cast<uint32_t>(behind) > reach) scores[n][e] = minus_infinity();  // below 0 is beyond any reach
      }
    }
  }

  // The running maximum over the scores of a step, and `base`, what is subtracted from them. What was summed so far is
  // scaled to the new maximum. A NaN score leaves the maximum and makes its weight NaN, and with it the whole row.
  __device__ void raise_maximum(const float (&scores)[Shape::kScoreColumns][4], float (&base)[2]) {
    float largest[2] = {minus_infinity(), minus_infinity()};
    PENSTOCK_UNROLL
    for (int n = 0; n < Shape::kScoreColumns; ++n) {
      PENSTOCK_UNROLL
      for (int e = 0; e < 4; ++e) largest[e >> 1] = fmaxf(largest[e >> 1], scores[n][e]);
    }
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) {
      largest[i] = fmaxf(largest[i], __shfl_xor_sync(kAllLanes, largest[i], 1));
      largest[i] = fmaxf(largest[i], __shfl_xor_sync(kAllLanes, largest[i], 2));
    }
    if constexpr (Shape::kSplit > 1) share_largest(largest);

    float rescale[2];
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) {
      const float before = running_[i];
      running_[i] = fmaxf(before, largest[i]);
      base[i] = running_[i] == minus_infinity() ? 0.0f : running_[i];
      rescale[i] = exp2_approx(before - base[i]);
    }
    // Mostly no maximum rises, and times 1 changes no bit.
    if (!__any_sync(kAllLanes, rescale[0] != 1.0f || rescale[1] != 1.0f)) return;
    PENSTOCK_UNROLL
    for (int e = 0; e < 4; ++e) sums_[e] *= rescale[e >> 1];
    PENSTOCK_UNROLL
    for (int j = 0; j < Shape::kValueColumns; ++j) {
      PENSTOCK_UNROLL
      for (int e = 0; e < 4; ++e) values_[j][e] *= rescale[e >> 1];
    }
  }

  // Scores of a column -> weights 2^(score - base) of the lane's two queries.
  __device__ static void weigh(const float (&scores)[4], const float (&base)[2], uint32_t (&packed)[2]) {
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) {
      packed[i] = pack_pair(exp2_approx(scores[2 * i] - base[i]), exp2_approx(scores[2 * i + 1] - base[i]), Element{});
    }
  }

  // Waits for the warps of this tile.
  __device__ void wait_for_parts() const {
    if constexpr (Shape::kTiles == 1) {
      __syncthreads();
    } else {
      named_barrier_sync(1 + tile_, Shape::kSplit * kLanes);
    }
  }

  // Each warp has the maximum over its positions; all get that over the step.
  __device__ void share_largest(float (&largest)[2]) const {
    auto* shared =
        reinterpret_cast<float*>(shared_ + Shape::kLargestAt) + (tile_ * kTileQueries + lane_ / 4) * Shape::kSplit;
    if (lane_ % 4 == 0) {
      PENSTOCK_UNROLL
      for (int i = 0; i < 2; ++i) shared[8 * i * Shape::kSplit + part_] = largest[i];
    }
    wait_for_parts();
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) {
      PENSTOCK_UNROLL
      for (int part = 0; part < Shape::kSplit; ++part)
        largest[i] = fmaxf(largest[i], shared[8 * i * Shape::kSplit + part]);
    }
  }

  // Each warp has the weights of its positions; all get those of the step. What is read here is written again only
  // behind the barrier of the next share_largest.
  __device__ void share_weights(const uint32_t (&packed)[Shape::kScoreColumns][2],
                                uint32_t (&weights)[Shape::kStepDepth][4]) const {
    using Rows = Swizzle<Shape::kStepColumns>;
    const int base = Shape::kWeightsAt + tile_ * (kTileQueries * Shape::kStepTokens * 2);
    PENSTOCK_UNROLL
    for (int n = 0; n < Shape::kScoreColumns; ++n) {
      PENSTOCK_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int at = Rows::chunk(base + Rows::row(lane_ / 4 + 8 * i), part_ * Shape::kScoreColumns + n);
        *reinterpret_cast<uint32_t*>(shared_ + at + lane_ % 4 * 4) = packed[n][i];
      }
    }
    wait_for_parts();
    PENSTOCK_UNROLL
    for (int k = 0; k < Shape::kStepDepth; ++k) {
      ldmatrix_x4(weights[k], shared_ + Rows::chunk(Rows::chunk(base + Rows::row(lane_ % 16), lane_ / 16), 2 * k));
    }
  }

  // values [16, 8 * kValueColumns] += weights x V, and the sums of the weights, over the 16 * kValuesDepth positions
  // from 16 * k on, in order.
  __device__ void multiply_values(int operands_at, int k, const uint32_t (*weights)[4]) {
    const uint32_t ones[2] = {ones_pair(Element{}), ones_pair(Element{})};
    PENSTOCK_UNROLL
    for (int depth = 0; depth < kValuesDepth; ++depth) mma_m16n8k16(sums_, weights[depth], ones, Element{});
    PENSTOCK_UNROLL
    for (int first = 0; first < Shape::kValueColumns; first += Shape::kValuesInFlight) {
      uint32_t b[Shape::kValuesInFlight / Shape::kValuesAtOnce][4];
      PENSTOCK_UNROLL
      for (int j = 0; j < Shape::kValuesInFlight; j += Shape::kValuesAtOnce) {
        const int column = part_ * Shape::kValueColumns + first + j;
        const int at = Swizzle<Shape::kChunks>::chunk(operands_at + values_at_, column) + k * (16 * Shape::kChunks * 16);
        ldmatrix_x4_trans(b[j / Shape::kValuesAtOnce], shared_ + at);
      }
      PENSTOCK_UNROLL
      for (int depth = 0; depth < kValuesDepth; ++depth) {
        PENSTOCK_UNROLL
        for (int j = 0; j < Shape::kValuesInFlight; ++j) {
          const int half = 2 * (j % Shape::kValuesAtOnce + depth);
          const uint32_t(&fetched)[4] = b[j / Shape::kValuesAtOnce];
          const uint32_t pair[2] = {fetched[half], fetched[half + 1]};
          mma_m16n8k16(values_[first + j], weights[depth], pair, Element{});
        }
      }
    }
  }

  static constexpr int kValuesDepth = 2 / Shape::kValuesAtOnce;  // products deep that one load reaches

  std::byte* shared_;
  int tile_;
  int part_;
  int lane_;
  int queries_at_;  // the lane's row and first chunk of each operand: in shared memory,
  int keys_at_;     // and behind the step's operands
  int values_at_;
  int32_t position_[2];
  uint32_t kept_[Shape::kKeepQueries ? Shape::kDim / 16 : 1][4];
  float running_[2];                       // of the segment: maximum,
  float sums_[4];                          // sum of weights, in every column,
  float values_[Shape::kValueColumns][4];  // and weighted V
  SoftmaxState total_[2];                  // of the merged segments
  float total_values_[Shape::kValueColumns][4];
};

}  // namespace penstock::cuda
