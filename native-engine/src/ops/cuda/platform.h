// One source for two platforms: nvcc with NVIDIA's headers, or any C++20 compiler with the emulator (emulator/README.md), whose
// headers being on the include path is what chooses. Owns shared memory's macros, launch() and CudaError; the instructions are
// ptx.cuh.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#if !defined(__CUDACC__) && __has_include("simt/simt.h")
#define PENSTOCK_CUDA_EMULATED 1
#include "simt/simt.h"
#else
#define PENSTOCK_CUDA_EMULATED 0
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

// An array in a block's shared memory, at 16 bytes: PENSTOCK_SHARED(float, tile, [32][33]);
#if PENSTOCK_CUDA_EMULATED
#define PENSTOCK_SHARED(type, name, dimensions) SIMT_SHARED(type, name, dimensions)
#else
#define PENSTOCK_SHARED(type, name, dimensions) __shared__ __align__(16) type name dimensions
#endif

// Before a loop of a constant number of turns whose body indexes registers; and before one that is not worth the registers of
// unrolling it further.
#if defined(__CUDACC__)
#define PENSTOCK_UNROLL _Pragma("unroll")
#define PENSTOCK_PRAGMA(text) _Pragma(#text)
#define PENSTOCK_UNROLL_BY(count) PENSTOCK_PRAGMA(unroll count)
#else
#define PENSTOCK_UNROLL
#define PENSTOCK_UNROLL_BY(count)
#endif

namespace penstock::cuda {

// A call of the runtime that failed. Sticky: the context is lost, every later call fails, only a new process helps.
class CudaError : public std::runtime_error {
 public:
  CudaError(const char* what, cudaError_t code)
      : std::runtime_error(std::string(what) + ": " + cudaGetErrorName(code) + ": " + cudaGetErrorString(code)),
        code_(code) {}
  cudaError_t code() const { return code_; }
  bool is_sticky() const {
    switch (code_) {
      case cudaErrorIllegalAddress:
      case cudaErrorIllegalInstruction:
      case cudaErrorMisalignedAddress:
      case cudaErrorInvalidAddressSpace:
      case cudaErrorInvalidPc:
      case cudaErrorLaunchFailure:
      case cudaErrorLaunchTimeout:
      case cudaErrorAssert:
      case cudaErrorHardwareStackError:
      case cudaErrorECCUncorrectable:
      case cudaErrorUnknown:
        return true;
      default:
        return false;
    }
  }

 private:
  cudaError_t code_;
};

// Throws what is not cudaSuccess. `what` is the call, for people.
inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  (void)cudaGetLastError();  // of a call that failed alone, the runtime keeps no memory; what is sticky comes again
  throw CudaError(what, code);
}

// What is so on a device, asked for once there: attributes of a kernel are those it has on the device that is current at the call.
// Two threads that are the first may both ask.
class PerDevice {
 public:
  // What ask(), which says yes or no, said on this device.
  template <class Ask>
  bool is(Ask&& ask) {
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    if (static_cast<size_t>(device) >= std::size(known_)) return ask();
    std::atomic<Answer>& known = known_[device];
    if (known.load(std::memory_order_acquire) == Answer::none)
      known.store(ask() ? Answer::yes : Answer::no, std::memory_order_release);
    return known.load(std::memory_order_acquire) == Answer::yes;
  }

 private:
  enum class Answer : uint8_t { none, yes, no };
  std::atomic<Answer> known_[64] = {};  // of devices with higher numbers it is asked each time
};

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic
  cudaStream_t stream = nullptr;
};

// Dynamic shared memory of the block, 16-byte aligned; there is one, so that several arrays are cut from it.
template <class T>
__device__ inline T* dynamic_shared() {
#if PENSTOCK_CUDA_EMULATED
  return static_cast<T*>(simt::dynamic_shared());
#elif defined(__CUDACC__)
  extern __shared__ uint4 penstock_dynamic_shared[];
  return reinterpret_cast<T*>(penstock_dynamic_shared);
#else
  return nullptr;  // a host compiler reads the header beside nvcc; it compiles no kernel
#endif
}

// What launch() and launch_early() share. early: beside the end of the kernel before it.
template <class... Parameters, class... Arguments>
void enqueue(bool early, void (*kernel)(Parameters...), const LaunchShape& shape, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "one argument for each parameter");
  static_assert((std::is_convertible_v<Arguments, Parameters> && ...), "an argument does not convert");
  std::tuple<std::decay_t<Parameters>...> values(static_cast<std::decay_t<Parameters>>(arguments)...);
#if PENSTOCK_CUDA_EMULATED
  check(simt::launch(kernel, shape.grid, shape.block, shape.shared_bytes, shape.stream, std::move(values), early), "launch");
#else
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)..., nullptr};
        check(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), pointers), "launch");
      },
      values);
#endif
}

// Enqueues a kernel. Each argument converts to its parameter. Throws CudaError when the launch is refused; what happens on the
// device later comes out of a later call.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Arguments&&... arguments) {
  enqueue(false, kernel, shape, std::forward<Arguments>(arguments)...);
}

// A kernel begins with this where it is launched by launch_early(): behind it, all that kernels before it wrote is there. What comes
// before may read only what no kernel writes, e.g. weights, and so may __ldg() anywhere, which compilers move. All threads call it,
// as the emulator checks: a kernel's end has to mean that those before it have ended.
__device__ __forceinline__ void wait_for_previous() {
#if PENSTOCK_CUDA_EMULATED
  simt::wait_for_previous();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Rows of a step whose kernels are launched early: few, where starting kernels of some microseconds is a good part of the whole, or
// many. Measured on an H100 in the 8B shape: tokens per second +6 % with 1 row and +2 % with 512, but -12 % with 8 and -23 % with
// 32, where thread blocks that wait take room from those that read weights.
inline constexpr int32_t kEarlyRowsFew = 4;
inline constexpr int32_t kEarlyRowsMany = 128;

// Whether kernels wait on the current device: whether their machine code there was made for 9.0 or later. Of any kernel, since all
// are compiled for the same architectures.
inline bool waits_for_previous(const void* kernel) {
  static PerDevice known;
  return known.is([&] {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
    return attributes.ptxVersion >= 90 && attributes.binaryVersion >= 90;
  });
}

// As launch(), but the kernel may take its place beside the last thread blocks of the one before it, up to wait_for_previous()
// (programmatic dependent launch, from compute capability 9.0 on). Like launch() with other numbers of rows, on other chips, and
// where machine code was made of an older architecture's, whose kernels do not wait.
template <class... Parameters, class... Arguments>
void launch_early([[maybe_unused]] int32_t rows, void (*kernel)(Parameters...), const LaunchShape& shape,
                  Arguments&&... arguments) {
#if PENSTOCK_CUDA_EMULATED
  constexpr bool kEarly = true;  // whatever the rows: it looks whether every thread waits
  enqueue(kEarly, kernel, shape, std::forward<Arguments>(arguments)...);
#else
  const bool early = (rows <= kEarlyRowsFew || rows >= kEarlyRowsMany) && waits_for_previous(reinterpret_cast<const void*>(kernel));
  enqueue(early, kernel, shape, std::forward<Arguments>(arguments)...);
#endif
}

// Before a kernel is launched with more than 48 KB of dynamic shared memory. `allowed` is the kernel's own, `bytes` the most that any
// launch of it takes.
template <class... Parameters>
void allow_shared(PerDevice& allowed, void (*kernel)(Parameters...), size_t bytes) {
  allowed.is([&] {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)),
          "allow_shared");
    return true;
  });
}

}  // namespace penstock::cuda
