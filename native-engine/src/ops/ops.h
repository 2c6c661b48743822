// Every operation of the decoder, with its shapes. Two implementations: reference.cc (plain, the oracle, runs anywhere)
// and cpu/ (SIMD). Operations work on one thread; the decoder hands ranges to threads.
//
// Batch invariance: each function computes a row of its output from that row's inputs in an order that depends on
// nothing else, so the same row has the same bits alone, in a batch, and in a chunk of any size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kv/cache.h"
#include "ops/tensor_type.h"

namespace penstock {

// Weight rows computed together. Also the interleave of packed weights: one 256-bit register holds one f32 of each row.
inline constexpr int32_t kTileRows = 8;

// A weight matrix [rows, cols], prepared by Kernels::pack. Immutable and shared by all threads.
struct Matrix {
  TensorType type;
  int32_t rows;           // output features
  int32_t cols;           // input features
  const std::byte* data;  // in the layout of the kernels that packed it

  int32_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
};

// Rows of activations, in f32 and, where a weight of the layer is quantised, as int8 blocks.
//   q [rows, cols] in [-127, 127]; d [rows, cols / kQuantBlock] scale; s [rows, cols / kQuantBlock] = d * sum(q)
struct Activations {
  const float* f32;  // [rows, cols]
  const int8_t* q;
  const float* d;
  const float* s;
  int32_t rows;
  int32_t cols;
};

// Partial softmax of one query head over a range of the context: (max, sum, weighted V) can be merged in order.
// The floats behind one head: [0] max score, [1] sum of exp(score - max), [2..] sum of exp(score - max) * v [head_dim].
// A range without a visible position is (-inf, 0, 0) and merges as if it were not there.
inline constexpr int32_t kSoftmaxHeader = 2;
inline constexpr int32_t softmax_floats(int32_t head_dim) { return kSoftmaxHeader + head_dim; }

// Context positions per partial softmax: segment s is the positions [s, s + 1) * kSegmentTokens of the sequence,
// whatever the window, so that results depend neither on the number of threads nor on how the prompt was cut.
inline constexpr int32_t kSegmentTokens = 256;
static_assert(kSegmentTokens % kBlockTokens == 0, "a segment is whole blocks");

// The first position that `position` attends to; it attends to all from there to itself. window_tokens: 0 = no window.
inline constexpr int32_t first_visible(int32_t position, int32_t window_tokens) {
  return window_tokens > 0 && position >= window_tokens ? position - window_tokens + 1 : 0;
}

// Rows of one sequence at consecutive positions against one KV head: the query heads of the group and the rows share
// each K and V that is read.
struct AttentionArgs {
  const float* q;         // [rows, group, head_dim], rows q_stride apart, already scaled by 1 / sqrt(head_dim)
  int32_t q_stride;       // floats
  int32_t rows;           // >= 1
  int32_t position;       // of the first row
  int32_t group;          // query heads per KV head
  int32_t head_dim;       // a multiple of 8; of 32 with KvType::q8_0
  int32_t window_tokens;  // 0 = none
  int32_t segment_begin;  // the range of segments to attend to; what a row does not see of them is left out
  int32_t segment_end;
  KvType kv_type;
  const std::byte* k_base;       // K tile of block 0 for this layer and KV head
  int64_t block_stride_bytes;    // between the same tile of consecutive blocks
  int64_t v_offset_bytes;        // from a K tile to its V tile
  const int32_t* block_table;    // blocks of the sequence
  const std::byte* next_k_base;  // k_base of a head whose K over the same blocks this thread reads next, or nullptr
};

// Which two dimensions of a head turn together: (2i, 2i + 1), or (i, i + rope_dims / 2). A property of how a file stores
// its q and k rows, not of the model: GGUF permutes them for `llama` and leaves them for `qwen2` and `qwen3`.
enum class RopePairs : uint8_t { interleaved, halves };

struct Kernels {
  const char* name;

  // --- preparation ---
  // Bytes that pack() writes for a matrix.
  int64_t (*packed_bytes)(TensorType type, int32_t rows, int32_t cols);
  // file [rows, cols] as in the GGUF file -> packed, 64-byte aligned.
  void (*pack)(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed);

  // --- rows ---
  // out [cols] = row `row` of w, exactly as the file defines its values.
  void (*matrix_row)(const Matrix& w, int32_t row, float* out);
  // x [n], weight [n] -> out [n] = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(const float* x, const float* weight, int32_t n, float eps, float* out);
  // x [n] -> q [n], d [n / 32], s [n / 32]. A block that is not finite gets d = s = NaN and q = 0. PRECOND: n % 32 ==
  // 0.
  void (*quantize)(const float* x, int32_t n, int8_t* q, float* d, float* s);
  // x [heads, head_dim] in place: the first rope_dims of each head turn in pairs. cos_sin [rope_dims / 2, 2]
  void (*rope)(RopePairs pairs, float* x, const float* cos_sin, int32_t heads, int32_t head_dim, int32_t rope_dims);
  // gate [n], up [n] -> out [n] = gate * sigmoid(gate) * up
  void (*swiglu)(const float* gate, const float* up, int32_t n, float* out);
  // x [n] += y [n]
  void (*add)(float* x, const float* y, int32_t n);

  // --- weights ---
  // out [x.rows, out_stride], columns [8 * tile_begin, min(8 * tile_end, w.rows)): x times w transposed.
  // PRECOND: x.cols == w.cols; x.q, d, s present when w.type is quantised.
  void (*matmul)(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride);

  // --- attention ---
  // Stores one token's k [head_dim] and v [head_dim] in slot `token` of the tiles.
  void (*store_kv)(KvType type, int32_t head_dim, int32_t token, const float* k, const float* v, std::byte* k_tile,
                   std::byte* v_tile);
  // Bytes of scratch that attend() needs for heads of this size.
  int64_t (*attend_scratch_bytes)(int32_t head_dim);
  // states [rows, group, softmax_floats(head_dim)]: the softmax of every row and head over the visible positions of the
  // segments, merged front to back. scratch is 64-byte aligned and holds nothing between calls.
  void (*attend)(const AttentionArgs& args, std::byte* scratch, float* states);
  // into, from [softmax_floats(head_dim)]: into becomes the softmax over both ranges. `from` covers later positions.
  void (*merge_softmax)(const float* from, int32_t head_dim, float* into);
  // state [softmax_floats(head_dim)] -> out [head_dim]
  void (*finish_softmax)(const float* state, int32_t head_dim, float* out);
};

enum class KernelChoice : uint8_t { automatic, reference, avx2 };

const Kernels& reference_kernels();
// nullptr where the build or this processor has no AVX2, FMA and F16C.
const Kernels* avx2_kernels();

// automatic = the environment variable PENSTOCK_KERNELS (`reference` or `avx2`) if set, else the fastest this processor
// runs. Throws std::invalid_argument for a set that it cannot run or a name that does not exist.
const Kernels& choose_kernels(KernelChoice choice);

}  // namespace penstock
