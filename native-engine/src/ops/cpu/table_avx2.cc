// The AVX2 kernel table and the question whether this processor may use it.
#if defined(__x86_64__)
#include "ops/cpu/kernels_avx2.h"

namespace penstock {

const Kernels* avx2_kernels() {
  static const Kernels kernels = {
      "avx2",
      avx2::packed_bytes,
      avx2::pack,
      avx2::matrix_row,
      avx2::rms_norm,
      avx2::quantize,
      avx2::rope,
      avx2::swiglu,
      avx2::add,
      avx2::matmul,
      avx2::store_kv,
      avx2::attend_scratch_bytes,
      avx2::attend,
      avx2::merge_softmax,
      avx2::finish_softmax,
  };
  static const bool supported =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return supported ? &kernels : nullptr;
}

}  // namespace penstock
#endif
