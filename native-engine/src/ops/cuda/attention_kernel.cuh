// The thread block of attention: one item and KV head. Owns how queries, K and V get into shared memory; what is
// computed with them is attention_tile.cuh. Instantiated per cache type in attention_<type>.cu.
//
// Pages are walked in steps of two blocks. While a step is computed the next one is on its way (cp.async, two stages).
// Tokens that no row of the item sees become zeros: their slots may hold what another sequence left, and their blocks
// may be gone.
#pragma once

#include "ops/cuda/attention_plan.h"
#include "ops/cuda/attention_tile.cuh"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

inline constexpr int kStepBlocks = kStepTokens / kBlockTokens;
// Multiplied into the scores, so that exponents are of 2.
inline constexpr float kLog2E = 1.44269504088896340736f;

// Queries of an item, numbered row by row: of query i, row i / group and head i % group.
struct ItemQueries {
  int32_t first;  // of this thread block
  int32_t count;  // of the item
  int32_t group;
};

// Two int8, made unsigned by ^ 0x80, times d. A byte below 0x64 is the f16 1024 + byte, so that one subtraction gives
// the integer, exactly; the product is rounded once.
__device__ inline uint32_t dequantize_pair(uint32_t biased, uint32_t selector, __half2 d) {
  const auto shifted = bits_as<__half2>(__byte_perm(biased, 0x64646464u, selector));
  return bits_as<uint32_t>(__hmul2(__hsub2(shifted, __float2half2_rn(1152.0f)), d));
}

// Eight values of a token from their int8.
__device__ inline uint4 dequantize_chunk(uint2 q, __half scale) {
  const __half2 d = __half2half2(scale);
  const uint32_t low = q.x ^ 0x80808080u;
  const uint32_t high = q.y ^ 0x80808080u;
  return make_uint4(dequantize_pair(low, 0x4140u, d), dequantize_pair(low, 0x4342u, d),
                    dequantize_pair(high, 0x4140u, d), dequantize_pair(high, 0x4342u, d));
}

// K and V of one item and KV head, step by step.
template <class Shape>
class KvSteps {
  using Rows = Swizzle<Shape::kChunks>;

 public:
  // The item sees the positions [first, last].
  __device__ KvSteps(const DeviceKv& kv, int32_t layer, int32_t kv_head, const int32_t* table, int32_t first,
                     int32_t last, std::byte* shared)
      : table_(table),
        block_bytes_(kv.block_bytes),
        first_(first),
        last_(last),
        head_dim_(kv.head_dim),
        shared_(shared) {
    v_offset_ = static_cast<uint32_t>(kv.kv_heads * tile_bytes_of(kv.head_dim));
    base_ = kv.base + int64_t{layer} * kv.blocks_total * kv.block_bytes + kv_head * tile_bytes_of(kv.head_dim);
  }

  // Dimensions behind head_dim: nothing writes them again.
  __device__ void clear_padding() const {
    const int chunks = head_dim_ / 8;
    if (chunks == Shape::kChunks) return;
    constexpr int kTiles = Shape::kConverts ? 2 : 4;
    std::byte* tiles = shared_ + (Shape::kConverts ? Shape::kOperandsAt : Shape::kStagesAt);
    for (int i = static_cast<int>(threadIdx.x); i < kTiles * kStepTokens * Shape::kChunks; i += Shape::kThreads) {
      if (i % Shape::kChunks < chunks) continue;
      const int row = i / Shape::kChunks;
      *reinterpret_cast<uint4*>(tiles + Rows::chunk(Rows::row(row), i % Shape::kChunks)) = make_uint4(0, 0, 0, 0);
    }
  }

  // Blocks of a step, read from the table one step ahead of their use.
  __device__ void find_blocks(int32_t step) {
    PENSTOCK_UNROLL
    for (int i = 0; i < kStepBlocks; ++i) {
      const int32_t at = step * kStepBlocks + i;
      block_[i] = at * kBlockTokens <= last_ && (at + 1) * kBlockTokens > first_ ? __ldg(table_ + at) : -1;
    }
  }

  // Begins to load the step whose blocks were found. One commit group.
  __device__ void load(int32_t step, int stage) const {
    std::byte* target = shared_ + Shape::kStagesAt + stage * Shape::kStageBytes;
    if constexpr (Shape::kConverts) {
      load_raw(target);
    } else {
      load_operands(step, target);
    }
    cp_async_commit();
  }

  // Where in shared memory a loaded step's operands are: K, and V kOperandBytes behind it. PRECOND: all threads call,
  // behind a barrier.
  __device__ int operands(int32_t step, int stage) const {
    const int loaded = Shape::kStagesAt + stage * Shape::kStageBytes;
    if constexpr (Shape::kConverts) {
      convert(step, shared_ + loaded);
      __syncthreads();
      return Shape::kOperandsAt;
    } else {
      return loaded;
    }
  }

