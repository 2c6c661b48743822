// The AVX2 kernels by name, so that table_avx2.cc can collect them from one file per concern.
#pragma once

#include "ops/ops.h"

namespace penstock::avx2 {

// pack_avx2.cc
int64_t packed_bytes(TensorType type, int32_t rows, int32_t cols);
void pack(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed);
void matrix_row(const Matrix& w, int32_t row, float* out);

// pack_k_avx2.cc: the formats with a fifth bit or with super-blocks
bool is_packed_k(TensorType type);
void pack_k(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed);
void matrix_row_k(const Matrix& w, int32_t row, float* out);

// rows_avx2.cc
void rms_norm(const float* x, const float* weight, int32_t n, float eps, float* out);
void quantize(const float* x, int32_t n, int8_t* q, float* d, float* s);
void rope(RopePairs pairs, float* x, const float* cos_sin, int32_t heads, int32_t head_dim, int32_t rope_dims);
void swiglu(const float* gate, const float* up, int32_t n, float* out);
void add(float* x, const float* y, int32_t n);

// matmul_avx2.cc
void matmul(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
            int32_t out_stride);

// kv_store_avx2.cc
void store_kv(KvType type, int32_t head_dim, int32_t token, const float* k, const float* v, std::byte* k_tile,
              std::byte* v_tile);

// attention_avx2.cc
int64_t attend_scratch_bytes(int32_t head_dim);
void attend(const AttentionArgs& args, std::byte* scratch, float* states);
void merge_softmax(const float* from, int32_t head_dim, float* into);
void finish_softmax(const float* state, int32_t head_dim, float* out);

}  // namespace penstock::avx2
