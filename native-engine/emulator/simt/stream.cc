#include "simt/stream.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "simt/report.h"

namespace simt {

Runtime& Runtime::instance() {
  static Runtime* const runtime = new Runtime;
  return *runtime;
}

Runtime::Runtime() { streams.push_back(std::make_unique<CUstream_st>()); }

namespace {
constinit thread_local cudaError_t last_error = cudaSuccess;

bool stays(cudaError_t error) {
  return error == cudaErrorECCUncorrectable || (error >= cudaErrorIllegalAddress && error <= cudaErrorLaunchFailure &&
                                                error != cudaErrorLaunchOutOfResources &&
                                                error != cudaErrorPeerAccessAlreadyEnabled &&
                                                error != cudaErrorPeerAccessNotEnabled &&
                                                error != cudaErrorHostMemoryAlreadyRegistered &&
                                                error != cudaErrorHostMemoryNotRegistered);
}
}  // namespace

cudaError_t Runtime::begin_call() {
  static const char* const lost_when = std::getenv("SIMT_LOST_WHEN");
  if (lost_when != nullptr && access(lost_when, F_OK) == 0) sticky = cudaErrorIllegalAddress;
  if (sticky != cudaSuccess) return sticky;
  if (!injected) return cudaSuccess;
  if (injected->second > 0) {
    --injected->second;
    return cudaSuccess;
  }
  const cudaError_t error = injected->first;
  injected.reset();
  if (stays(error)) sticky = error;
  return error;
}

cudaError_t Runtime::end_call(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

uint64_t Runtime::random() {
  if (random_ == 0) random_ = (seed + 1) * 0x9E3779B97F4A7C15u | 1u;
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_ >> 11;
}

CUstream_st* Runtime::stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread) return streams[0].get();
  for (const auto& each : streams)
    if (each.get() == handle && !each->is_destroyed) return handle;
  note("there is no stream %p", static_cast<void*>(handle));
  return nullptr;
}

cudaError_t Runtime::forbid_in_capture(const CUstream_st* stream) {
  for (const auto& capture : captures) {
    const bool concerns = stream == nullptr
                              ? capture->mode != cudaStreamCaptureModeRelaxed
                              : std::find(capture->streams.begin(), capture->streams.end(), stream) !=
                                    capture->streams.end();
    if (!concerns) continue;
    capture->valid = false;
    note("a call that waits or allocates cannot be captured into a graph");
    return cudaErrorStreamCaptureUnsupported;
  }
  return cudaSuccess;
}

cudaError_t Runtime::enqueue(cudaStream_t handle, std::function<void()> run, bool may_capture) {
  CUstream_st* const target = stream(handle);
  if (target == nullptr) return cudaErrorInvalidResourceHandle;
  if (target->capture != nullptr) {
    Capture& capture = *target->capture;
    if (!capture.valid) return cudaErrorStreamCaptureInvalidated;
    if (!may_capture) {
      capture.valid = false;
      return cudaErrorStreamCaptureUnsupported;
    }
    capture.nodes.push_back({std::move(run), target->capture_after});
    target->capture_after = {capture.nodes.size() - 1};
    return cudaSuccess;
  }
  const bool is_legacy = target == streams[0].get();
  if (is_legacy) {
    for (const auto& capture : captures) {
      // The default stream would wait for a stream whose work never runs.
      if (!capture->origin->is_blocking || capture->mode == cudaStreamCaptureModeRelaxed) continue;
      capture->valid = false;
      note("the default stream is used while a stream that waits for it is captured");
      return cudaErrorStreamCaptureImplicit;
    }
  }
  Work work{std::move(run), {}, std::make_shared<Progress>()};
  if (mode == Streams::eager) {
    work.run();
    work.mark->done = true;
    target->last = work.mark;
    return cudaSuccess;
  }
  // The default stream and streams that are not cudaStreamNonBlocking wait for each other.
  if (is_legacy) {
    for (const auto& each : streams)
      if (each->is_blocking && each->last != nullptr && !each->last->done) work.after.push_back(each->last);
  } else if (target->is_blocking && streams[0]->last != nullptr && !streams[0]->last->done) {
    work.after.push_back(streams[0]->last);
  }
  target->last = work.mark;
  target->queue.push_back(std::move(work));
  return cudaSuccess;
}

