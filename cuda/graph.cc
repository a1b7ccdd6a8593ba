#include "cuda/graph.h"

#include <memory>

#include "cuda/device.h"
#include "cuda/stream.h"

namespace moegrad::cuda {

struct Graph {
  cudaGraphExec_t executable = nullptr;
  Rng rng;                         // of the recording
  std::uint64_t* moved = nullptr;  // on the device; see Generator
};

namespace {

// The graph that this thread records.
Graph*& current() {
  static thread_local Graph* graph = nullptr;
  return graph;
}

// Null where the capture was spoilt. From here on the stream is everybody's.
cudaError_t end_capture(cudaGraph_t& recorded) {
  current() = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream(), &recorded);
  unlock_stream();
  return error;
}

}  // namespace

void drop(Graph* graph) {
  if (graph == nullptr) return;
  // Of errors nothing more can be said here: a later call meets them.
  if (graph->moved != nullptr) give(reinterpret_cast<std::byte*>(graph->moved));  // waits for it
  if (graph->executable != nullptr) cudaGraphExecDestroy(graph->executable);
  delete graph;
}

void begin_recording(const Rng& rng) {
  std::unique_ptr<Graph, void (*)(Graph*)> graph(new Graph{.rng = rng}, drop);
  graph->moved = reinterpret_cast<std::uint64_t*>(take(sizeof *graph->moved));
  if (graph->moved == nullptr) {
    fail("graph", "{}, which leaves none for a graph. Use a smaller batch.", memory_text());
  }
  lock_stream();
  const cudaError_t error = cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) unlock_stream();
  require(error, "graph");
  current() = graph.release();
}

Graph* end_recording() {
  Graph* const graph = current();
  cudaGraph_t recorded = nullptr;
  cudaError_t error = end_capture(recorded);
  if (error == cudaSuccess) error = cudaGraphInstantiate(&graph->executable, recorded, 0);
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  if (error != cudaSuccess) drop(graph);
  require(error, "graph");
  return graph;
}

void abandon_recording() {
  Graph* const graph = current();
  if (graph == nullptr) return;
  cudaGraph_t recorded = nullptr;
  end_capture(recorded);
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  cudaGetLastError();
  drop(graph);
}

bool recording() { return current() != nullptr; }

void replay(const Graph& graph, const Rng& rng) {
  if (rng.seed != graph.rng.seed || rng.position != graph.rng.position) {
    fail("graph",
         "a generator of seed {} at {}, where seed {} at {} was recorded. Change its stream alone.",
         rng.seed, rng.position, graph.rng.seed, graph.rng.position);
  }
  const std::uint64_t moved = rng.stream - graph.rng.stream;
  upload(reinterpret_cast<const std::byte*>(&moved), sizeof moved, graph.moved);
  note_launch("a recorded step");
  require(cudaGraphLaunch(graph.executable, stream()), "graph");
}

Generator generator(const Rng& rng) {
  const Graph* const graph = current();
  const bool moves =
      graph != nullptr && rng.seed == graph->rng.seed && rng.stream == graph->rng.stream;
  return {rng, moves ? graph->moved : nullptr};
}

void require_no_recording(const char* does) {
  if (recording()) {
    fail("graph",
         "the host {} in work that is recorded to be replayed without it. Leave that out, or do "
         "not record.",
         does);
  }
}

}  // namespace moegrad::cuda
