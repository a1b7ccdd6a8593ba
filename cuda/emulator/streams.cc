// Streams, events and graphs of runtime.h.
#include <utility>

#include "cuda/emulator/device.h"
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/runtime.h"

using namespace cuda_emulator;

namespace {

constexpr const char* kNoStream = "no such stream";
constexpr const char* kNoEvent = "no such event";
constexpr const char* kNotInCapture = "a stream captures, and waiting cannot be part of a graph";

bool is_event(cudaEvent_t event) { return device().events.contains(event); }

}  // namespace

// --- streams

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  const Call call({.call = "cudaStreamCreateWithFlags"});
  *out = new CUstream_st;
  (*out)->blocking = (flags & cudaStreamNonBlocking) == 0;
  device().streams.insert(*out);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Call call({.call = "cudaStreamDestroy"});
  CUstream_st* const s = of(stream);
  if (s == nullptr || stream == nullptr) {
    return call.refuse(cudaErrorInvalidResourceHandle, kNoStream);
  }
  finish(*s);
  device().streams.erase(s);
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Call call({.call = "cudaStreamSynchronize", .waits = true});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return call.refuse(cudaErrorInvalidResourceHandle, kNoStream);
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  finish(*s);
  return cudaSuccess;
}

// --- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  const Call call({.call = "cudaEventCreateWithFlags"});
  *out = new CUevent_st;
  device().events.insert(*out);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Call call({.call = "cudaEventDestroy"});
  if (device().events.erase(event) == 0) {
    return call.refuse(cudaErrorInvalidResourceHandle, kNoEvent);
  }
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Call call({.call = "cudaEventRecord"});
  CUstream_st* const s = of(stream);
  if (s == nullptr || !is_event(event)) {
    return call.refuse(cudaErrorInvalidResourceHandle, s == nullptr ? kNoStream : kNoEvent);
  }
  const auto state = event->state;
  if (s->capture == nullptr) {
    state->stream = s;
    ++state->recorded;
  }
  give(*s, [state, which = state->recorded] { state->done = which; });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Call call({.call = "cudaEventQuery"});
  if (!is_event(event)) return call.refuse(cudaErrorInvalidResourceHandle, kNoEvent);
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  return event->state->done == event->state->recorded ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Call call({.call = "cudaEventSynchronize", .waits = true});
  if (!is_event(event)) return call.refuse(cudaErrorInvalidResourceHandle, kNoEvent);
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  const CUevent_st::State& state = *event->state;
  if (state.done == state.recorded || of(state.stream) == nullptr) return cudaSuccess;
  // No more than what it waits for.
  while (state.done != state.recorded && !state.stream->queue.empty()) {
    const Work work = std::move(state.stream->queue.front());
    state.stream->queue.pop_front();
    work();
  }
  return cudaSuccess;
}

// --- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Call call({.call = "cudaStreamBeginCapture"});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return call.refuse(cudaErrorInvalidResourceHandle, kNoStream);
  if (stream == nullptr || s->capture != nullptr) {
    return call.refuse(cudaErrorStreamCaptureUnsupported,
                       stream == nullptr ? "the default stream cannot be captured"
                                         : "the stream captures already");
  }
  s->capture = std::make_unique<CUgraph_st>();
  s->invalid = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  const Call call({.call = "cudaStreamEndCapture"});
  *out = nullptr;
  CUstream_st* const s = of(stream);
  if (s == nullptr) return call.refuse(cudaErrorInvalidResourceHandle, kNoStream);
  if (s->capture == nullptr) {
    return call.refuse(cudaErrorStreamCaptureUnmatched, "the stream does not capture");
  }
  std::unique_ptr<CUgraph_st> graph = std::move(s->capture);
  if (s->invalid) {
    return call.refuse(cudaErrorStreamCaptureInvalidated,
                       "a call that cannot be part of a graph was made during the capture");
  }
  *out = graph.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  const Call call({.call = "cudaGraphInstantiate"});
  *out = nullptr;
  if (graph == nullptr) return call.refuse(cudaErrorInvalidValue, "the graph is null");
  *out = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  const Call call({.call = "cudaGraphLaunch"});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return call.refuse(cudaErrorInvalidResourceHandle, kNoStream);
  if (graph == nullptr) return call.refuse(cudaErrorInvalidValue, "the graph is null");
  for (const Work& work : graph->work) give(*s, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Call call({.call = "cudaGraphDestroy"});
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  const Call call({.call = "cudaGraphExecDestroy"});
  delete graph;
  return cudaSuccess;
}
