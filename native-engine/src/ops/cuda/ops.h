// Every operation of the decoder on a CUDA device, with its shapes: the device's counterpart of ops/ops.h. Owns the
// signatures and the form of what lies in device memory; each launcher is beside its kernels, which .cu file says which. Calls
// only enqueue on the stream; every pointer is device memory unless it says otherwise; nothing allocates or waits.
//
// Batch invariance, as on the CPU: an output row is computed from that row's inputs in an order that depends on nothing else,
// so that it has the same bits alone, in a batch, and in a chunk of any size. The orders are stated where the kernels are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kv/cache.h"
#include "ops/cuda/platform.h"
#include "ops/ops.h"
#include "ops/tensor_type.h"

namespace penstock::cuda {

// A weight matrix [rows, cols] in the layout of pack.h.
struct DeviceMatrix {
  TensorType type;
  int32_t rows;  // output features
  int32_t cols;  // input features
  const std::byte* data;
};

// What a product reads: the form that its weights ask for.
// As wide as a pointer: what pads a kernel's arguments is whatever was there, and the emulator takes it for an address if it looks
// like one.
enum class ActivationForm : int64_t { f32, f16, bf16, q8 };

// The form that weights of a type are multiplied with: f32 by f32, f16 by f16, bf16 by bf16, every quantised type by q8.
inline constexpr ActivationForm activation_form(TensorType type) {
  if (is_quantized(type)) return ActivationForm::q8;
  return type == TensorType::f16 ? ActivationForm::f16
                                 : type == TensorType::bf16 ? ActivationForm::bf16 : ActivationForm::f32;
}

// Rows of activations. One buffer each; a layer whose weights have several types has several of these filled.
//   values [rows, cols] float, __half, __nv_bfloat16 or int8_t in [-127, 127]
//   d, s   [rows, cols / kQuantBlock] f32, for q8 only: scale, and d * sum(q); a block that is not finite: d = s = NaN, q = 0
struct DeviceActivations {
  ActivationForm form;
  void* values;
  float* d;
  float* s;
  int32_t cols;
};
// At most this many forms are written by one kernel: of the weights that read the same rows.
inline constexpr int32_t kFormsMax = 2;
struct ActivationOutputs {
  DeviceActivations form[kFormsMax];
  int32_t count;
};

// A step as device arrays at fixed addresses, so that a captured graph can be run again. Rows up to the bucket's size are
// launched; those that are not live have row_sequence -1, and kernels leave their outputs alone or write what nobody reads.
struct DeviceBatch {
  const int32_t* token_ids;     // [rows]
  const int32_t* positions;     // [rows]
  const int32_t* row_sequence;  // [rows] which row of block_tables; -1: not live
  const int32_t* block_tables;  // [sequences, blocks_max]
  int32_t blocks_max;           // entries per sequence
  int32_t rows;                 // launched
};

// The widest head that a kernel takes.
inline constexpr int32_t kCudaHeadDimMax = 256;

// The paged cache in device memory: [layer][block][k|v][kv_head][tile]. Both tiles are [kBlockTokens][head_dim] in f16 or bf16;
// q8_0: d [kBlockTokens][head_dim / kKvQuantBlock] f16, then q [kBlockTokens][head_dim] int8.
struct DeviceKv {
  std::byte* base;
  KvType type;
  int32_t blocks_total;
  int32_t kv_heads;
  int32_t head_dim;
  int64_t block_bytes;  // of one block of one layer
};

// --- rows.cu ---------------------------------------------------------------------------------------------------------
// Columns of a row that add_rms_norm keeps in registers, above any published model.
inline constexpr int32_t kNormColsMax = 32 * 1024;
// x [rows, n] += delta [rows, n] (nullptr: nothing), then outputs = x / sqrt(mean(x^2) + eps) * weight [n]; x keeps the sum.
// outputs.count 0: the sum alone. PRECOND: n <= kNormColsMax, n % 32 == 0 where a form is q8.
void add_rms_norm(cudaStream_t stream, float* x, const float* delta, const float* weight, int32_t rows, int32_t n, float eps,
                  const ActivationOutputs& outputs);
// gate, up [rows, n] -> outputs = gate * sigmoid(gate) * up
void swiglu(cudaStream_t stream, const float* gate, const float* up, int32_t rows, int32_t n,
            const ActivationOutputs& outputs);
// x [rows, n] in f32 -> outputs
void convert_rows(cudaStream_t stream, const float* x, int32_t rows, int32_t n, const ActivationOutputs& outputs);
// out [count, n] = x [index[i], n]; index[i] < 0: row i is left alone
void gather_rows(cudaStream_t stream, const float* x, const int32_t* index, int32_t count, int32_t n, float* out);

// --- rope_append.cu --------------------------------------------------------------------------------------------------
struct RopeAppendArgs {
  float* q;              // [rows, heads * head_dim], rows q_stride apart; in place: bias, norm, rotation, * 1 / sqrt(head_dim)
  const float* k;        // [rows, kv_heads * head_dim], rows k_stride apart
  const float* v;        // [rows, kv_heads * head_dim], rows v_stride apart
  int32_t q_stride, k_stride, v_stride;  // floats
  const float* q_bias;   // [heads * head_dim] or nullptr, and so on
  const float* k_bias;
  const float* v_bias;
  const float* q_norm;   // [head_dim] or nullptr
  const float* k_norm;
  float norm_eps;
  const float* cos_sin;  // [rows, rope_dims / 2, 2]
  RopePairs pairs;
  int32_t rope_dims;
  int32_t heads;
  int32_t layer;
};
// Finishes q, and stores k and v of every live row in its place of the cache.
void rope_append(cudaStream_t stream, const DeviceBatch& batch, const DeviceKv& kv, const RopeAppendArgs& args);
// cos_sin [rows, rope_dims / 2, 2] of the rows' positions. frequencies [rope_dims / 2] f64 radians per position.
void rope_angles(cudaStream_t stream, const DeviceBatch& batch, const double* frequencies, int32_t rope_dims, float magnitude,
                 float* cos_sin);

// --- attention.cu; items are planned on the host by attention_plan.h ------------------------------------------------------
// Neighbouring rows of one sequence against a range of its segments, for one KV head per thread block.
struct AttentionItem {
  int32_t sequence;  // row of block_tables
  int32_t first_row;
  int32_t rows;
  int32_t position;  // of the first row
  int32_t segment_begin;
  int32_t segment_end;
  // Where the state of its first row over its first segment goes, in rows of `partials`; its other rows follow, then those of
  // the next segment. -1: the item has all segments of its rows, and they are merged straight to out.
  int32_t partial;
};
// A row whose segments are several items: `count` partials, one per segment, `stride` apart, merged front to back.
struct MergeItem {
  int32_t row;
  int32_t partial;
  int32_t count;
  int32_t stride;
};
struct AttentionArgs {
  const float* q;  // [rows, heads, head_dim], rows q_stride apart, scaled
  int32_t q_stride;
  int32_t heads;
  int32_t window_tokens;  // 0 = none
  int32_t layer;
  const AttentionItem* items;  // [items_max]
  const int32_t* item_count;   // device
  int32_t items_max;           // launched
  const MergeItem* merges;     // [merges_max]
  const int32_t* merge_count;
  int32_t merges_max;
  // Whether items may have up to kDecodeQueries rows x heads of a group, and more: false launches one kernel less.
  bool decodes;
  bool chunks;
  float* partials;  // [partial rows, heads, softmax_floats(head_dim)]
  float* out;       // [rows, heads, head_dim]
};
void attention(cudaStream_t stream, const DeviceBatch& batch, const DeviceKv& kv, const AttentionArgs& args);

// --- embed.cu --------------------------------------------------------------------------------------------------------
// out [rows, w.cols] = row token_ids[i] of w
void embed(cudaStream_t stream, const DeviceMatrix& w, const int32_t* token_ids, int32_t rows, float* out);
// out [rows, w.cols] __half or __nv_bfloat16, by `form` = rows [first_row, first_row + rows) of w: a matrix for the products of
// 16-bit weights. PRECOND: w quantised, form f16 or bf16.
void dequantise_rows(cudaStream_t stream, const DeviceMatrix& w, int32_t first_row, int32_t rows, ActivationForm form, void* out);

// --- matmul.cu -------------------------------------------------------------------------------------------------------
// out [rows, out_stride], columns [0, w.rows) = x [rows, w.cols] times w transposed. PRECOND: x.form == activation_form(w.type),
// x.cols == w.cols.
void matmul(cudaStream_t stream, const DeviceMatrix& w, const DeviceActivations& x, int32_t rows, float* out,
            int32_t out_stride);

// --- blocks.cu -------------------------------------------------------------------------------------------------------
// Whole blocks of the first `layers` layers, to and from one contiguous buffer [count][layers][block_bytes]; what travels between
// engines.
void gather_blocks(cudaStream_t stream, const DeviceKv& kv, int32_t layers, const int32_t* blocks, int32_t count,
                   std::byte* packed);
void scatter_blocks(cudaStream_t stream, const DeviceKv& kv, int32_t layers, const int32_t* blocks, int32_t count,
                    const std::byte* packed);
// Block source[i] -> block target[i] of the same cache; no target is also a source.
void copy_blocks(cudaStream_t stream, const DeviceKv& kv, int32_t layers, const int32_t* source, const int32_t* target,
                 int32_t count);

// --- byte_sum.cu -----------------------------------------------------------------------------------------------------
// *sum += a checksum of data [bytes], which has `position` bytes before it in a longer row: the sums of parts, in any order, are that
// of the whole. PRECOND: data, bytes and position are multiples of 8.
void byte_sum(cudaStream_t stream, const std::byte* data, int64_t bytes, int64_t position, unsigned long long* sum);

// --- sampling.cu -----------------------------------------------------------------------------------------------------
// What sampler.h does, for rows on the device; the draws are the CPU's: the same (seed, index) gives the same u.
struct SampleRow {
  double log_weight_min;  // of min-p, as model/sampler.h has it
  float temperature, top_p;
  float repetition_penalty, presence_penalty, frequency_penalty;
  int32_t top_k;
  uint64_t seed;
  uint64_t index;        // of the draw
  int32_t first_bias;    // in the arrays of bias, and how many
  int32_t bias_count;
  int32_t first_token;   // in the array of history: prompt, then output
  int32_t prompt_tokens;
  int32_t output_tokens;
  int32_t mask;          // row of masks; -1 = none
};
// What some row needs; what none does is not launched.
struct SampleWork {
  int32_t bias_max;     // entries of one row
  int32_t history_max;  // tokens of one row
  int32_t random;       // 1: temperatures above 0
  int32_t filtered;     // 1: top_k or top_p among these
};
SampleWork sample_work(std::span<const SampleRow> rows, int32_t vocab_size);
struct SampleArgs {
  float* logits;               // [rows, vocab_size]; mask, bias and penalties are written into them
  const SampleRow* rows;       // [rows]
  const int32_t* bias_tokens;  // of all rows
  const float* bias_values;
  const int32_t* history;      // of all rows
  const uint32_t* masks;       // [.., ceil(vocab_size / 32)]
  int32_t* counts;             // [rows, vocab_size] scratch, all 0 between calls
  unsigned long long* scratch;  // [rows, sample_scratch_words(vocab_size)], whatever is there
  int32_t* tokens;             // [rows] out; < 0: why there is none (SampleFailure)
  int32_t vocab_size;
  int32_t row_count;
  SampleWork work;             // of these rows
};
int64_t sample_scratch_words(int32_t vocab_size);
// Tokens whose tiles' masses one block adds up in shared memory.
inline constexpr int32_t kSampleVocabMax = 28 * 1024 / 8 * 256;
enum class SampleFailure : int32_t { not_finite = -1, all_excluded = -2 };
void sample(cudaStream_t stream, const SampleArgs& args);

}  // namespace penstock::cuda
