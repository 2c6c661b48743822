// From options to a model that runs on a CUDA device. Owns the order of loading and how the device's memory is divided.
#pragma once

#include <memory>

#include "model/load.h"

namespace penstock {

// For LoadOptions::cuda. Throws as load_model().
std::unique_ptr<Runner> load_cuda_model(const LoadOptions& options);

}  // namespace penstock
