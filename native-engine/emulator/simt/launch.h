// From a typed launch to blocks that run. Owns the copy of the arguments and what is checked of them; block.h runs one block.
#pragma once

#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/block.h"
#include "simt/runtime.h"

namespace simt {

// A kernel's pointer argument must be device or pinned memory.
void check_pointer(const void* pointer, size_t argument, const void* kernel);
// The same for what looks like a pointer in a struct: a word that is the address of memory of the host. A member that nobody
// has set can look so too; it had better be set.
void check_words(const void* value, size_t bytes, size_t argument, const void* kernel);
// Checks the shape and enqueues; `arguments` is what kernel.call gets.
cudaError_t enqueue_kernel(const void* function, Kernel kernel, std::shared_ptr<const void> arguments, cudaStream_t stream);

template <class T>
void check_argument(const T& value, size_t argument, const void* kernel) {
  if constexpr (std::is_pointer_v<T> && !std::is_function_v<std::remove_pointer_t<T>>)
    check_pointer(value, argument, kernel);
#if __has_builtin(__builtin_clear_padding)
  // What lies between members is whatever was on the stack.
  if constexpr (std::is_class_v<T> && std::is_trivially_copyable_v<T>) {
    T members = value;
    __builtin_clear_padding(&members);
    check_words(&members, sizeof members, argument, kernel);
  }
#endif
}

// early: it may begin beside the end of the kernel before it. Here none does, but each of its threads has to call
// wait_for_previous().
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   std::tuple<std::decay_t<Parameters>...> values, bool early = false) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> values;
  };
  const void* const function = reinterpret_cast<const void*>(kernel);
  [&]<size_t... I>(std::index_sequence<I...>) {
    (check_argument(std::get<I>(values), I, function), ...);
  }(std::index_sequence_for<Parameters...>{});
  Kernel launched;
  launched.grid = grid;
  launched.block = block;
  launched.shared_bytes = shared_bytes;
  launched.early = early;
  launched.call = [](const void* arguments) {
    const Call& call = *static_cast<const Call*>(arguments);
    std::apply(call.kernel, call.values);
  };
  return enqueue_kernel(function, launched, std::make_shared<const Call>(Call{kernel, std::move(values)}), stream);
}

}  // namespace simt
