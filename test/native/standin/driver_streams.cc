// Streams, events, capture and graphs.
#include <algorithm>

#include "driver_state.h"

using namespace standin;

namespace {

constexpr unsigned streamFlags = fastswitch::cuda::streamNonBlocking;
constexpr unsigned eventFlags = fastswitch::cuda::eventBlockingSync | fastswitch::cuda::eventDisableTiming;

bool graphOf(Call& call, Graph handle, GraphState** found) {
  for (const auto& one : machine().graphs) {
    if (reinterpret_cast<Graph>(one.get()) != handle || !one->alive) continue;
    *found = one.get();
    return true;
  }
  return call.refuse(invalidHandle, "no such graph");
}

bool execOf(Call& call, GraphExec handle, GraphExecState** found) {
  for (const auto& one : machine().execs) {
    if (reinterpret_cast<GraphExec>(one.get()) != handle || !one->alive) continue;
    *found = one.get();
    return true;
  }
  return call.refuse(invalidHandle, "no such executable graph");
}

void addAll(std::vector<size_t>* to, const std::vector<size_t>& from) {
  for (const size_t one : from) {
    if (std::find(to->begin(), to->end(), one) == to->end()) to->push_back(one);
  }
}

// Whether all nodes come before, or are, one of `tail`.
bool joined(const GraphState& graph, const std::vector<size_t>& tail) {
  std::vector<bool> reached(graph.nodes.size(), false);
  for (const size_t node : tail) reached[node] = true;
  for (size_t node = graph.nodes.size(); node-- > 0;) {
    if (!reached[node]) return false;
    for (const size_t before : graph.nodes[node].after) reached[before] = true;
  }
  return true;
}

// Some order of the nodes that their dependencies allow.
std::vector<size_t> anyOrder(const std::vector<GraphState::Node>& nodes) {
  std::vector<size_t> order;
  std::vector<size_t> missing;
  std::vector<size_t> free;
  std::vector<std::vector<size_t>> followers(nodes.size());
  for (size_t node = 0; node < nodes.size(); node++) {
    missing.push_back(nodes[node].after.size());
    for (const size_t before : nodes[node].after) followers[before].push_back(node);
    if (nodes[node].after.empty()) free.push_back(node);
  }
  while (!free.empty()) {
    std::swap(free[machine().pick(free.size())], free.back());
    const size_t node = free.back();
    free.pop_back();
    order.push_back(node);
    for (const size_t follower : followers[node]) {
      if (--missing[follower] == 0) free.push_back(follower);
    }
  }
  return order;
}

// Inside a capture only what was captured with it can be waited for.
bool waitCaptured(Call& call, StreamState& stream, const EventState& event) {
  if (event.capture == nullptr) return call.refuse(captureIsolation, "stream %d captures, event %d was recorded outside", stream.number, event.number);
  if (stream.capture != nullptr && stream.capture != event.capture) return call.refuse(captureIsolation, "two captures would meet");
  if (stream.capture == nullptr && !stream.queue.empty() && captures == 0) return call.refuse(captureIsolation, "a stream of another thread joins a capture");
  stream.capture = event.capture;
  addAll(&stream.tail, event.nodes);
  return true;
}

}  // namespace

