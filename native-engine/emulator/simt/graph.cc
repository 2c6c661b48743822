// Graphs by stream capture: closures in a partial order. A launch runs them one after another; the order among those that do not
// depend on each other is that of the capture, or drawn from the seed where streams are lazy.
#include <algorithm>

#include "simt/report.h"
#include "simt/stream.h"

using simt::api;
using simt::Runtime;

namespace {
void run_nodes(const std::vector<simt::GraphNode>& nodes, Runtime& runtime) {
  if (runtime.mode == simt::Streams::eager) {
    for (const simt::GraphNode& node : nodes) node.run();
    return;
  }
  std::vector<bool> done(nodes.size(), false);
  for (size_t ran = 0; ran < nodes.size(); ++ran) {
    std::vector<size_t> able;
    for (size_t i = 0; i < nodes.size(); ++i)
      if (!done[i] && std::all_of(nodes[i].after.begin(), nodes[i].after.end(), [&](size_t node) { return done[node]; }))
        able.push_back(i);
    const size_t chosen = able[runtime.random() % able.size()];
    nodes[chosen].run();
    done[chosen] = true;
  }
}

void end_capture(Runtime& runtime, const std::shared_ptr<simt::Capture>& capture) {
  for (const auto& stream : runtime.streams) {
    if (stream->capture != capture) continue;
    stream->capture = nullptr;
    stream->capture_after.clear();
  }
  std::erase(runtime.captures, capture);
}
}  // namespace

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return api([&](Runtime& runtime) {
    CUstream_st* const stream = runtime.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream == runtime.streams[0].get()) {
      simt::note("the default stream cannot be captured");
      return cudaErrorStreamCaptureUnsupported;
    }
    if (stream->capture != nullptr) return cudaErrorStreamCaptureUnsupported;
    stream->capture = std::make_shared<simt::Capture>();
    stream->capture->origin = stream;
    stream->capture->streams = {stream};
    stream->capture->mode = mode;
    stream->capture_after.clear();
    runtime.captures.push_back(stream->capture);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return api([&](Runtime& runtime) {
    CUstream_st* const stream = runtime.stream(handle);
    if (stream == nullptr || graph == nullptr) return cudaErrorInvalidValue;
    *graph = nullptr;
    const std::shared_ptr<simt::Capture> capture = stream->capture;
    if (capture == nullptr) return cudaErrorInvalidValue;
    if (capture->origin != stream) return cudaErrorStreamCaptureUnmatched;
    // Every node must lead to what the origin does last.
    std::vector<bool> leads(capture->nodes.size(), false);
    for (const size_t node : stream->capture_after) leads[node] = true;
    for (size_t i = capture->nodes.size(); i-- > 0;)
      if (leads[i])
        for (const size_t earlier : capture->nodes[i].after) leads[earlier] = true;
    const bool joined = std::all_of(leads.begin(), leads.end(), [](bool each) { return each; });
    const bool valid = capture->valid;
    end_capture(runtime, capture);
    if (!valid) return cudaErrorStreamCaptureInvalidated;
    if (!joined) {
      simt::note("a stream that joined the capture was not waited for by its origin");
      return cudaErrorStreamCaptureUnjoined;
    }
    *graph = new CUgraph_st{std::move(capture->nodes)};
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return api([&](Runtime& runtime) {
    const CUstream_st* const stream = runtime.stream(handle);
    if (stream == nullptr || status == nullptr) return cudaErrorInvalidValue;
    *status = stream->capture == nullptr ? cudaStreamCaptureStatusNone
              : stream->capture->valid   ? cudaStreamCaptureStatusActive
                                         : cudaStreamCaptureStatusInvalidated;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return api([&](Runtime& runtime) {
    if (executable == nullptr || graph == nullptr) return cudaErrorInvalidValue;
    if (const cudaError_t forbidden = runtime.forbid_in_capture(); forbidden != cudaSuccess) return forbidden;
    *executable = new CUgraphExec_st{std::make_shared<const std::vector<simt::GraphNode>>(graph->nodes)};
    return cudaSuccess;
  });
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* result) {
  return api([&](Runtime&) {
    if (executable == nullptr || graph == nullptr) return cudaErrorInvalidValue;
    const bool same = std::equal(executable->nodes->begin(), executable->nodes->end(), graph->nodes.begin(),
                                 graph->nodes.end(), [](const simt::GraphNode& a, const simt::GraphNode& b) {
                                   return a.after == b.after;
                                 });
    if (result != nullptr)
      *result = {same ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged, nullptr, nullptr};
    if (!same) return cudaErrorInvalidValue;
    executable->nodes = std::make_shared<const std::vector<simt::GraphNode>>(graph->nodes);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t) {
  return api([&](Runtime&) { return executable == nullptr ? cudaErrorInvalidValue : cudaSuccess; });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return api([&](Runtime& runtime) {
    if (executable == nullptr) return cudaErrorInvalidValue;
    // The executable may be destroyed or updated before the work is done.
    return runtime.enqueue(
        stream, [nodes = executable->nodes, &runtime] { run_nodes(*nodes, runtime); }, false);
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return api([&](Runtime&) {
    delete executable;
    return cudaSuccess;
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return api([&](Runtime&) {
    delete graph;
    return cudaSuccess;
  });
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return api([&](Runtime&) {
    if (graph == nullptr || count == nullptr || nodes != nullptr) return cudaErrorInvalidValue;  // the count alone
    *count = graph->nodes.size();
    return cudaSuccess;
  });
}
