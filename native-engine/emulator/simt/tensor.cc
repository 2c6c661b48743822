#include "simt/tensor.h"

#include <cstring>

#include "simt/arena.h"
#include "simt/half.h"
#include "simt/report.h"

#if SIMT_TSAN
extern "C" {
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
}
#endif

namespace simt {
namespace {
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;
constexpr uint32_t kM = 16, kN = 8;

void whole_warp(uint32_t arrived, const char* what) {
  if (arrived != kAllLanes) fail(Fault::wrong_mask, "%s takes a whole warp, here lanes %08x", what, arrived);
}

void checked_read([[maybe_unused]] const void* address, [[maybe_unused]] size_t bytes) {
#if SIMT_TSAN
  __tsan_read_range(const_cast<void*>(address), bytes);
#endif
}
void checked_write([[maybe_unused]] void* address, [[maybe_unused]] size_t bytes) {
#if SIMT_TSAN
  __tsan_write_range(address, bytes);
#endif
}

bool is_device_memory(const void* address, size_t bytes) {
  const Unobserved unobserved;
  return Arena::instance().contains(address, bytes);
}

struct Mma16 {
  float (*c)[4];
  const uint32_t (*a)[4];
  const uint32_t (*b)[2];
};

template <float (*kToFloat)(uint16_t)>
void combine_mma16(void* const* slots, uint32_t arrived) {
  constexpr uint32_t kK = 16;
  whole_warp(arrived, "mma");
  // Gathered as bits, then converted in one loop each.
  uint16_t a_bits[kM * kK], b_bits[kK * kN];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const Mma16& slot = *static_cast<const Mma16*>(slots[lane]);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t r = 0; r < 4; ++r) {
      const uint32_t at = (g + 8 * (r & 1)) * kK + 2 * t + 8 * (r >> 1);
      std::memcpy(&a_bits[at], &(*slot.a)[r], sizeof(uint32_t));
    }
    for (uint32_t r = 0; r < 2; ++r) {
      const uint32_t pair = (*slot.b)[r];
      b_bits[(2 * t + 8 * r) * kN + g] = static_cast<uint16_t>(pair);
      b_bits[(2 * t + 8 * r + 1) * kN + g] = static_cast<uint16_t>(pair >> 16);
    }
  }
  float a[kM * kK], b[kK * kN];
  for (uint32_t i = 0; i < kM * kK; ++i) a[i] = kToFloat(a_bits[i]);
  for (uint32_t i = 0; i < kK * kN; ++i) b[i] = kToFloat(b_bits[i]);
  float c[kM][kN];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const Mma16& slot = *static_cast<const Mma16*>(slots[lane]);
    for (uint32_t e = 0; e < 4; ++e) c[lane / 4 + 8 * (e >> 1)][2 * (lane % 4) + (e & 1)] = (*slot.c)[e];
  }
  for (uint32_t m = 0; m < kM; ++m)
    for (uint32_t k = 0; k < kK; ++k)
      for (uint32_t n = 0; n < kN; ++n) c[m][n] += a[m * kK + k] * b[k * kN + n];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const Mma16& slot = *static_cast<const Mma16*>(slots[lane]);
    for (uint32_t e = 0; e < 4; ++e) (*slot.c)[e] = c[lane / 4 + 8 * (e >> 1)][2 * (lane % 4) + (e & 1)];
  }
}

struct Mma8 {
  int32_t (*c)[4];
  const uint32_t* a;
  const uint32_t* b;
};

// kSteps of 16 columns: register pairs of a, registers of b.
template <uint32_t kSteps>
void combine_mma8(void* const* slots, uint32_t arrived) {
  constexpr uint32_t kK = 16 * kSteps;
  whole_warp(arrived, "mma");
  int8_t a[kM][kK];
  int8_t b[kN][kK];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const Mma8& slot = *static_cast<const Mma8*>(slots[lane]);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t r = 0; r < 2 * kSteps; ++r) std::memcpy(&a[g + 8 * (r & 1)][4 * t + 16 * (r >> 1)], &slot.a[r], 4);
    for (uint32_t r = 0; r < kSteps; ++r) std::memcpy(&b[g][4 * t + 16 * r], &slot.b[r], 4);
  }
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const Mma8& slot = *static_cast<const Mma8*>(slots[lane]);
    for (uint32_t e = 0; e < 4; ++e) {
      const int8_t* const row = a[lane / 4 + 8 * (e >> 1)];
      const int8_t* const column = b[2 * (lane % 4) + (e & 1)];
      int32_t sum = 0;
      for (uint32_t k = 0; k < kK; ++k) sum += row[k] * column[k];
      // Wraps, as the instruction without .satfinite does.
      (*slot.c)[e] = static_cast<int32_t>(static_cast<uint32_t>((*slot.c)[e]) + static_cast<uint32_t>(sum));
    }
  }
}

struct LoadSlot {
  uint32_t* r;
  const std::byte* row;
  int count;
  bool transpose;
};