bool Runtime::ready(const CUstream_st& each) const {
  if (each.queue.empty()) return false;
  return std::all_of(each.queue.front().after.begin(), each.queue.front().after.end(),
                     [](const Mark& mark) { return mark->done; });
}

bool Runtime::step() {
  std::vector<CUstream_st*> able;
  for (const auto& each : streams)
    if (ready(*each)) able.push_back(each.get());
  if (able.empty()) return false;
  run_front(able[random() % able.size()]);
  return true;
}

void Runtime::run_front(CUstream_st* chosen) {
  Work work = std::move(chosen->queue.front());
  chosen->queue.pop_front();
  work.run();
  work.mark->done = true;
  if (chosen->is_destroyed && chosen->queue.empty())
    std::erase_if(streams, [&](const auto& each) { return each.get() == chosen; });
}

bool Runtime::step_towards(const Mark& mark) {
  if (mode != Streams::late) return step();
  for (const auto& each : streams) {
    const auto has = [&](const Work& work) { return work.mark == mark; };
    if (std::none_of(each->queue.begin(), each->queue.end(), has)) continue;
    for (const Mark& before : each->queue.front().after)
      if (!before->done) return step_towards(before);
    run_front(each.get());
    return true;
  }
  return false;
}

void Runtime::wait(const Mark& mark) {
  while (mark != nullptr && !mark->done && step_towards(mark)) {
  }
}

void Runtime::wait(CUstream_st* stream) { wait(Mark(stream->last)); }

void Runtime::wait_all() {
  while (step()) {
  }
}

void set_streams(Streams mode, uint64_t seed) {
  Runtime& runtime = Runtime::instance();
  const std::lock_guard lock(runtime.mutex);
  runtime.wait_all();
  runtime.mode = mode;
  runtime.seed = seed;
}

void fail_call(cudaError_t error, uint64_t calls) {
  Runtime& runtime = Runtime::instance();
  const std::lock_guard lock(runtime.mutex);
  runtime.injected = {error, calls};
}

void clear_errors() {
  Runtime& runtime = Runtime::instance();
  const std::lock_guard lock(runtime.mutex);
  runtime.injected.reset();
  runtime.sticky = cudaSuccess;
  last_error = cudaSuccess;
}

}  // namespace simt

using simt::api;
using simt::Runtime;

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  simt::last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() {
  Runtime& runtime = Runtime::instance();
  const std::lock_guard lock(runtime.mutex);
  return runtime.sticky != cudaSuccess ? runtime.sticky : simt::last_error;
}