 private:
  // Chosen, not indexed: an array that is indexed at run time would lie in memory, and this object with it.
  // A tile and the offsets in a block are far below 2^31 bytes.
  __device__ static int32_t tile_bytes_of(int32_t head_dim) {
    return static_cast<int32_t>(tile_bytes<Shape::kKv>(head_dim));
  }
  __device__ const std::byte* k_tile(int i) const {
    static_assert(kStepBlocks == 2, "one of two");
    return base_ + (i == 0 ? block_[0] : block_[1]) * block_bytes_;
  }
  __device__ bool sees(int32_t position) const { return position >= first_ && position <= last_; }

  // Neighbouring threads copy neighbouring 16 bytes of a token.
  __device__ void load_operands(int32_t step, std::byte* target) const {
    PENSTOCK_UNROLL_BY(4)
    for (int i = 0; i < kStepTokens * Shape::kChunks / Shape::kThreads; ++i) {
      const int at = i * Shape::kThreads + static_cast<int>(threadIdx.x);
      const int token = at / Shape::kChunks;
      const int chunk = at % Shape::kChunks;
      if (chunk * 8 >= head_dim_) continue;
      const bool valid = sees(step * kStepTokens + token);
      const auto offset = static_cast<uint32_t>((token % kBlockTokens * head_dim_ + chunk * 8) * 2);
      const std::byte* k = valid ? k_tile(token / kBlockTokens) + offset : base_;
      std::byte* place = target + Rows::chunk(Rows::row(token), chunk);
      cp_async_16(place, k, valid);
      cp_async_16(place + Shape::kOperandBytes, valid ? k + v_offset_ : base_, valid);
    }
  }

  // Whole tiles as they are stored, one per warp: K and V of one block, then of the next.
  __device__ void load_raw(std::byte* target) const {
    static_assert(Shape::kWarps == 2 * kStepBlocks, "a warp per tile");
    const int warp = static_cast<int>(threadIdx.x) / kLanes;
    const int32_t block = warp / 2 == 0 ? block_[0] : block_[1];
    if (block < 0) return;
    const std::byte* tile = base_ + block * block_bytes_ + (warp % 2 == 0 ? 0 : v_offset_);
    std::byte* place = target + raw_offset(warp / 2, warp % 2);
    for (int at = static_cast<int>(threadIdx.x) % kLanes * 16; at < tile_bytes_of(head_dim_); at += kLanes * 16) {
      cp_async_16(place + at, tile + at);
    }
  }

  __device__ static int raw_offset(int block, int is_v) {
    return is_v * Shape::kRawBytes + block * static_cast<int>(tile_bytes<Shape::kKv>(Shape::kDim));
  }

  __device__ void convert(int32_t step, const std::byte* raw) const {
    PENSTOCK_UNROLL_BY(2)
    for (int i = 0; i < kStepTokens * Shape::kChunks / Shape::kThreads; ++i) {
      const int at = i * Shape::kThreads + static_cast<int>(threadIdx.x);
      const int token = at / Shape::kChunks;
      const int chunk = at % Shape::kChunks;
      if (chunk * 8 >= head_dim_) continue;
      const bool valid = sees(step * kStepTokens + token);
      const int in_block = token % kBlockTokens;
      const auto scale_at = static_cast<int>(quant_scale_offset(head_dim_, in_block, chunk * 8));
      const auto values_at = static_cast<int>(quant_values_offset(head_dim_)) + in_block * head_dim_ + chunk * 8;
      std::byte* place = shared_ + Shape::kOperandsAt + Rows::chunk(Rows::row(token), chunk);
      PENSTOCK_UNROLL
      for (int is_v = 0; is_v < 2; ++is_v) {
        const std::byte* tile = raw + raw_offset(token / kBlockTokens, is_v);
        uint4 values = make_uint4(0, 0, 0, 0);
        if (valid) {
          values = dequantize_chunk(*reinterpret_cast<const uint2*>(tile + values_at),
                                    *reinterpret_cast<const __half*>(tile + scale_at));
        }
        *reinterpret_cast<uint4*>(place + is_v * Shape::kOperandBytes) = values;
      }
    }
  }

  const std::byte* base_;  // K tile of block 0 of this layer and head
  const int32_t* table_;
  int64_t block_bytes_;
  uint32_t v_offset_;
  int32_t first_;
  int32_t last_;
  int32_t head_dim_;
  int32_t block_[kStepBlocks];  // -1: nothing of it is seen
  std::byte* shared_;
};

