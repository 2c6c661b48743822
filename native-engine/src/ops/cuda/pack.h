// Weights from the file's layout to the device's (formats.h), on the host. Owns the rearrangement, which loses nothing; where the
// bytes come from and how they reach the device is the loader's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/tensor_type.h"

namespace penstock::cuda {

// A packed matrix starts at a multiple of this; packed_bytes is one too, so that matrices can lie behind each other.
inline constexpr int64_t kPackedAlignment = 64;

// Bytes that pack() writes.
int64_t packed_bytes(TensorType type, int32_t rows, int32_t cols);

// file [rows, cols] as in the GGUF file -> packed [packed_bytes].
// Rows are independent in steps of kPanelRows: rows [a, b) of a matrix, a % kPanelRows == 0, are packed by themselves to
// packed_rows_offset(type, a, cols), which lets threads share a matrix and makes one matrix of several of the same type and cols.
void pack(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed);

// Where row `row` begins in a packed matrix. PRECOND: row % kPanelRows == 0.
int64_t packed_rows_offset(TensorType type, int32_t row, int32_t cols);

}  // namespace penstock::cuda