extern "C" {

int cuStreamCreateWithPriority(Stream* stream, unsigned flags, int priority) {
  Call call("cuStreamCreateWithPriority", needsContext);
  if (!call.ready()) return call.result;
  if (flags != streamFlags) return call.refuse(invalidValue, "a stream that the null stream may block (flags %u)", flags), call.result;
  if (priority > 0 || priority < -5) return call.refuse(invalidValue, "priority %d", priority), call.result;
  auto fresh = std::make_unique<StreamState>();
  fresh->number = static_cast<int>(machine().streams.size()) + 1;
  fresh->device = currentDevice;
  fresh->mood = static_cast<Mood>(machine().pick(3));
  call.log("stream %d priority %d", fresh->number, priority);
  *stream = reinterpret_cast<Stream>(fresh.get());
  machine().streams.push_back(std::move(fresh));
  return success;
}

// What is on it still runs.
int cuStreamDestroy_v2(Stream stream) {
  Call call("cuStreamDestroy_v2", needsContext);
  StreamState* target = nullptr;
  if (!call.ready() || !call.stream(stream, &target)) return call.result;
  if (target->capture != nullptr) return call.refuse(invalidValue, "stream %d captures", target->number), call.result;
  call.log("stream %d", target->number);
  target->alive = false;
  return success;
}

int cuStreamWaitEvent(Stream stream, Event event, unsigned flags) {
  Call call("cuStreamWaitEvent", needsContext);
  StreamState* target = nullptr;
  EventState* awaited = nullptr;
  if (!call.ready() || !call.stream(stream, &target) || !call.event(event, &awaited)) return call.result;
  if (flags != 0) return call.refuse(invalidValue, "flags %u", flags), call.result;
  call.log("stream %d event %d", target->number, awaited->number);
  if (target->capture != nullptr || awaited->capture != nullptr) {
    waitCaptured(call, *target, *awaited);
    return call.result;
  }
  if (awaited->marker == nullptr) return success;
  Operation operation;
  operation.waits = awaited->marker;
  machine().enqueue(*target, std::move(operation));
  return success;
}

int cuEventCreate(Event* event, unsigned flags) {
  Call call("cuEventCreate", needsContext);
  if (!call.ready()) return call.result;
  if ((flags & ~eventFlags) != 0) return call.refuse(invalidValue, "flags %u", flags), call.result;
  auto fresh = std::make_unique<EventState>();
  fresh->number = static_cast<int>(machine().events.size()) + 1;
  fresh->device = currentDevice;
  fresh->timing = (flags & fastswitch::cuda::eventDisableTiming) == 0;
  call.log("event %d", fresh->number);
  *event = reinterpret_cast<Event>(fresh.get());
  machine().events.push_back(std::move(fresh));
  return success;
}

int cuEventDestroy_v2(Event event) {
  Call call("cuEventDestroy_v2", needsContext);
  EventState* target = nullptr;
  if (!call.ready() || !call.event(event, &target)) return call.result;
  call.log("event %d", target->number);
  target->alive = false;
  target->marker = nullptr;
  return success;
}

int cuEventRecord(Event event, Stream stream) {
  Call call("cuEventRecord", needsContext);
  StreamState* source = nullptr;
  EventState* target = nullptr;
  if (!call.ready() || !call.stream(stream, &source) || !call.event(event, &target)) return call.result;
  call.log("stream %d event %d", source->number, target->number);
  target->capture = source->capture;
  target->nodes = source->tail;
  target->marker = nullptr;
  if (source->capture != nullptr) return success;
  target->marker = std::make_shared<Marker>();
  target->marker->stream = source;
  Operation operation;
  operation.marks = target->marker;
  machine().enqueue(*source, std::move(operation));
  return success;
}

int cuEventSynchronize(Event event) {
  Call call("cuEventSynchronize", needsContext | notInCapture);
  EventState* target = nullptr;
  if (!call.ready() || !call.event(event, &target)) return call.result;
  if (target->capture != nullptr) return call.refuse(captureUnsupported, "event %d was recorded into a graph", target->number), call.result;
  call.log("event %d", target->number);
  // Held here as well: another thread's record would take it from the event.
  const std::shared_ptr<Marker> marker = target->marker;
  if (marker != nullptr) machine().force(marker);
  return success;
}

int cuEventElapsedTime(float* millis, Event from, Event to) {
  Call call("cuEventElapsedTime", needsContext | notInCapture);
  EventState* first = nullptr;
  EventState* last = nullptr;
  if (!call.ready() || !call.event(from, &first) || !call.event(to, &last)) return call.result;
  if (!first->timing || !last->timing) return call.refuse(invalidHandle, "an event without timing"), call.result;
  if (first->marker == nullptr || last->marker == nullptr) return call.refuse(invalidHandle, "an event that was not recorded"), call.result;
  if (!first->marker->done || !last->marker->done) return notReady;
  *millis = static_cast<float>((last->marker->seconds - first->marker->seconds) * 1000);
  return success;
}

int cuStreamBeginCapture_v2(Stream stream, int mode) {
  Call call("cuStreamBeginCapture_v2", needsContext);
  StreamState* target = nullptr;
  if (!call.ready() || !call.stream(stream, &target)) return call.result;
  if (mode != fastswitch::cuda::captureThreadLocal) return call.refuse(invalidValue, "mode %d would forbid other threads to copy", mode), call.result;
  if (target->capture != nullptr) return call.refuse(invalidValue, "stream %d captures already", target->number), call.result;
  call.log("stream %d", target->number);
  machine().graphs.push_back(std::make_unique<GraphState>());
  target->capture = machine().graphs.back().get();
  target->origin = true;
  target->capturer = std::this_thread::get_id();
  target->tail.clear();
  captures++;
  return success;
}

// Ends the capture also where it fails.
int cuStreamEndCapture(Stream stream, Graph* graph) {
  Call call("cuStreamEndCapture", needsContext);
  const int injected = call.result;
  StreamState* target = nullptr;
  if (!call.stream(stream, &target)) return call.result;
  if (target->capture == nullptr || !target->origin) return call.refuse(invalidValue, "no capture began on stream %d", target->number), call.result;
  if (target->capturer != std::this_thread::get_id()) return call.refuse(invalidValue, "another thread began this capture"), call.result;
  call.log("stream %d", target->number);
  GraphState* const captured = target->capture;
  const bool whole = joined(*captured, target->tail);
  for (const auto& one : machine().streams) {
    if (one->capture != captured) continue;
    one->capture = nullptr;
    one->origin = false;
    one->tail.clear();
  }
  captures--;
  captured->alive = injected == success && whole;
  if (injected != success) return injected;
  if (!whole) return call.refuse(captureUnjoined, "work of another stream was not joined"), call.result;
  *graph = reinterpret_cast<Graph>(captured);
  return success;
}

int cuGraphInstantiateWithFlags(GraphExec* exec, Graph graph, unsigned long long flags) {
  Call call("cuGraphInstantiateWithFlags", needsContext);
  GraphState* source = nullptr;
  if (!call.ready() || !graphOf(call, graph, &source)) return call.result;
  if (flags != 0) return call.refuse(invalidValue, "flags %llu", flags), call.result;
  call.log("nodes %zu", source->nodes.size());
  auto fresh = std::make_unique<GraphExecState>();
  fresh->device = currentDevice;
  fresh->nodes = source->nodes;
  *exec = reinterpret_cast<GraphExec>(fresh.get());
  machine().execs.push_back(std::move(fresh));
  return success;
}

int cuGraphDestroy(Graph graph) {
  Call call("cuGraphDestroy", needsContext);
  GraphState* target = nullptr;
  if (!call.ready() || !graphOf(call, graph, &target)) return call.result;
  call.log();
  target->alive = false;
  target->nodes.clear();
  return success;
}

int cuGraphExecDestroy(GraphExec exec) {
  Call call("cuGraphExecDestroy", needsContext);
  GraphExecState* target = nullptr;
  if (!call.ready() || !execOf(call, exec, &target)) return call.result;
  call.log();
  target->alive = false;
  target->nodes.clear();
  return success;
}

int cuGraphLaunch(GraphExec exec, Stream stream) {
  Call call("cuGraphLaunch", needsContext | notInCapture);
  GraphExecState* source = nullptr;
  StreamState* target = nullptr;
  if (!call.ready() || !execOf(call, exec, &source) || !call.stream(stream, &target)) return call.result;
  if (source->device != currentDevice) return call.refuse(invalidContext, "a graph of device %d", source->device), call.result;
  call.log("stream %d nodes %zu", target->number, source->nodes.size());
  Operation operation;
  operation.waits = source->last;
  for (const size_t node : anyOrder(source->nodes)) {
    for (const Part& part : source->nodes[node].parts) operation.parts.push_back(part);
  }
  operation.marks = std::make_shared<Marker>();
  operation.marks->stream = target;
  source->last = operation.marks;
  machine().enqueue(*target, std::move(operation));
  return success;
}

}  // extern "C"
