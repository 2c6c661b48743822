// Each PTX instruction of the kernels, wrapped once. Owns the only inline assembly; on the emulator the same names are
// functions of simt/tensor.h. Only what every chip from sm_80 on has.
//
// Fragments as in the PTX ISA, with g = lane / 4 and t = lane % 4 (16-bit elements two to a register, lower index in the lower half):
//   m16n8k16, 16 bits: A register r: row g + 8 * (r & 1), columns 2t + {0, 1} + 8 * (r >> 1)
//                      B register r: rows (k) 2t + {0, 1} + 8 * r, column g
//   m16n8k32, s8:      A register r: row g + 8 * (r & 1), columns 4t + {0..3} + 16 * (r >> 1)
//                      B register r: rows (k) 4t + {0..3} + 16 * r, column g
//   m16n8k16, s8:      A register r: row g + 8 * r, columns 4t + {0..3};  B: rows (k) 4t + {0..3}, column g
//   C, D of all:       element e: row g + 8 * (e >> 1), column 2t + (e & 1)
//   ldmatrix:          lane i of 8 * N gives the address of row i % 8 of matrix i / 8 (16 bytes, 16-byte aligned);
//                      register j: row g, columns 2t + {0, 1} of matrix j; _trans: rows 2t + {0, 1}, column g
#pragma once

#include "ops/cuda/platform.h"

namespace penstock::cuda {

// What 16-bit operands are.
struct F16 {};
struct Bf16 {};

#if PENSTOCK_CUDA_EMULATED

inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], F16) { simt::mma_f16(c, a, b); }
inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Bf16) {
  simt::mma_bf16(c, a, b);
}
inline void mma_m16n8k32_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { simt::mma_s8_k32(c, a, b); }
inline void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int32_t (&c)[4]) {
  for (int i = 0; i < 4; ++i) d[i] = c[i];
  simt::mma_s8_k32(d, a, b);
}
inline void mma_m16n8k16_s8(int32_t (&d)[4], const uint32_t (&a)[2], uint32_t b, const int32_t (&c)[4]) {
  for (int i = 0; i < 4; ++i) d[i] = c[i];
  simt::mma_s8_k16(d, a, b);
}

inline int32_t kept_register(int32_t value) { return value; }

inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared) { simt::ldmatrix(r, 2, shared, false); }
inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared) { simt::ldmatrix(r, 4, shared, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) { simt::ldmatrix(r, 4, shared, true); }

inline void cp_async_16(void* shared, const void* global, bool valid = true) { simt::cp_async(shared, global, 16, valid); }
inline void cp_async_8(void* shared, const void* global, bool valid) { simt::cp_async(shared, global, 8, valid); }
inline void cp_async_4(void* shared, const void* global, bool valid) { simt::cp_async(shared, global, 4, valid); }
inline void cp_async_commit() { simt::cp_async_commit(); }
template <int kPending>
inline void cp_async_wait() {
  simt::cp_async_wait(kPending);
}

inline void named_barrier_sync(int id, int threads) { simt::named_barrier_sync(id, threads); }

inline float exp2_approx(float x) {
  const float power = exp2f(x);
  return power < 0x1p-126f ? 0.0f : power;
}

#elif defined(__CUDACC__)

// c [16, 8] += a [16, 16] * b [16, 8], accumulated in f32.
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], F16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Bf16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c [16, 8] += a [16, 32] * b [32, 8], exact.
__device__ __forceinline__ void mma_m16n8k32_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d [16, 8] = a [16, 32] * b [32, 8] + c, exact.
__device__ __forceinline__ void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                const int32_t (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}
// d [16, 8] = a [16, 16] * b [16, 8] + c, exact.
__device__ __forceinline__ void mma_m16n8k16_s8(int32_t (&d)[4], const uint32_t (&a)[2], uint32_t b, const int32_t (&c)[4]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5},{%6},{%7,%8,%9,%10};"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

// A constant that stays in a register of its own, where the compiler would move it to where it is used each time.
__device__ __forceinline__ int32_t kept_register(int32_t value) {
  int32_t kept;
  asm volatile("mov.b32 %0,%1;" : "=r"(kept) : "r"(value));
  return kept;
}

// The address within shared memory that its instructions take.
__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// 8x8 matrices of 16-bit elements from shared memory; see the header. The whole warp takes part.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

// 16 bytes from device memory into shared memory, both 16-byte aligned; there after cp_async_wait, for other threads after a
// barrier behind that. Not valid: zeros, and `global` is not read.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
// The same of 8 and of 4 bytes, at multiples of as many.
__device__ __forceinline__ void cp_async_8(void* shared, const void* global, bool valid) {
  const int bytes = valid ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0],[%1],8,%2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool valid) {
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}
// What this thread has copied since the last commit becomes one group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's groups, the youngest, are on their way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Barrier `id` in 1..15 (0 is __syncthreads), which `threads` threads, whole warps, reach.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0,%1;" ::"r"(id), "r"(threads) : "memory");
}

// 2^x to about 2 ulp; exactly 1 at 0, 0 at -infinity; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(power) : "f"(x));
  return power;
}

#endif

}  // namespace penstock::cuda
