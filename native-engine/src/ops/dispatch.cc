// Which implementation of ops.h runs. Asked once, when a model is loaded.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ops/ops.h"

namespace penstock {

#if !defined(__x86_64__)
const Kernels* avx2_kernels() { return nullptr; }
#endif

const Kernels& choose_kernels(KernelChoice choice) {
  if (choice == KernelChoice::automatic) {
    const char* named = std::getenv("PENSTOCK_KERNELS");
    const std::string_view name = named == nullptr ? "" : named;
    if (name == "reference") {
      choice = KernelChoice::reference;
    } else if (name == "avx2") {
      choice = KernelChoice::avx2;
    } else if (!name.empty()) {
      throw std::invalid_argument("PENSTOCK_KERNELS must be reference or avx2, not " + std::string(name));
    }
  }
  const Kernels* avx2 = avx2_kernels();
  if (choice == KernelChoice::avx2 && avx2 == nullptr) {
    throw std::invalid_argument("this processor or build has no AVX2, FMA and F16C");
  }
  if (choice == KernelChoice::reference || avx2 == nullptr) return reference_kernels();
  return *avx2;
}

}  // namespace penstock
