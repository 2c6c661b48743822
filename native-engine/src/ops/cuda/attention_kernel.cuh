// The thread block of attention: one item and KV head. Owns how queries, K and V get into shared memory; what is
// computed with them is attention_tile.cuh. Instantiated per cache type in attention_<type>.cu.
//
// Pages are walked in steps of two or four blocks. While a step is computed the next one is on its way (cp.async, two
// stages).
// Tokens that no row of the item sees become zeros: their slots may hold what another sequence left, and their blocks
// may be gone.
#pragma once

#include "ops/cuda/attention_plan.h"
#include "ops/cuda/attention_tile.cuh"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

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
  // A pass of the block's threads over neighbouring tokens, 16 bytes of operands each: a thread keeps its chunk of a
  // row. Of 12 chunks as if there were 16, so that all of this is powers of two.
  static constexpr int kRowThreads = Shape::kChunks == 12 ? 16 : Shape::kChunks;
  static constexpr int kPassTokens = Shape::kThreads / kRowThreads;
  static constexpr int kPasses = Shape::kStepTokens / kPassTokens;
  static_assert(kPassTokens % kBlockTokens == 0 || kBlockTokens % kPassTokens == 0, "which block is known");

 public:
  // The item sees the positions [first, last].
  __device__ KvSteps(const DeviceKv& kv, int32_t layer, int32_t kv_head, const int32_t* table, int32_t first,
                     int32_t last, std::byte* shared)
      : table_(table),
        block_bytes_(static_cast<uint32_t>(kv.block_bytes)),
        first_(first),
        seen_(static_cast<uint32_t>(last - first)),
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
    for (int i = static_cast<int>(threadIdx.x); i < kTiles * Shape::kStepTokens * Shape::kChunks; i += Shape::kThreads) {
      if (i % Shape::kChunks < chunks) continue;
      const int row = i / Shape::kChunks;
      *reinterpret_cast<uint4*>(tiles + Rows::chunk(Rows::row(row), i % Shape::kChunks)) = make_uint4(0, 0, 0, 0);
    }
  }

  // Blocks of a step, read from the table one step ahead of their use.
  __device__ void find_blocks(int32_t step) {
    PENSTOCK_UNROLL
    for (int i = 0; i < Shape::kStepBlocks; ++i) {
      const int32_t at = step * Shape::kStepBlocks + i;
      const int32_t behind_first = at * kBlockTokens - first_;
      const bool seen = behind_first + kBlockTokens > 0 && behind_first <= static_cast<int32_t>(seen_);
      block_[i] = seen ? __ldg(table_ + at) : -1;
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
  // A tile and the offsets in a block are far below 2^31 bytes.
  __device__ static int32_t tile_bytes_of(int32_t head_dim) {
    return static_cast<int32_t>(tile_bytes<Shape::kKv>(head_dim));
  }
  // Chosen, not indexed: an array that is indexed at run time would lie in memory, and this object with it.
  __device__ int32_t block_of(int i) const {
    int32_t block = block_[0];
    PENSTOCK_UNROLL
    for (int other = 1; other < Shape::kStepBlocks; ++other) block = i == other ? block_[other] : block;
    return block;
  }
  __device__ const std::byte* k_tile(int32_t block) const {
    return base_ + uint64_t{static_cast<uint32_t>(block)} * block_bytes_;
  }

  __device__ static int pass_row() { return static_cast<int>(threadIdx.x) / kRowThreads; }
  __device__ static int pass_chunk() { return static_cast<int>(threadIdx.x) % kRowThreads; }
  // Of a thread's token in a pass: the block's number in the step, and the token's in its block.
  __device__ static int block_in_step(int pass) {
    if constexpr (kPassTokens <= kBlockTokens) return pass * kPassTokens / kBlockTokens;
    return pass * (kPassTokens / kBlockTokens) + pass_row() / kBlockTokens;
  }
  __device__ static int token_in_block(int pass) {
    if constexpr (kPassTokens <= kBlockTokens) return pass * kPassTokens % kBlockTokens + pass_row();
    return pass_row() % kBlockTokens;
  }
  // Where a thread's 16 bytes go in an array of operands.
  __device__ static int operand_offset(int pass) {
    if constexpr (kPassTokens % 8 == 0) {
      return Rows::chunk(Rows::row(pass_row()), pass_chunk()) + pass * (kPassTokens * Shape::kChunks * 16);
    } else {
      return Rows::chunk(Rows::row(pass * kPassTokens + pass_row()), pass_chunk());
    }
  }

  // Of a token that nobody sees nothing is read, wherever its block may be.
  __device__ void load_operands(int32_t step, std::byte* target) const {
    if (pass_chunk() * 8 >= head_dim_) return;
    const int32_t behind_first = step * Shape::kStepTokens + pass_row() - first_;
    PENSTOCK_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      const bool valid = static_cast<uint32_t>(behind_first + pass * kPassTokens) <= seen_;
      const auto offset = static_cast<uint32_t>(token_in_block(pass) * head_dim_ + pass_chunk() * 8) * 2;
      const std::byte* k = k_tile(block_of(block_in_step(pass))) + offset;
      std::byte* place = target + operand_offset(pass);
      cp_async_16(place, k, valid);
      cp_async_16(place + Shape::kOperandBytes, k + v_offset_, valid);
    }
  }

  // Whole tiles as they are stored, each by one warp: K and V of one block, then of the next.
  __device__ void load_raw(std::byte* target) const {
    constexpr int kTiles = 2 * Shape::kStepBlocks;
    static_assert(kTiles % Shape::kWarps == 0, "whole tiles per warp");
    const int warp = static_cast<int>(threadIdx.x) / kLanes;
    PENSTOCK_UNROLL
    for (int i = 0; i < kTiles / Shape::kWarps; ++i) {
      const int number = i * Shape::kWarps + warp;
      const int32_t block = block_of(number / 2);
      if (block < 0) continue;
      const std::byte* tile = k_tile(block) + (number % 2 == 0 ? 0 : v_offset_);
      std::byte* place = target + raw_offset(number / 2, number % 2);
      for (int at = static_cast<int>(threadIdx.x) % kLanes * 16; at < tile_bytes_of(head_dim_); at += kLanes * 16) {
        cp_async_16(place + at, tile + at);
      }
    }
  }

  __device__ static int raw_offset(int block, int is_v) {
    return is_v * Shape::kRawBytes + block * static_cast<int>(tile_bytes<Shape::kKv>(Shape::kDim));
  }

  __device__ void convert(int32_t step, const std::byte* raw) const {
    if (pass_chunk() * 8 >= head_dim_) return;
    const int32_t behind_first = step * Shape::kStepTokens + pass_row() - first_;
    PENSTOCK_UNROLL_BY(2)
    for (int pass = 0; pass < kPasses; ++pass) {
      const bool valid = static_cast<uint32_t>(behind_first + pass * kPassTokens) <= seen_;
      const int in_block = token_in_block(pass);
      const auto scale_at = static_cast<int>(quant_scale_offset(head_dim_, in_block, pass_chunk() * 8));
      const auto values_at = static_cast<int>(quant_values_offset(head_dim_)) + in_block * head_dim_ + pass_chunk() * 8;
      std::byte* place = shared_ + Shape::kOperandsAt + operand_offset(pass);
      PENSTOCK_UNROLL
      for (int is_v = 0; is_v < 2; ++is_v) {
        // Of a token that nobody sees, whatever lies there.
        const std::byte* tile = raw + raw_offset(block_in_step(pass), is_v);
        uint4 values = dequantize_chunk(*reinterpret_cast<const uint2*>(tile + values_at),
                                        *reinterpret_cast<const __half*>(tile + scale_at));
        if (!valid) values = make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4*>(place + is_v * Shape::kOperandBytes) = values;
      }
    }
  }

  const std::byte* base_;  // K tile of block 0 of this layer and head
  const int32_t* table_;
  uint32_t block_bytes_;  // of one layer
  uint32_t v_offset_;
  int32_t first_;  // position seen,
  uint32_t seen_;  // and how many are behind it
  int32_t head_dim_;
  int32_t block_[Shape::kStepBlocks];  // -1: nothing of it is seen
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

// Thread blocks of an item: of each KV head, one for each kQueries of what an item may have.
template <class Shape>
__host__ __device__ inline int32_t blocks_of_item(int32_t kv_heads, int32_t group) {
  return Shape::kTiles == 1 ? kv_heads : kv_heads * ((group + Shape::kQueries - 1) / Shape::kQueries);
}

// One item and KV head per thread block: items_max * blocks_of_item of them, those of an item next to each other, so that
// all of a long item begin before those of a short one. Shape::kThreads threads, Shape::kSharedBytes. Shapes as in
// AttentionArgs. PRECOND: what attention_plan.h promises of items; q_stride % 4 == 0;
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
  wait_for_previous();
  const int32_t group = args.heads / kv.kv_heads;
  const int32_t blocks = blocks_of_item<Shape>(kv.kv_heads, group);
  const int32_t index = static_cast<int32_t>(blockIdx.x) / blocks;
  if (index >= __ldg(args.item_count)) return;
  const AttentionItem item = args.items[index];
  const int32_t block = static_cast<int32_t>(blockIdx.x) % blocks;
  const int32_t kv_head = block % kv.kv_heads;
  const ItemQueries queries{block / kv.kv_heads * Shape::kQueries, item.rows * group, group};
  if ((queries.count > kDecodeQueries) != (Shape::kTiles > 1) || queries.first >= queries.count) return;

  auto* shared = dynamic_shared<std::byte>();
  const auto warp = static_cast<int32_t>(threadIdx.x) / kLanes;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kLanes;
  const uint32_t reach = reach_of(args.window_tokens);
  const int32_t first = max(item.position - static_cast<int32_t>(min(reach, 0x7FFFFFFFu)), 0);
  const int32_t last = item.position + item.rows - 1;
  KvSteps<Shape> steps(kv, args.layer, kv_head, batch.block_tables + int64_t{item.sequence} * batch.blocks_max, first,
                       last, shared);
  int32_t step = max(item.segment_begin * Shape::kStepsPerSegment, first / Shape::kStepTokens);
  const int32_t step_end = min(item.segment_end * Shape::kStepsPerSegment, last / Shape::kStepTokens + 1);
  steps.find_blocks(step);
  steps.load(step, 0);
  steps.find_blocks(step + 1);
  load_queries<Shape>(args, item, queries, kv_head, kv.head_dim, shared);
  steps.clear_padding();

  AttentionTile<Shape> tile(shared, warp / Shape::kSplit, warp % Shape::kSplit, lane);
  // Of the lane's two queries: row in the item x heads + head. A tile behind the last query computes nothing; in the
  // last tile, queries behind it see what it does.
  constexpr uint32_t kNowhere = 0xFFFFFFFFu;
  uint32_t place[2];
  const int32_t tile_first = queries.first + warp / Shape::kSplit * kTileQueries;
  PENSTOCK_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int32_t query = tile_first + lane / 4 + 8 * i;
    const int32_t row = min(query, queries.count - 1) / queries.group;
    const int32_t head = kv_head * queries.group + query - row * queries.group;
    place[i] = query < queries.count ? static_cast<uint32_t>(row * args.heads + head) : kNowhere;
    tile.set_position(i, tile_first < queries.count ? item.position + row : -1);
  }

  if constexpr (Shape::kKeepQueries) {
    __syncthreads();
    tile.keep_queries();
  }
  int stage = 0;
  while (step < step_end) {
    const int32_t segment = step / Shape::kStepsPerSegment;
    const int32_t segment_end = min((segment + 1) * Shape::kStepsPerSegment, step_end);
    for (; step < segment_end; ++step, stage ^= 1) {
      cp_async_wait<0>();
      __syncthreads();  // the step is there for all, and all have left the one before it
      if (step + 1 < step_end) {
        steps.load(step + 1, stage ^ 1);
        steps.find_blocks(step + 2);
      }
      const int operands = steps.operands(step, stage);
      const int32_t position = step * Shape::kStepTokens;
      const auto view = tile.view(position, reach);
      if (view.any) tile.step(operands, position, reach, !view.all);
    }
    const AttentionItem& read_again = args.items[index];  // once per segment, which costs less than registers
    if (read_again.partial < 0) {
      tile.merge_segment();
      continue;
    }
    const int32_t partial = read_again.partial + (segment - read_again.segment_begin) * read_again.rows;
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
  int32_t (*blocks_of_item)(int32_t kv_heads, int32_t group);
  int32_t threads;
  int32_t shared_bytes;
};

