// What the kernels can take on: dimensions of a model and sizes of a step beyond which their indices, grids or shared memory would
// not do. Owns the refusal at the start, so that no step meets one; the limits are those of ops/cuda.
#pragma once

#include "model/batch_check.h"
#include "model/config.h"

namespace penstock::cuda {

// Throws std::invalid_argument that says what to change. quantised: some matrix is, on the device. Of the limits only the sizes of a
// step count.
void check_kernel_limits(const Config& config, const DecoderLimits& limits, bool quantised);

}  // namespace penstock::cuda
