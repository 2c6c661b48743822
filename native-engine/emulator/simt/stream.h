// Streams, events and captures behind their handles; internal to the emulator. A stream is a queue of work; work is done in
// order within a stream, and after what it names of other streams. In eager mode nothing is ever queued. One lock guards all
// of it: calls of several host threads follow each other.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "simt/control.h"

namespace simt {

// Whether a piece of work is done; kept by those who come after it.
struct Progress {
  bool done = false;
};
using Mark = std::shared_ptr<Progress>;

struct Work {
  std::function<void()> run;
  std::vector<Mark> after;
  Mark mark;
};

struct GraphNode {
  std::function<void()> run;
  std::vector<size_t> after;  // earlier nodes
};

struct Capture {
  std::vector<GraphNode> nodes;
  CUstream_st* origin = nullptr;
  std::vector<CUstream_st*> streams;  // the origin, and those that joined by an event
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool valid = true;
};

class Runtime {
 public:
  static Runtime& instance();

  std::recursive_mutex mutex;

  // Of the handle, nullptr being the legacy default stream; nullptr: there is no such stream.
  CUstream_st* stream(cudaStream_t handle);
  // The work is done now, queued, or becomes a node of a graph.
  cudaError_t enqueue(cudaStream_t handle, std::function<void()> run, bool may_capture = true);
  // Until the mark is done, the stream or everything empty.
  void wait(const Mark& mark);
  void wait(CUstream_st* stream);
  void wait_all();
  // One piece of work of any stream; false: there is none that may run.
  bool step();
  // The same, for somebody who waits for the mark: where streams are late, one that the mark cannot be done without.
  bool step_towards(const Mark& mark);
  // Whether a call that waits or allocates may be made; a capture that forbids it ends.
  cudaError_t forbid_in_capture(const CUstream_st* stream = nullptr);
  uint64_t random();

  // What every call begins with: the injected or the sticky error.
  cudaError_t begin_call();
  // What it ends with: remembered for cudaGetLastError.
  cudaError_t end_call(cudaError_t error);

  Streams mode = Streams::eager;
  uint64_t seed = 0;
  std::vector<std::unique_ptr<CUstream_st>> streams;  // [0] is the legacy default stream
  std::vector<std::shared_ptr<Capture>> captures;     // under way
  cudaError_t sticky = cudaSuccess;
  std::optional<std::pair<cudaError_t, uint64_t>> injected;  // after so many calls

 private:
  Runtime();
  bool ready(const CUstream_st& stream) const;
  void run_front(CUstream_st* stream);
  uint64_t random_ = 0;
};

// The calls' frame: lock, injected and sticky errors, the last error.
template <class F>
cudaError_t api(F f) {
  Runtime& runtime = Runtime::instance();
  const std::lock_guard lock(runtime.mutex);
  const cudaError_t before = runtime.begin_call();
  return runtime.end_call(before != cudaSuccess ? before : f(runtime));
}

}  // namespace simt

struct CUstream_st {
  std::deque<simt::Work> queue;
  simt::Mark last;  // of what was enqueued last
  bool is_blocking = true;
  bool is_destroyed = false;
  int device = 0;
  std::shared_ptr<simt::Capture> capture;
  std::vector<size_t> capture_after;  // the nodes that the next one follows
};

struct CUevent_st {
  simt::Mark mark;  // nullptr: never recorded
  unsigned int flags = 0;
  std::shared_ptr<std::chrono::steady_clock::time_point> time;
  std::shared_ptr<simt::Capture> capture;  // recorded while capturing
  std::vector<size_t> capture_after;
};

struct CUgraph_st {
  std::vector<simt::GraphNode> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<simt::GraphNode>> nodes;  // shared with launches under way
};
