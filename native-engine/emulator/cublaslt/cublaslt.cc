// The stand-in's products. What a caller must give is checked: layouts that fit each other, addresses as aligned as was promised to
// the heuristics, the algorithm of this very problem, a workspace of its size, memory of the device. A conflict that the library
// reports is a status and a line on stderr, one that it leaves undefined ends the process as a kernel's fault does.
//
// Whatever the documentation leaves open is made use of: the workspace is overwritten as a whole, and the order of a sum depends on
// how many columns the product has, so that whoever relies on either is found out.
#include "cublasLt.h"

#include <atomic>
#include <bit>
#include <cstring>

#include "simt/arena.h"
#include "simt/report.h"
#include "simt/simt.h"

struct cublasLtContext {
  int device;
};
struct cublasLtMatmulDescOpaque_t {
  int32_t compute, scale;
  int32_t transposed_a = CUBLAS_OP_N, transposed_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
};
struct cublasLtMatrixLayoutOpaque_t {
  uint32_t type;
  int32_t order = CUBLASLT_ORDER_COL;
  uint64_t rows, cols;
  int64_t ld;
  uint64_t bytes() const {
    return ((cols - 1) * static_cast<uint64_t>(ld) + rows) * (type == CUDA_R_32F ? sizeof(float) : sizeof(uint16_t));
  }
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace_bytes = 0;
  uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C, D
};

namespace {

using simt::Fault;

constexpr uint64_t kWorkspaceAlignment = 256;
constexpr uint32_t kThreads = 64;

std::atomic<uint64_t> products_done{0};
std::atomic<bool> has_algorithms{true};

cublasStatus_t refuse(cublasStatus_t status, const char* why) {
  simt::note("cuBLASLt: %s", why);
  return status;
}

template <class T>
cublasStatus_t set(T& field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof field) return refuse(CUBLAS_STATUS_INVALID_VALUE, "an attribute has another size");
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t get(const T& field, void* value, size_t bytes, size_t* written) {
  if (written != nullptr) *written = sizeof field;
  if (bytes == 0) return written != nullptr ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
  if (value == nullptr || bytes != sizeof field) return refuse(CUBLAS_STATUS_INVALID_VALUE, "an attribute has another size");
  std::memcpy(value, &field, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <class F>
cublasStatus_t with_field(cublasLtMatmulDescOpaque_t& desc, cublasLtMatmulDescAttributes_t attribute, const F& f) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
      return f(desc.compute);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
      return f(desc.scale);
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return f(desc.transposed_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return f(desc.transposed_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return f(desc.epilogue);
  }
  return refuse(CUBLAS_STATUS_INVALID_VALUE, "the stand-in does not know this attribute");
}

template <class F>
cublasStatus_t with_field(cublasLtMatrixLayoutOpaque_t& layout, cublasLtMatrixLayoutAttribute_t attribute, const F& f) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return f(layout.type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return f(layout.order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return f(layout.rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return f(layout.cols);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return f(layout.ld);
  }
  return refuse(CUBLAS_STATUS_INVALID_VALUE, "the stand-in does not know this attribute");
}

// D [m, n] = alpha op(A) [m, k] op(B) [k, n] + beta C, columns behind each other.
struct Product {
  const uint16_t* a;
  const uint16_t* b;
  const float* c;
  float* d;
  uint64_t m, n, k;
  int64_t lda, ldb, ldc, ldd;
  float alpha, beta;
  uint32_t is_transposed_a, is_transposed_b, is_bf16, unused = 0;
};

__device__ float value_of(const Product& p, uint16_t bits) {
  return p.is_bf16 != 0 ? simt::bfloat16_bits_to_float(bits) : simt::half_bits_to_float(bits);
}

__global__ void product_kernel(Product p) {
  const uint64_t element = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (element >= p.m * p.n) return;
  const uint64_t row = element % p.m, col = element / p.m;
  const auto lda = static_cast<uint64_t>(p.lda), ldb = static_cast<uint64_t>(p.ldb);
  const uint64_t parts = 1 + p.n % 3;
  float sum = 0;
  for (uint64_t part = 0; part < parts; ++part) {
    float partial = 0;
    for (uint64_t k = part; k < p.k; k += parts) {
      const uint16_t a = p.is_transposed_a != 0 ? p.a[row * lda + k] : p.a[k * lda + row];
      const uint16_t b = p.is_transposed_b != 0 ? p.b[k * ldb + col] : p.b[col * ldb + k];
      partial += value_of(p, a) * value_of(p, b);
    }
    sum += partial;
  }
  sum *= p.alpha;
  // With beta 0 the library does not read C, which may hold anything.
  if (p.beta != 0) sum += p.beta * p.c[col * static_cast<uint64_t>(p.ldc) + row];
  p.d[col * static_cast<uint64_t>(p.ldd) + row] = sum;
}

// What the heuristics and the product itself look at.
struct Problem {
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t a, b, c, d;

  bool is_transposed_a() const { return desc->transposed_a != CUBLAS_OP_N; }
  bool is_transposed_b() const { return desc->transposed_b != CUBLAS_OP_N; }
  uint64_t m() const { return is_transposed_a() ? a->cols : a->rows; }
  uint64_t k() const { return is_transposed_a() ? a->rows : a->cols; }
  uint64_t n() const { return is_transposed_b() ? b->rows : b->cols; }

  cublasStatus_t check() const {
    if (desc == nullptr || a == nullptr || b == nullptr || c == nullptr || d == nullptr)
      return refuse(CUBLAS_STATUS_INVALID_VALUE, "a descriptor is missing");
    for (const cublasLtMatrixLayout_t layout : {a, b, c, d}) {
      if (layout->order != CUBLASLT_ORDER_COL) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "the stand-in knows columns alone");
      if (layout->rows == 0 || layout->cols == 0) return refuse(CUBLAS_STATUS_INVALID_VALUE, "a matrix is empty");
      if (layout->ld < 0 || static_cast<uint64_t>(layout->ld) < layout->rows)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "a leading dimension is smaller than its column");
    }
    if ((is_transposed_b() ? b->cols : b->rows) != k())
      return refuse(CUBLAS_STATUS_INVALID_VALUE, "A and B do not fit each other");
    if (d->rows != m() || d->cols != n()) return refuse(CUBLAS_STATUS_INVALID_VALUE, "D has not the shape of the product");
    if (c->rows != d->rows || c->cols != d->cols || c->type != d->type)
      return refuse(CUBLAS_STATUS_INVALID_VALUE, "C is not like D");
    const bool halves = a->type == CUDA_R_16F || a->type == CUDA_R_16BF;
    if (desc->compute != CUBLAS_COMPUTE_32F || desc->scale != CUDA_R_32F || !halves || b->type != a->type || d->type != CUDA_R_32F)
      return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "these types are not among those of the stand-in");
    if (desc->epilogue != CUBLASLT_EPILOGUE_DEFAULT) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "the stand-in has no epilogues");
    return CUBLAS_STATUS_SUCCESS;
  }