// --- Streams ---------------------------------------------------------------------------------------------------------
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  return api([&](Runtime& runtime) {
    if (stream == nullptr || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    runtime.streams.push_back(std::make_unique<CUstream_st>());
    *stream = runtime.streams.back().get();
    (*stream)->is_blocking = flags != cudaStreamNonBlocking;
    cudaGetDevice(&(*stream)->device);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return api([&](Runtime& runtime) {
    CUstream_st* const stream = runtime.stream(handle);
    if (stream == nullptr || stream == runtime.streams[0].get()) return cudaErrorInvalidResourceHandle;
    // Its work is still done, when somebody waits for everything.
    stream->is_destroyed = true;
    if (stream->queue.empty())
      std::erase_if(runtime.streams, [&](const auto& each) { return each.get() == stream; });
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return api([&](Runtime& runtime) {
    CUstream_st* const stream = runtime.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t forbidden = runtime.forbid_in_capture(stream); forbidden != cudaSuccess) return forbidden;
    if (stream == runtime.streams[0].get())
      for (size_t i = 1; i < runtime.streams.size(); ++i)
        if (runtime.streams[i]->is_blocking) runtime.wait(simt::Mark(runtime.streams[i]->last));
    runtime.wait(stream);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return api([&](Runtime& runtime) {
    CUstream_st* const stream = runtime.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t forbidden = runtime.forbid_in_capture(stream); forbidden != cudaSuccess) return forbidden;
    if (stream->last == nullptr || stream->last->done) return cudaSuccess;
    runtime.step_towards(stream->last);  // time goes by, so that who asks again gets there
    return stream->last->done ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return api([](Runtime& runtime) {
    if (const cudaError_t forbidden = runtime.forbid_in_capture(); forbidden != cudaSuccess) return forbidden;
    runtime.wait_all();
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return api([&](Runtime& runtime) { return runtime.enqueue(stream, [=] { function(data); }); });
}

// --- Events ----------------------------------------------------------------------------------------------------------
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  return api([&](Runtime&) {
    if (event == nullptr) return cudaErrorInvalidValue;
    *event = new CUevent_st;
    (*event)->flags = flags;
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return api([&](Runtime&) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    delete event;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  return api([&](Runtime& runtime) {
    CUstream_st* const stream = runtime.stream(handle);
    if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture != nullptr) {
      event->capture = stream->capture;
      event->capture_after = stream->capture_after;
      return cudaSuccess;
    }
    event->capture = nullptr;
    const auto time = std::make_shared<std::chrono::steady_clock::time_point>();
    const cudaError_t error =
        runtime.enqueue(handle, [time] { *time = std::chrono::steady_clock::now(); });
    if (error != cudaSuccess) return error;
    event->time = time;
    event->mark = stream->last;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned int) {
  return api([&](Runtime& runtime) {
    CUstream_st* const stream = runtime.stream(handle);
    if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->capture != nullptr) {
      // The stream joins the capture, or waits for another branch of it.
      if (stream->capture != nullptr && stream->capture != event->capture) return cudaErrorStreamCaptureMerge;
      if (stream->capture == nullptr) {
        if (std::find(runtime.captures.begin(), runtime.captures.end(), event->capture) == runtime.captures.end())
          return cudaErrorCapturedEvent;
        stream->capture = event->capture;
        stream->capture->streams.push_back(stream);
        stream->capture_after.clear();
      }
      for (const size_t node : event->capture_after)
        if (std::find(stream->capture_after.begin(), stream->capture_after.end(), node) == stream->capture_after.end())
          stream->capture_after.push_back(node);
      return cudaSuccess;
    }
    if (stream->capture != nullptr) {
      stream->capture->valid = false;
      return cudaErrorStreamCaptureIsolation;  // work of a graph cannot wait for work outside
    }
    if (event->mark == nullptr || event->mark->done) return cudaSuccess;
    const simt::Mark waited = event->mark;
    const cudaError_t error = runtime.enqueue(handle, [] {});
    if (error == cudaSuccess && !stream->queue.empty()) stream->queue.back().after.push_back(waited);
    return error;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return api([&](Runtime& runtime) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->capture != nullptr) return cudaErrorCapturedEvent;
    runtime.wait(simt::Mark(event->mark));
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return api([&](Runtime& runtime) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->capture != nullptr) return cudaErrorCapturedEvent;
    if (event->mark == nullptr || event->mark->done) return cudaSuccess;
    runtime.step_towards(event->mark);
    return event->mark->done ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return api([&](Runtime&) {
    for (const CUevent_st* const event : {start, end}) {
      if (event == nullptr || event->mark == nullptr || (event->flags & cudaEventDisableTiming) != 0)
        return cudaErrorInvalidResourceHandle;
      if (!event->mark->done) return cudaErrorNotReady;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(*end->time - *start->time).count();
    return cudaSuccess;
  });
}
