// Tensor-core products, ldmatrix and cp.async. Fragments as in the PTX ISA (src/ops/cuda/ptx.cuh has them). Products of 16-bit
// operands are exact, and are added in f32 in order of k: a GPU adds in another order and with other rounding, so that tests
// against one need a tolerance. Integer products are exact on both.
//
// A copy of cp.async happens when its thread waits for it, not before, and until then the target is poisoned: code that forgets
// to wait reads NaN, in every order.
#pragma once

#include <cstdint>

#include "simt/block.h"

namespace simt {

void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::current());
void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::current());
void mma_s8_k32(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::current());
void mma_s8_k16(int32_t (&c)[4], const uint32_t (&a)[2], uint32_t b, Site site = Site::current());

// r: `count` registers, 1, 2 or 4.
void ldmatrix(uint32_t* r, int count, const void* shared, bool transpose, Site site = Site::current());

// bytes: 4, 8 or 16, of which both addresses are multiples.
void cp_async(void* shared, const void* global, int bytes, bool valid, Site site = Site::current());
void cp_async_commit();
void cp_async_wait(int pending_groups);

}  // namespace simt
