// Weights quantised while a model is loaded: f32 rows to blocks, and rows of any format to blocks of another. Owns the
// rounding, which is that of ggml's reference quantisers (quantize_row_q8_0_ref, quantize_row_q4_0_ref), so a file
// quantised here has the bytes of one quantised there. Threads are the caller's: rows are independent.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/ops.h"

namespace penstock {

// Formats that weights can be quantised to.
constexpr bool can_quantize_to(TensorType type) { return type == TensorType::q8_0 || type == TensorType::q4_0; }

// x [cols] -> blocks [row_bytes(type, cols)] in the file's layout. A block that holds a NaN or an infinity becomes all
// NaN, so the fault stays visible and inside its block; so does one whose scale exceeds an f16 (beyond about 8e6 for
// Q8_0 and 5e5 for Q4_0). PRECOND: can_quantize_to(type), cols % kQuantBlock == 0.
void quantize_weight_row(TensorType type, const float* x, int32_t cols, std::byte* blocks);

// Rows [row_begin, row_end) of `from`, whose data is in the file's layout, to blocks: out [row_end - row_begin,
// row_bytes(type, from.cols)]. Same precondition.
void quantize_weight_rows(TensorType type, const Matrix& from, int32_t row_begin, int32_t row_end, std::byte* out);

}  // namespace penstock
