#include "graphs.h"

#include <algorithm>

namespace fastswitch::cuda {

namespace {
// A graph of a large model takes about a megabyte.
constexpr size_t entriesMax = 128;
}  // namespace

int roundedSize(int size) {
  int power = 1;
  while (power < size) power *= 2;
  return power >= 16 && size <= power / 4 * 3 ? power / 4 * 3 : power;
}

GraphExec Graphs::find(const StepShape& shape, Address arena, Stream stream, const std::function<Status()>& issue) {
  const Key key{shape, arena};
  const auto known = entries_.find(key);
  if (known == entries_.end()) {
    makeRoom();
    entries_[key].used = ++uses_;
    return nullptr;
  }
  Entry& entry = known->second;
  entry.used = ++uses_;
  if (entry.graph == nullptr && capture(stream, issue, &entry.graph) != Status::ok) {
    wanted_ = false;
    problem_ = lastMessage();
    clear();
    return nullptr;
  }
  return entry.graph;
}

Status Graphs::capture(Stream stream, const std::function<Status()>& issue, GraphExec* exec) {
  const Driver& driver = gpu_->driver();
  Status status = check(driver.captureBegin(stream, captureThreadLocal), "cuStreamBeginCapture_v2");
  if (status != Status::ok) return status;
  status = issue();
  const std::string cause = status == Status::ok ? "" : lastMessage();
  // Ends the capture in any case: until then the stream runs nothing.
  Graph graph = nullptr;
  const Status ended = check(driver.captureEnd(stream, &graph), "cuStreamEndCapture");
  if (status != Status::ok) fail(status, "%s", cause.c_str());
  if (status == Status::ok) status = ended;
  if (status == Status::ok) status = check(driver.graphInstantiate(exec, graph, 0), "cuGraphInstantiateWithFlags");
  if (status != Status::ok) *exec = nullptr;
  if (graph != nullptr) driver.graphDestroy(graph);
  return status;
}

void Graphs::makeRoom() {
  if (entries_.size() < entriesMax) return;
  const auto oldest = std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
  if (oldest->second.graph != nullptr) gpu_->driver().graphExecDestroy(oldest->second.graph);
  entries_.erase(oldest);
}

void Graphs::clear() {
  for (auto& [key, entry] : entries_) {
    if (entry.graph != nullptr && gpu_->enter() == Status::ok) gpu_->driver().graphExecDestroy(entry.graph);
  }
  entries_.clear();
}

}  // namespace fastswitch::cuda