// q [rows, heads, head_dim] f32 -> the block's queries in shared memory, as operands times log2(e). Queries behind the
// last are 0.
template <class Shape>
__device__ inline void load_queries(const AttentionArgs& args, const AttentionItem& item, const ItemQueries& queries,
                                    int32_t kv_head, int32_t head_dim, std::byte* shared) {
  using Element = typename Shape::Element;
  using Rows = Swizzle<Shape::kChunks>;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kQueries * Shape::kChunks; i += Shape::kThreads) {
    const int query = i / Shape::kChunks;
    const int chunk = i % Shape::kChunks;
    const int32_t number = queries.first + query;
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (number < queries.count && chunk * 8 < head_dim) {
      const int32_t row = item.first_row + number / queries.group;
      const int32_t head = kv_head * queries.group + number % queries.group;
      const float* q = args.q + int64_t{row} * args.q_stride + int64_t{head} * head_dim + chunk * 8;
      const float4 low = *reinterpret_cast<const float4*>(q);
      const float4 high = *reinterpret_cast<const float4*>(q + 4);
      packed = make_uint4(pack_pair(low.x * kLog2E, low.y * kLog2E, Element{}),
                          pack_pair(low.z * kLog2E, low.w * kLog2E, Element{}),
                          pack_pair(high.x * kLog2E, high.y * kLog2E, Element{}),
                          pack_pair(high.z * kLog2E, high.w * kLog2E, Element{}));
    }
    *reinterpret_cast<uint4*>(shared + Rows::chunk(Rows::row(query), chunk)) = packed;
  }
}

// One item and KV head per thread block: grid (items_max, kv_heads * blocks of queries), Shape::kThreads threads,
// Shape::kSharedBytes. Shapes as in AttentionArgs. PRECOND: what attention_plan.h promises of items; q_stride % 4 == 0;
// the K and V of every position up to a row's own are stored; rows * heads < 2^31. Items of more queries than
// kDecodeQueries are for shapes of several tiles, others for those of one: of the two launches of a mixed step, each
// leaves the other's items alone.
//
// Per item and KV head reads 4 * head_dim bytes per position (f16; q8_0: 2.125 * head_dim) and 4 * head_dim per query;
// writes 4 * head_dim per query, per segment where it is split. 4 * head_dim flops per query and position, and 1
// exponential. Memory bound while decoding, whose queries share each K and V that is read; bound by the tensor cores
// from about 64 queries on.
template <class Shape, int kBlocksPerSm>
__global__ void __launch_bounds__(Shape::kThreads, kBlocksPerSm)
    attention_kernel(DeviceBatch batch, DeviceKv kv, AttentionArgs args) {
  const auto index = static_cast<int32_t>(blockIdx.x);
  if (index >= __ldg(args.item_count)) return;
  const AttentionItem item = args.items[index];
  const auto kv_head = static_cast<int32_t>(blockIdx.y) % kv.kv_heads;
  const ItemQueries queries{static_cast<int32_t>(blockIdx.y) / kv.kv_heads * Shape::kQueries,
                            item.rows * (args.heads / kv.kv_heads), args.heads / kv.kv_heads};
  if ((queries.count > kDecodeQueries) != (Shape::kTiles > 1) || queries.first >= queries.count) return;

  auto* shared = dynamic_shared<std::byte>();
  const auto warp = static_cast<int32_t>(threadIdx.x) / kLanes;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kLanes;
  const uint32_t reach = reach_of(args.window_tokens);
  const int32_t first = max(item.position - static_cast<int32_t>(min(reach, 0x7FFFFFFFu)), 0);
  const int32_t last = item.position + item.rows - 1;
  KvSteps<Shape> steps(kv, args.layer, kv_head, batch.block_tables + int64_t{item.sequence} * batch.blocks_max, first,
                       last, shared);
  int32_t step = max(item.segment_begin * kStepsPerSegment, first / kStepTokens);
  const int32_t step_end = min(item.segment_end * kStepsPerSegment, last / kStepTokens + 1);
  steps.find_blocks(step);
  steps.load(step, 0);
  steps.find_blocks(step + 1);
  load_queries<Shape>(args, item, queries, kv_head, kv.head_dim, shared);
  steps.clear_padding();

  AttentionTile<Shape> tile(shared, warp / Shape::kSplit, warp % Shape::kSplit, lane);
  // Of the lane's two queries: row in the item x heads + head. Queries behind the last see what the last one does.
  constexpr uint32_t kNowhere = 0xFFFFFFFFu;
  uint32_t place[2];
  PENSTOCK_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int32_t query = queries.first + warp / Shape::kSplit * kTileQueries + lane / 4 + 8 * i;
    const int32_t row = min(query, queries.count - 1) / queries.group;
    const int32_t head = kv_head * queries.group + query - row * queries.group;
    place[i] = query < queries.count ? static_cast<uint32_t>(row * args.heads + head) : kNowhere;
    tile.set_position(i, item.position + row);
  }

  if constexpr (Shape::kKeepQueries) {
    __syncthreads();
    tile.keep_queries();
  }
  for (int stage = 0; step < step_end; ++step, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // the step is there for all, and all have left the one before it
    if (step + 1 < step_end) {
      steps.load(step + 1, stage ^ 1);
      steps.find_blocks(step + 2);
    }
    const int operands = steps.operands(step, stage);
    const int32_t position = step * kStepTokens;
    const auto view = tile.view(position, reach);
    if (view.any) tile.step(operands, position, reach, !view.all);
    if ((step + 1) % kStepsPerSegment != 0 && step + 1 != step_end) continue;
    const AttentionItem& read_again = args.items[index];  // once per segment, which costs less than registers
    if (read_again.partial < 0) {
      tile.merge_segment();
      continue;
    }
    const int32_t partial = read_again.partial + (step / kStepsPerSegment - read_again.segment_begin) * read_again.rows;
    PENSTOCK_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (place[i] == kNowhere) continue;
      const uint32_t state = static_cast<uint32_t>(partial * args.heads) + place[i];
      tile.store_segment(i, args.partials + size_t{state} * static_cast<uint32_t>(kStateHeader + kv.head_dim),
                         kv.head_dim);
    }
    tile.clear();
  }
  if (args.items[index].partial >= 0) return;
  PENSTOCK_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (place[i] == kNowhere) continue;
    const uint32_t head = static_cast<uint32_t>(args.items[index].first_row * args.heads) + place[i];
    tile.store_total(i, args.out + size_t{head} * static_cast<uint32_t>(kv.head_dim), kv.head_dim);
  }
}