// Dynamic shared memory that every kernel may use.
inline constexpr int32_t kSharedWithoutAsking = 48 * 1024;

template <class Shape, int kBlocksPerSm>
AttentionLaunch attention_launch() {
  static_assert(Shape::kTiles == 1 ? Shape::kQueries == kDecodeQueries : Shape::kQueries == chunk_queries(Shape::kDim));
  if constexpr (Shape::kSharedBytes > kSharedWithoutAsking) {
    static PerDevice allowed;
    allow_shared(allowed, attention_kernel<Shape, kBlocksPerSm>, Shape::kSharedBytes);
  }
  return {attention_kernel<Shape, kBlocksPerSm>, blocks_of_item<Shape>, Shape::kThreads, Shape::kSharedBytes};
}

// Registers: a chunk's thread holds 2 * kDim / kSplit floats of sums, the segment's and the merged ones, and the scores
// of a step: two blocks of them fit an SM, of narrow heads three. Decoding holds a quarter. On an H100 that was faster over
// 8192 positions than one block of twice as many queries (347 µs against 385), and than one of four warps of 32 queries each
// whose merged sums lay in shared memory (437): it fetches K and V half as often, but a warp that waits has no other
// beside it.
template <KvType kType, int kDim>
AttentionLaunch attention_launch_of(bool decode) {
  constexpr bool kConverts = kType == KvType::q8_0;
  constexpr int kWideDecodes = kConverts && kDim > 128 ? 2 : 3;
  constexpr int kDecodes = kDim <= 64 ? 4 : kWideDecodes;
  if (decode) return attention_launch<AttentionShape<kType, kDim, 1, 4>, kDecodes>();
  if constexpr (kDim == 256) {
    return attention_launch<AttentionShape<kType, kDim, 2, 2>, 2>();
  } else {
    return attention_launch<AttentionShape<kType, kDim, 4, 1>, kDim <= 32 ? 3 : 2>();
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
