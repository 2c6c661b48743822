// See layer_events.h.
#include "model/cuda/layer_events.h"

namespace penstock::cuda {

LayerEvents::LayerEvents(int32_t layers) {
  for (int32_t i = 0; i < layers; ++i) events_.emplace_back(Event::Use::waited);
  recorded_.reserve(static_cast<size_t>(layers));
}

void LayerEvents::begin(StepWatch* watch) {
  watch_ = watch;
  recorded_.clear();
}

void LayerEvents::stored(const Stream& stream, int32_t layers) {
  const bool is_last = layers == static_cast<int32_t>(events_.size());
  if (watch_ == nullptr || (!is_last && !watch_->wants(layers))) return;
  events_[static_cast<size_t>(layers - 1)].record(stream);
  recorded_.push_back(layers);
}

void LayerEvents::tell() {
  for (const int32_t layers : recorded_) {
    events_[static_cast<size_t>(layers - 1)].wait();
    watch_->layers_stored(layers);
  }
}

}  // namespace penstock::cuda