// A kernel and what its launch needs.
struct AttentionLaunch {
  void (*kernel)(DeviceBatch, DeviceKv, AttentionArgs);
  int32_t threads;
  int32_t queries;  // of a thread block
  int32_t shared_bytes;
};

// Dynamic shared memory that every kernel may use.
inline constexpr int32_t kSharedWithoutAsking = 48 * 1024;

template <class Shape, int kBlocksPerSm>
AttentionLaunch attention_launch() {
  static_assert(Shape::kTiles == 1 ? Shape::kQueries == kDecodeQueries : Shape::kQueries == chunk_queries(Shape::kDim));
  if constexpr (Shape::kSharedBytes > kSharedWithoutAsking) {
    // Once: a process has one device.
    [[maybe_unused]] static const bool asked =
        (allow_shared(attention_kernel<Shape, kBlocksPerSm>, Shape::kSharedBytes), true);
  }
  return {attention_kernel<Shape, kBlocksPerSm>, Shape::kThreads, Shape::kQueries, Shape::kSharedBytes};
}

// Registers: a chunk's thread holds 2 * kDim / kSplit floats of sums, the segment's and the merged ones. Up to 64
// dimensions four blocks of them fit an SM (three where int8 is converted), beyond two, as many as FlashAttention-2's
// tiles; keeping the merged sums in shared memory instead leaves room for no more. Decoding holds a quarter.
template <KvType kType, int kDim>
AttentionLaunch attention_launch_of(bool decode) {
  constexpr bool kConverts = kType == KvType::q8_0;
  constexpr int kWideDecodes = kConverts ? 2 : 3;
  constexpr int kDecodes = kDim <= 128 ? 4 : kWideDecodes;
  if (decode) return attention_launch<AttentionShape<kType, kDim, 1, 4>, kDecodes>();
  if constexpr (kDim == 256) {
    return attention_launch<AttentionShape<kType, kDim, 2, 2>, 2>();
  } else {
    constexpr int kNarrowChunks = kConverts ? 3 : 4;
    constexpr int kChunkBlocks = kDim <= 64 ? kNarrowChunks : 2;
    return attention_launch<AttentionShape<kType, kDim, 4, 1>, kChunkBlocks>();
  }
}

template <KvType kType>
AttentionLaunch attention_launch_for(int32_t head_dim, bool decode) {
  if (head_dim <= 32) return attention_launch_of<kType, 32>(decode);
  if (head_dim <= 64) return attention_launch_of<kType, 64>(decode);
  if (head_dim <= 96) return attention_launch_of<kType, 96>(decode);
  if (head_dim <= 128) return attention_launch_of<kType, 128>(decode);
  return attention_launch_of<kType, 256>(decode);
}

// attention_f16.cu and its siblings
AttentionLaunch attention_launch_f16(int32_t head_dim, bool decode);
AttentionLaunch attention_launch_bf16(int32_t head_dim, bool decode);
AttentionLaunch attention_launch_q8(int32_t head_dim, bool decode);

}  // namespace penstock::cuda