  // An algorithm is for one problem, the alignment that was promised, and a workspace.
  cublasLtMatmulAlgo_t algorithm(uint64_t alignments, uint64_t workspace_bytes) const {
    const uint64_t forms = a->type | uint64_t{is_transposed_a()} << 8 | uint64_t{is_transposed_b()} << 9;
    return {{m(), n(), k() << 10 | forms, static_cast<uint64_t>(a->ld) << 32 | static_cast<uint64_t>(b->ld),
             static_cast<uint64_t>(c->ld), static_cast<uint64_t>(d->ld), alignments, workspace_bytes}};
  }
};

// The library would read or write there: what happens then is not said.
void require_memory(const char* what, const void* data, uint64_t bytes, uint64_t alignment) {
  if (reinterpret_cast<uintptr_t>(data) % alignment != 0)
    simt::fail(Fault::misaligned, "cublasLtMatmul: %s at %p is not at a multiple of %llu bytes", what, data,
               static_cast<unsigned long long>(alignment));
  simt::Allocation found{};
  if (simt::Arena::instance().find(data, bytes, found)) return;
  bool freed = false;
  if (!simt::Arena::instance().owns(data)) simt::fail(Fault::bad_pointer, "cublasLtMatmul: %s at %p is memory of the host", what, data);
  simt::fail(Fault::global_out_of_bounds, "cublasLtMatmul: %s, %llu bytes: %s", what, static_cast<unsigned long long>(bytes),
             simt::Arena::instance().describe(data, freed).c_str());
}

}  // namespace

