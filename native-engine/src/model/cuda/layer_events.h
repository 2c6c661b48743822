// How far a step is on the device, for the watch of the step. Owns an event for each layer; what a watch does is its own.
//
// An event stands in the stream behind the kernel that stores the layer's K and V, and has happened when everything before it has
// ended and can be read from other streams. That kernel may have been launched early, beside the one before it
// (platform.h): it ends only when that has ended, so this means all kernels. The one behind the event may lose its early start: that
// is the price of an event, and why there is one for each group of layers that a watch wants to hear of, and not for each layer.
//
// The thread of forward() waits for them, once everything is enqueued, and nobody else does: so a watch is told in order, on that
// thread, of nothing that a failed call leaves open, and of nothing when forward() has returned.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "model/batch.h"
#include "ops/cuda/device.h"

namespace penstock::cuda {

class LayerEvents {
 public:
  explicit LayerEvents(int32_t layers);

  // Of the next step. nullptr: nobody is to be told.
  void begin(StepWatch* watch);
  // What stores K and V of the layers before `layers` is enqueued, and nothing behind it.
  void stored(const Stream& stream, int32_t layers);
  // Waits for the events of the step one after the other, and tells each. Throws CudaError.
  void tell();

 private:
  std::deque<Event> events_;       // of each layer; they cannot be moved
  std::vector<int32_t> recorded_;  // in the step under way: so many layers
  StepWatch* watch_ = nullptr;     // of the step under way
};

}  // namespace penstock::cuda