void combine_ldmatrix(void* const* slots, uint32_t arrived) {
  constexpr size_t kRowBytes = 16;
  whole_warp(arrived, "ldmatrix");
  const LoadSlot& first = *static_cast<const LoadSlot*>(slots[0]);
  const uint32_t rows = 8 * static_cast<uint32_t>(first.count);
  uint16_t elements[32][8];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const LoadSlot& slot = *static_cast<const LoadSlot*>(slots[lane]);
    if (slot.count != first.count || slot.transpose != first.transpose)
      fail(Fault::mismatched_operation, "lanes of a warp meet at different forms of ldmatrix");
    if (lane >= rows) continue;
    if (reinterpret_cast<uintptr_t>(slot.row) % kRowBytes != 0)
      fail(Fault::misaligned, "ldmatrix: the row of lane %u is at %p, which is not a multiple of 16", lane,
           static_cast<const void*>(slot.row));
    if (!current_block->shared.contains(slot.row, kRowBytes))
      fail(Fault::shared_out_of_bounds, "ldmatrix: the row of lane %u, %p, is not within shared memory", lane,
           static_cast<const void*>(slot.row));
    checked_read(slot.row, kRowBytes);
    std::memcpy(elements[lane], slot.row, kRowBytes);
  }
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const LoadSlot& slot = *static_cast<const LoadSlot*>(slots[lane]);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t j = 0; j < static_cast<uint32_t>(slot.count); ++j) {
      const uint16_t low = slot.transpose ? elements[8 * j + 2 * t][g] : elements[8 * j + g][2 * t];
      const uint16_t high = slot.transpose ? elements[8 * j + 2 * t + 1][g] : elements[8 * j + g][2 * t + 1];
      slot.r[j] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}
}  // namespace

void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  Mma16 slot{&c, &a, &b};
  current_block->meet(WarpOp::mma, kAllLanes, &slot, &combine_mma16<half_bits_to_float>, site);
}
void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  Mma16 slot{&c, &a, &b};
  current_block->meet(WarpOp::mma, kAllLanes, &slot, &combine_mma16<bfloat16_bits_to_float>, site);
}
void mma_s8_k32(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  Mma8 slot{&c, a, b};
  current_block->meet(WarpOp::mma, kAllLanes, &slot, &combine_mma8<2>, site);
}
void mma_s8_k16(int32_t (&c)[4], const uint32_t (&a)[2], uint32_t b, Site site) {
  Mma8 slot{&c, a, &b};
  current_block->meet(WarpOp::mma, kAllLanes, &slot, &combine_mma8<1>, site);
}

void ldmatrix(uint32_t* r, int count, const void* shared, bool transpose, Site site) {
  LoadSlot slot{r, static_cast<const std::byte*>(shared), count, transpose};
  current_block->meet(WarpOp::ldmatrix, kAllLanes, &slot, &combine_ldmatrix, site);
}

void cp_async(void* shared, const void* global, int bytes, bool valid, Site site) {
  const auto count = static_cast<size_t>(bytes);
  const unsigned line = static_cast<unsigned>(site.line());
  if (reinterpret_cast<uintptr_t>(shared) % count != 0 || (valid && reinterpret_cast<uintptr_t>(global) % count != 0))
    fail(Fault::misaligned, "cp.async at line %u copies from %p to %p: both must be multiples of %d", line, global, shared, bytes);
  if (!current_block->shared.contains(shared, count))
    fail(Fault::shared_out_of_bounds, "cp.async at line %u: the target %p is not within shared memory", line, shared);
  if (valid && !is_device_memory(global, count))
    fail(Fault::global_out_of_bounds, "cp.async at line %u: the source %p is not within device memory", line, global);
  checked_write(shared, count);
  std::memset(shared, kSharedPoison, count);
  Lane& lane = *current_lane;
  const Unobserved unobserved;
  lane.copies.push_back(
      {static_cast<std::byte*>(shared), valid ? static_cast<const std::byte*>(global) : nullptr, lane.committed, count});
}

void cp_async_commit() { ++current_lane->committed; }

// Groups before this number are waited for. What was never committed is in none.
void cp_async_wait(int pending_groups) {
  Lane& lane = *current_lane;
  const uint32_t pending = static_cast<uint32_t>(pending_groups);
  const uint32_t until = lane.committed > pending ? lane.committed - pending : 0;
  size_t kept = 0;
  for (const PendingCopy& copy : lane.copies) {
    if (copy.group >= until) {
      lane.copies[kept++] = copy;
      continue;
    }
    checked_write(copy.target, copy.bytes);
    if (copy.source == nullptr) {
      std::memset(copy.target, 0, copy.bytes);
    } else {
      checked_read(copy.source, copy.bytes);
      std::memcpy(copy.target, copy.source, copy.bytes);
    }
  }
  lane.copies.resize(kept);
}

}  // namespace simt