namespace simt::cublaslt {
uint64_t products() { return products_done; }
void set_has_algorithms(bool has) { has_algorithms = has; }
}  // namespace simt::cublaslt

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  int device = 0;
  if (handle == nullptr || cudaGetDevice(&device) != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new cublasLtContext{device};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  *desc = new cublasLtMatmulDescOpaque_t{.compute = compute, .scale = scale};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  return with_field(*desc, attribute, [&](auto& field) { return set(field, value, bytes); });
}
cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              void* value, size_t bytes, size_t* written) {
  return with_field(*desc, attribute, [&](auto& field) { return get(field, value, bytes, written); });
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
  // As the library: what does not fit is found out when it is used.
  *layout = new cublasLtMatrixLayoutOpaque_t{.type = static_cast<uint32_t>(type), .rows = rows, .cols = cols, .ld = ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  return with_field(*layout, attribute, [&](auto& field) { return set(field, value, bytes); });
}
cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                void* value, size_t bytes, size_t* written) {
  return with_field(*layout, attribute, [&](auto& field) { return get(field, value, bytes, written); });
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return set(preference->workspace_bytes, value, bytes);
  return set(preference->alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (preference == nullptr || results == nullptr || count == nullptr || wanted <= 0)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "nothing is asked of the heuristics");
  *count = 0;
  const Problem problem{desc, a, b, c, d};
  if (const cublasStatus_t status = problem.check(); status != CUBLAS_STATUS_SUCCESS) return status;
  if (!has_algorithms) return CUBLAS_STATUS_NOT_SUPPORTED;
  uint64_t alignments = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t alignment = preference->alignments[i];
    if (!std::has_single_bit(alignment) || alignment > 256)
      return refuse(CUBLAS_STATUS_INVALID_VALUE, "an alignment is no power of two");
    alignments |= uint64_t{alignment} << 16 * i;
  }
  results[0] = {};
  results[0].algo = problem.algorithm(alignments, preference->workspace_bytes);
  results[0].workspaceSize = preference->workspace_bytes;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const Problem problem{desc, a_layout, b_layout, c_layout, d_layout};
  if (const cublasStatus_t status = problem.check(); status != CUBLAS_STATUS_SUCCESS) return status;
  if (alpha == nullptr || beta == nullptr) return refuse(CUBLAS_STATUS_INVALID_VALUE, "alpha or beta is missing");
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (device != handle->device) return refuse(CUBLAS_STATUS_INVALID_VALUE, "the handle belongs to another device");
  // Without an algorithm the library asks its heuristics itself, and trusts that everything lies at 256 bytes.
  constexpr uint64_t kDefaults = 256 | 256 << 16 | uint64_t{256} << 32 | uint64_t{256} << 48;
  const uint64_t alignments = algorithm != nullptr ? algorithm->data[6] : kDefaults;
  const uint64_t needed = algorithm != nullptr ? algorithm->data[7] : 0;
  if (algorithm != nullptr) {
    const cublasLtMatmulAlgo_t own = problem.algorithm(alignments, needed);
    if (std::memcmp(&own, algorithm, sizeof own) != 0)
      return refuse(CUBLAS_STATUS_INVALID_VALUE, "the algorithm is that of another problem");
  }
  if (workspace_bytes < needed) return refuse(CUBLAS_STATUS_INVALID_VALUE, "the workspace is smaller than the algorithm's");
  const auto aligned_for = [&](int i) { return alignments >> 16 * i & 0xFFFF; };
  require_memory("A", a, a_layout->bytes(), aligned_for(0));
  require_memory("B", b, b_layout->bytes(), aligned_for(1));
  require_memory("C", c, c_layout->bytes(), aligned_for(2));
  require_memory("D", d, d_layout->bytes(), aligned_for(3));
  if (needed > 0) {
    require_memory("the workspace", workspace, workspace_bytes, kWorkspaceAlignment);
    if (cudaMemsetAsync(workspace, 0xFF, workspace_bytes, stream) != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
  }
  const Product product{.a = static_cast<const uint16_t*>(a),
                        .b = static_cast<const uint16_t*>(b),
                        .c = static_cast<const float*>(c),
                        .d = static_cast<float*>(d),
                        .m = problem.m(),
                        .n = problem.n(),
                        .k = problem.k(),
                        .lda = a_layout->ld,
                        .ldb = b_layout->ld,
                        .ldc = c_layout->ld,
                        .ldd = d_layout->ld,
                        .alpha = *static_cast<const float*>(alpha),
                        .beta = *static_cast<const float*>(beta),
                        .is_transposed_a = problem.is_transposed_a(),
                        .is_transposed_b = problem.is_transposed_b(),
                        .is_bf16 = a_layout->type == CUDA_R_16BF};
  const auto blocks = static_cast<uint32_t>((problem.m() * problem.n() + kThreads - 1) / kThreads);
  if (simt::launch(product_kernel, dim3(blocks), dim3(kThreads), 0, stream, std::tuple(product)) != cudaSuccess)
    return CUBLAS_STATUS_EXECUTION_FAILED;
  ++products_done;
  return CUBLAS_STATUS_SUCCESS;
}
