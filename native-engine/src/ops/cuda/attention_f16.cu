// Attention over a cache in F16: the kernels of attention_kernel.cuh for it. A file of its own, since each takes long
// to compile.
#include "ops/cuda/attention_kernel.cuh"

namespace penstock::cuda {

AttentionLaunch attention_launch_f16(int32_t head_dim, bool decode) {
  return attention_launch_for<KvType::f16>(head_dim, decode);
}

}  // namespace penstock::cuda
